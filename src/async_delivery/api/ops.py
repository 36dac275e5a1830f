"""What operators ask: metrics, signals, readiness. Everybody's, as they carry numbers and no tenant's data."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from async_delivery.api.context import Here
from async_delivery.ops.health import ready
from async_delivery.ops.metrics import CONTENT_TYPE
from async_delivery.ops.observer import Observer


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
    observer, role = here.api.observer, here.api.settings.role
    status, content = await here.api.run(lambda: ready_content(observer, role))
    return here.json(content, status)


def ready_content(observer: Observer, role: str) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer. May ask the store."""
    checks = observer.readiness()
    well = ready(checks)
    content = {"ok": well, "role": role, "checks": [check.to_json() for check in checks]}
    return (200 if well else 503), content
