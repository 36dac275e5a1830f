"""The part of a worker that runs attempts on Ray: slots of its own, so that neither kind takes the other's place.

An attempt that waits for a device of the cluster holds a slot; children go on beside it. Imports engine and domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from async_delivery.domain.placement import Executor
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.ahead import Line
from async_delivery.worker.bell import Bell
from async_delivery.worker.complaints import Complaints
from async_delivery.worker.floor import Floor
from async_delivery.worker.forkserver import ForkServer
from async_delivery.worker.limits import WorkerSettings
from async_delivery.worker.ray_executor import RayExecutor
from async_delivery.worker.slot import Slot

# A task that was cut off from its worker, by a network that fell apart, goes on at most so long beyond its deadline.
_OVERDUE_SECONDS = 30.0


class RaySlots:
    """As many as the worker has slots for children."""

    def __init__(self, rt: Runtime, settings: WorkerSettings, names: Sequence[str]) -> None:
        self._rt = rt
        self._settings = settings
        self._names = list(names)
        self._executor: RayExecutor | None = None
        self.bell = Bell(settings.poll_seconds, rt.jitter)

    def start(self, floor: Floor, server: ForkServer) -> list[Slot]:
        """The slots, whose threads are the caller's to start; the bridge to Ray comes up meanwhile."""
        settings = self._settings
        self._executor = RayExecutor(
            server,
            {name: self._rt.catalogue.get(name).source for name in self._names},
            settings.ray_address,
            kill_seconds=settings.kill_grace_seconds,
            overdue_seconds=settings.cancel_grace_seconds + settings.kill_grace_seconds + _OVERDUE_SECONDS,
        )
        self._executor.start()
        own = replace(
            floor,
            source=self._executor,
            bell=self.bell,
            line=Line(),
            claims=self._names,
            claim_failed=Complaints("claim.failed"),
        )
        return [Slot(own) for _ in range(settings.slots)]

    def others(self, claims: Sequence[str] | None) -> list[str]:
        """What the slots for children take: of ``claims`` (None: all there is), what does not run on Ray."""
        if claims is None:
            # Also what is not installed any more: somebody must take those jobs and say so.
            now = self._rt.clock.now()
            stock = self._rt.store.read(lambda reader: reader.stock(now, now))
            waiting = {analysis for status, analysis in stock.jobs if not status.terminal}
            claims = list(dict.fromkeys([*self._rt.catalogue.names(), *sorted(waiting)]))
        return [name for name in claims if name not in self._names]

    def close(self) -> None:
        """End the bridge, and a Ray that it started. Idempotent."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def ray_slots(rt: Runtime, settings: WorkerSettings) -> RaySlots | None:
    """The slots for the analyses of the catalogue that run on Ray; None if there is none that this worker takes."""
    takes = None if rt.store.exclusive else settings.takes
    names = [
        info.name
        for info in rt.catalogue
        if info.executor is Executor.RAY and info.available and (takes is None or info.name in takes)
    ]
    return RaySlots(rt, settings, names) if names else None


def without_ray(rt: Runtime) -> list[str]:
    """Names of the analyses that need Ray where it is not installed, so that a worker can say so when it starts."""
    return [info.name for info in rt.catalogue if info.executor is Executor.RAY and not info.available]
