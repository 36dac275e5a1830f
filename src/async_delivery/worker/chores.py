"""What a server does besides serving: chores of one shape, ``run_once(rt, now) -> report``, at intervals.

The loop, the command line and the tests call the same functions. Imports engine, telemetry and domain.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from async_delivery import telemetry
from async_delivery.engine import rescue
from async_delivery.engine.runtime import Runtime

_PRUNE_BATCH = 500
_PRUNE_SECONDS = 3_600.0
_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done again and again. ``run_once`` is the whole of it; its report is any plain value."""

    name: str
    interval_seconds: float
    run_once: Callable[[Runtime, datetime], object]


@dataclass(frozen=True, slots=True)
class RescueReport:
    """Jobs that were taken back from workers that are gone."""

    rescued: int


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What nobody can ask for any more and was deleted, by kind."""

    pruned: Mapping[str, int]


def rescue_chore(rt: Runtime, alive: Callable[[], Sequence[str]]) -> Chore:
    """Take jobs back from lost workers. ``alive`` gives the worker ids of this process."""

    def run_once(rt: Runtime, now: datetime) -> RescueReport:
        return RescueReport(len(rescue.rescue(rt, alive())))

    # A lease that has just ended is found after half a lease at the latest.
    return Chore("rescue", rt.policy.lease_seconds / 2, run_once)


def prune(rt: Runtime, now: datetime) -> PruneReport:
    """Delete expired idempotency keys and uploads that no job names, in small transactions."""
    counts: Counter[str] = Counter()
    while True:
        batch = rt.store.write(lambda tx: dict(tx.prune(now, _PRUNE_BATCH)))
        counts.update(batch)
        if max(batch.values(), default=0) < _PRUNE_BATCH:
            return PruneReport(dict(counts))


def prune_chore() -> Chore:
    """``prune``, hourly."""
    return Chore("prune", _PRUNE_SECONDS, prune)


class Chores:
    """Runs chores on one thread, each at its interval. A chore that fails is told of and runs again next time."""

    def __init__(self, rt: Runtime, chores: Sequence[Chore]) -> None:
        self._rt = rt
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        now = monotonic()
        # The first run somewhere in the interval: servers that start together must not sweep together.
        self._due = {chore.name: now + random.random() * chore.interval_seconds for chore in chores}
        self._chores = list(chores)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._loop, name="chores", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the chore that runs now. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self) -> None:
        while not self._stopping.is_set():
            for chore in self._chores:
                if monotonic() >= self._due[chore.name] and not self._stopping.is_set():
                    self._due[chore.name] = monotonic() + chore.interval_seconds
                    self._run(chore)
            next_due = min(self._due.values(), default=monotonic() + _LONGEST_WAIT_SECONDS)
            self._stopping.wait(min(_LONGEST_WAIT_SECONDS, max(0.0, next_due - monotonic())))

    def _run(self, chore: Chore) -> None:
        began = monotonic()
        try:
            report = chore.run_once(self._rt, self._rt.clock.now())
        except Exception as exc:  # noqa: BLE001  one fault never ends the loop; the chore's next run is its retry
            telemetry.emit("chore.failed", chore=chore.name, error=repr(exc), seconds=monotonic() - began)
            return
        telemetry.emit("chore.finished", chore=chore.name, report=report, seconds=monotonic() - began)
