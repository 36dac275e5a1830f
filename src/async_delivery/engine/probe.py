"""Whether the store can be written, found out by writing: one small row, through the same writer as everything."""

from __future__ import annotations

from concurrent.futures import Future

from async_delivery.engine.runtime import Runtime


def probe_write(rt: Runtime) -> Future[None]:
    """Write it; done after the commit, or with the error that every write would meet now."""
    now = rt.clock.now()
    return rt.store.write_soon(lambda tx: tx.probe(now))
