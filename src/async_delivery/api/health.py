"""Whether the process is up. Whether it can do its work is another question, for another route."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Here

SERVICE = "async-delivery"


async def health(request: Request) -> Response:
    """200 as long as the process answers."""
    here = Here(request)
    return here.json(
        {
            "service": SERVICE,
            "version": here.api.settings.version,
            "ts": wire.instant(here.api.rt.clock.now()),
            # A store in trouble is no fault here: restarting the process would not mend it.
            "durability": here.api.rt.store.durability,
        }
    )
