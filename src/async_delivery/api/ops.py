"""What operators ask: metrics, signals, readiness. Everybody's, as they carry numbers and no tenant's data."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from async_delivery.api.context import Here
from async_delivery.ops.health import ready
from async_delivery.ops.metrics import CONTENT_TYPE


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    here = Here(request)
    body = await here.api.run(here.api.observer.expose)
    return Response(body, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})


async def signals(request: Request) -> Response:
    """The five signals of the runbook, with their levels and thresholds."""
    here = Here(request)
    observer = here.api.observer
    found = await here.api.run(observer.signals)
    pause = await here.api.run(observer.pause)
    return here.json(
        {
            "signals": [signal.to_json() for signal in found],
            "cleanup_pause": pause.to_json() if pause else None,
        }
    )


async def health_ready(request: Request) -> Response:
    """200 if this process can do its work, else 503; the body lists every check."""
    here = Here(request)
    checks = await here.api.run(here.api.observer.readiness)
    well = ready(checks)
    return here.json(
        {"ok": well, "checks": [check.to_json() for check in checks]}, status=200 if well else 503
    )
