"""The analyses on offer, as descriptions."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Here


async def list_analyses(request: Request) -> Response:
    """Every analysis with its title, version, limits and the JSON Schema of its params."""
    here = Here(request)
    rt = here.api.rt
    return here.json(
        {
            "analyses": [wire.analysis_object(info) for info in rt.catalogue],
            "default_analysis": rt.policy.default_analysis,
        }
    )


async def show_analysis(request: Request, name: str) -> Response:
    """One analysis."""
    here = Here(request)
    return here.json({"analysis": wire.analysis_object(here.api.rt.catalogue.get(name))})
