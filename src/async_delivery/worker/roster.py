"""Which attempts this worker runs, for those who look at all of them: heartbeat, signals of the store, drain.

Imports engine, storage.contract and domain.
"""

from __future__ import annotations

import threading

from async_delivery.domain.job import JobId, JobStatus
from async_delivery.storage.contract import Signal
from async_delivery.worker.attempt import Attempt, StopReason
from async_delivery.worker.bell import Bell, Rings

_MAX_EARLY_CANCELS = 1_000


class Roster:
    """Safe to use from any thread."""

    def __init__(self, bell: Bell | Rings) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._running: dict[JobId, Attempt] = {}
        self._unsettled: list[Attempt] = []
        self._early_cancels: set[JobId] = set()
        self._draining = False

    def add(self, attempt: Attempt) -> None:
        """An attempt begins; what was asked of it before, while nobody knew it here, is asked now."""
        with self._lock:
            before = self._running.get(attempt.job_id)
            self._running[attempt.job_id] = attempt
            canceled = attempt.job_id in self._early_cancels
            draining = self._draining
        if before is not None:
            # Rescued from this very worker and claimed again: the one before has lost its lease.
            before.ask(StopReason.LOST)
        if canceled:
            attempt.ask(StopReason.CANCEL)
        if draining:
            attempt.ask(StopReason.DRAIN)

    def remove(self, attempt: Attempt) -> None:
        """Its end is written, or is somebody else's now."""
        with self._lock:
            if self._running.get(attempt.job_id) is attempt:
                del self._running[attempt.job_id]

    def running(self) -> list[Attempt]:
        """All of them, now."""
        with self._lock:
            return list(self._running.values())

    def held(self) -> set[JobId]:
        """The jobs of all attempts that this worker knows of, also of those that are to be given back."""
        with self._lock:
            return {*self._running, *(attempt.job_id for attempt in self._unsettled)}

    def leave(self, attempt: Attempt) -> None:
        """Its end could not be written: to be given back as soon as the store takes writes again."""
        with self._lock:
            self._unsettled.append(attempt)

    def take_unsettled(self) -> list[Attempt]:
        """Those left so far; whoever takes them settles them or leaves them again."""
        with self._lock:
            taken, self._unsettled = self._unsettled, []
            return taken

    def drain(self) -> None:
        """Ask every attempt to stop, those that begin later included."""
        with self._lock:
            self._draining = True
        for attempt in self.running():
            attempt.ask(StopReason.DRAIN)

    def hear(self, signal: Signal) -> None:
        """A job changed. On a thread of the store: only pass it on."""
        if signal.status is JobStatus.QUEUED:
            self._bell.ring()
        elif signal.cancel_requested and not signal.status.terminal:
            with self._lock:
                attempt = self._running.get(signal.job_id)
                if attempt is None:
                    # Claimed in this moment, or running elsewhere; a job once asked to stop never runs again.
                    if len(self._early_cancels) >= _MAX_EARLY_CANCELS:
                        self._early_cancels.clear()
                    self._early_cancels.add(signal.job_id)
            if attempt is not None:
                attempt.ask(StopReason.CANCEL)
