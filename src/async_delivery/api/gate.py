"""The way in and the way out that every request takes: who asks, and what is told of the answer."""

from __future__ import annotations

from time import perf_counter

from async_delivery import telemetry
from async_delivery.api.access import refuse_other_sites, tenant
from async_delivery.api.context import Api
from async_delivery.api.request import Call


def admit(api: Api, call: Call, client: tuple[str, int] | None) -> None:
    """Find the tenant, and count the request. Raises what becomes 400, 403 and 429."""
    api.peers.check(client)
    call.org_id = tenant(call)
    refuse_other_sites(call)
    if api.rate is not None:
        api.rate.take(call.org_id)


def tell(call: Call, route: str, status: int, size: int) -> None:
    """Let the observers hear of an answer of ``size`` bytes; ``route`` is its template, ``""`` without one."""
    ended = perf_counter()
    telemetry.emit(
        "http.answered",
        at=ended,
        route=route,
        method=call.method,
        status=status,
        seconds=ended - call.started,
        bytes=size,
        request_id=call.request_id,
        correlation_id=call.correlated,
        org_id=call.org_id,
        job=call.made,
        traceparent=call.headers.get(b"traceparent"),
    )
