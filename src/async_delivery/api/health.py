"""Whether the process is up. Whether it can do its work is another question, for another route."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Here
from async_delivery.engine.runtime import Runtime

SERVICE = "async-delivery"


async def health(request: Request) -> Response:
    """200 as long as the process answers."""
    here = Here(request)
    return here.json(health_content(here.api.rt, here.api.settings.version))


def health_content(rt: Runtime, version: str) -> dict[str, Any]:
    """What a process says of itself while it is up. Asks no store."""
    return {
        "service": SERVICE,
        "version": version,
        "ts": wire.instant(rt.clock.now()),
        # A store in trouble is no fault here: restarting the process would not mend it.
        "durability": rt.store.durability,
    }
