"""All that observes one serving process, in one place: metrics, signals, readiness.

Built by ``wiring``, asked by ``api``. It only looks; the one thing it writes is the probe of readiness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from prometheus_client.core import GaugeMetricFamily, Metric

from async_delivery import telemetry
from async_delivery.domain.cleanup import Pause
from async_delivery.domain.reserve import Reserve
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.signal import Signal
from async_delivery.engine.runtime import Runtime
from async_delivery.ops import health
from async_delivery.ops.health import Check, WorkerState, WriteProbe
from async_delivery.ops.metrics import Metrics
from async_delivery.ops.signals import measure
from async_delivery.ops.stock import Looker, StockCollector


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverSettings:
    """What an observer must be told.

    version                    of the program, for the build info
    retention                  the TTLs of this server's own cleanups
    cleanup_interval_seconds   between two scheduled cleanups; 0 if there are none
    max_queued_seconds         how long the oldest queued job may wait while the process counts as ready
    min_free_bytes             where the store is, for the process to count as ready
    store_folder               for its free space; None where the store is elsewhere
    schema_revision            that this version wants; None to take what there is
    reserve                    asks for the reserve of the store; None where it keeps none
    """

    version: str
    retention: RetentionPolicy
    cleanup_interval_seconds: float = 0.0
    max_queued_seconds: float = 900.0
    min_free_bytes: int = 67_108_864
    store_folder: Path | None = None
    schema_revision: str | None = None
    reserve: Callable[[], Reserve] | None = None


class Observer:
    """Attach it once, before the first request; detach by calling what ``attach`` returned.

    worker     how the worker of this process is; None without workers
    draining   True once the process is about to stop
    routes     (template, method) of every route, for the zeros of the counters
    """

    def __init__(
        self,
        rt: Runtime,
        settings: ObserverSettings,
        *,
        worker: Callable[[], WorkerState] | None,
        draining: Callable[[], bool],
        routes: Iterable[tuple[str, str]] = (),
        chores: Iterable[str] = (),
    ) -> None:
        self._rt, self._settings = rt, settings
        self._worker, self._draining = worker, draining
        names = rt.catalogue.names()
        self._metrics = Metrics(settings.version, routes=routes, analyses=names, chores=chores)
        self._looker = Looker(rt, settings.retention, settings.store_folder)
        self._probe = WriteProbe(rt)
        registry = self._metrics.registry
        registry.register(StockCollector(self._looker, names, settings.cleanup_interval_seconds))
        registry.register(_WorkerCollector(worker))

    def attach(self) -> Callable[[], None]:
        """Hear telemetry from now on. Returns detach."""
        return telemetry.attach(self._metrics.hear)

    def expose(self) -> bytes:
        """The metrics in Prometheus' text format. May ask the store, so not for an event loop."""
        return self._metrics.expose()

    def signals(self) -> list[Signal]:
        """The signals now. May ask the store."""
        return measure(self._metrics.window, self._looker.look(), monotonic(), self._rt.clock.now())

    def pause(self) -> Pause | None:
        """The pause of cleanups, as the last look saw it. May ask the store."""
        look = self._looker.look()
        return look.pause if look else None

    def readiness(self) -> list[Check]:
        """Every check. Writes a small row now and then, and may take PROBE_TIMEOUT_SECONDS."""
        look = self._looker.look()
        settings = self._settings
        reserve = [health.check_reserve(settings.reserve())] if settings.reserve else []
        return [
            health.check_store(self._probe),
            health.check_schema(look, settings.schema_revision),
            health.check_worker(self._worker),
            health.check_queue(look, settings.max_queued_seconds),
            health.check_draining(self._draining()),
            health.check_disk(look, settings.min_free_bytes),
            *reserve,
            health.check_pause(look),
        ]


class _WorkerCollector:
    """The worker's gauges; slots are 0 and the age is absent in a process without workers."""

    def __init__(self, state: Callable[[], WorkerState] | None) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Nothing to say ahead."""
        return []

    def collect(self) -> Iterator[Metric]:
        """As the worker is now."""
        now = self._state() if self._state else None
        slots = GaugeMetricFamily(
            "async_worker_slots", "Attempts that can run and that do.", labels=["state"]
        )
        slots.add_metric(["idle"], now.slots - now.busy if now else 0)
        slots.add_metric(["busy"], now.busy if now else 0)
        yield slots
        if now is not None:
            text = "Since the slowest loop of the worker last turned."
            yield GaugeMetricFamily("async_worker_loop_age_seconds", text, value=now.loop_age_seconds)
