"""What a server does besides serving: chores of one shape, ``run_once(rt, now) -> report``, at intervals.

The loop, the command line and the tests call the same functions. Imports engine, telemetry and domain.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

from async_delivery import telemetry
from async_delivery.domain.job import JobId
from async_delivery.engine import rescue
from async_delivery.engine.runtime import Runtime

_PRUNE_BATCH = 500
_PRUNE_SECONDS = 3_600.0
# A job of a worker that was killed waits for the end of its lease and this, at most.
_RESCUE_SECONDS = 3.0
# Not longer, because the wall clock may be set meanwhile.
_LONGEST_WAIT_SECONDS = 60.0
_OVERDUE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done again and again. ``run_once`` is the whole of it; its report is any plain value.

    interval_seconds   from one start to the next; None where ``next_after`` says when
    next_after         the first time after a given one, by the wall clock
    last_at            when it was last done before this process; without it the first run is at a random time
                       within the interval, as servers that start together must not all do it together
    """

    name: str
    interval_seconds: float | None
    run_once: Callable[[Runtime, datetime], object]
    next_after: Callable[[datetime], datetime] | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RescueReport:
    """Jobs that were taken back from workers that are gone."""

    rescued: int


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What nobody can ask for any more and was deleted, by kind."""

    pruned: Mapping[str, int]


def rescue_chore(
    rt: Runtime, alive: Callable[[], Sequence[str]], held: Callable[[], Collection[JobId]] = tuple
) -> Chore:
    """Take jobs back from lost workers, and those that a living one does not know it has.

    alive   gives the worker ids of this process
    held    gives the ids of the jobs that they have
    """
    desertions = rescue.Desertions(held)

    def run_once(rt: Runtime, now: datetime) -> RescueReport:
        rescued = len(rescue.rescue(rt, alive()))
        if rt.store.exclusive:
            # Elsewhere a lease that nobody renews is over by the database's clock.
            rescued += len(desertions.rescue(rt, alive()))
        return RescueReport(rescued)

    seconds = rt.policy.lease_seconds / 2
    # Alone, a worker finds at its start what there is to find.
    return Chore("rescue", seconds if rt.store.exclusive else min(seconds, _RESCUE_SECONDS), run_once)


def prune(rt: Runtime, now: datetime) -> PruneReport:
    """Delete expired idempotency keys and uploads that no job names, in small transactions."""
    counts: Counter[str] = Counter()
    while True:
        batch = rt.store.write(lambda tx: dict(tx.prune(now, _PRUNE_BATCH)))
        counts.update(batch)
        if max(batch.values(), default=0) < _PRUNE_BATCH:
            return PruneReport(dict(counts))


def prune_chore(leads_by: Callable[[], float | None] = lambda: None) -> Chore:
    """``prune``, hourly; not while the clock has been put forward, see ``engine.clockwatch``."""

    def run_once(rt: Runtime, now: datetime) -> PruneReport:
        return PruneReport({}) if leads_by() else prune(rt, now)

    return Chore("prune", _PRUNE_SECONDS, run_once)


class _Timer:
    """When one chore is due: by the monotonic clock at an interval, by the wall clock at given times."""

    def __init__(self, chore: Chore, now: datetime) -> None:
        self._chore = chore
        if chore.next_after is not None:
            self._next_at = chore.next_after(now)
        else:
            interval = chore.interval_seconds or 0.0
            wait = random.random() * interval
            if chore.last_at is not None:
                left = interval - (now - chore.last_at).total_seconds()
                # Overdue: soon, and still not at the same moment as everybody who was started with it.
                wait = min(interval, max(left, min(wait, _OVERDUE_SECONDS)))
            self._due = monotonic() + wait

    def seconds_left(self, now: datetime) -> float:
        """Until it is due; not more than 0 when it is."""
        if self._chore.next_after is not None:
            # Also from now on, in case the clock was put back: what comes next must not wait for the old time.
            return (min(self._next_at, self._chore.next_after(now)) - now).total_seconds()
        return self._due - monotonic()

    def begun(self, now: datetime) -> None:
        """It runs now; count from here."""
        if self._chore.next_after is not None:
            self._next_at = self._chore.next_after(now)
        else:
            self._due = monotonic() + (self._chore.interval_seconds or 0.0)


class Chores:
    """Runs chores on one thread, each in its time. A chore that fails is told of and runs again next time.

    A chore that may take long has a thread of its own: another Chores.
    """

    def __init__(self, rt: Runtime, chores: Sequence[Chore], name: str = "chores") -> None:
        self._rt = rt
        self._name = name
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        now = rt.clock.now()
        self._timers = [(chore, _Timer(chore, now)) for chore in chores]

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End after the chore that runs now. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self) -> None:
        while not self._stopping.is_set():
            for chore, timer in self._timers:
                now = self._rt.clock.now()
                if timer.seconds_left(now) <= 0 and not self._stopping.is_set():
                    timer.begun(now)
                    self._run(chore)
            now = self._rt.clock.now()
            left = min((timer.seconds_left(now) for _, timer in self._timers), default=_LONGEST_WAIT_SECONDS)
            self._stopping.wait(min(_LONGEST_WAIT_SECONDS, max(0.0, left)))

    def _run(self, chore: Chore) -> None:
        began = monotonic()
        try:
            report = chore.run_once(self._rt, self._rt.clock.now())
        except Exception as exc:  # noqa: BLE001  one fault never ends the loop; the chore's next run is its retry
            telemetry.emit("chore.failed", chore=chore.name, error=repr(exc), seconds=monotonic() - began)
            return
        telemetry.emit("chore.finished", chore=chore.name, report=report, seconds=monotonic() - began)
