"""Whether the process is up. Whether it can do its work is another question, for another route."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Here
from async_delivery.domain.errors import AsyncDeliveryError

SERVICE = "async-delivery"


async def health(request: Request) -> Response:
    """200 as long as the process answers."""
    here = Here(request)
    try:
        durability = await here.api.durability()
    except AsyncDeliveryError:
        # A store in trouble is not this route's to report: restarting the process would not mend it.
        durability = "unknown"
    return here.json(
        {
            "service": SERVICE,
            "version": here.api.settings.version,
            "ts": wire.instant(here.api.rt.clock.now()),
            "durability": durability,
        }
    )
