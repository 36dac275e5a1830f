"""Which attempts this worker runs, for those who look at all of them: heartbeat, signals of the store, drain.

Imports engine, storage.contract and domain.
"""

from __future__ import annotations

import threading

from async_delivery.domain.job import JobId, JobStatus
from async_delivery.storage.contract import Signal
from async_delivery.worker.attempt import Attempt, StopReason
from async_delivery.worker.bell import Bell


class Roster:
    """Safe to use from any thread."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._lock = threading.Lock()
        self._running: dict[JobId, Attempt] = {}
        self._unsettled: list[Attempt] = []
        self._draining = False

    def add(self, attempt: Attempt) -> None:
        """An attempt begins; during a drain it is asked to stop at once."""
        with self._lock:
            self._running[attempt.job_id] = attempt
            draining = self._draining
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
            if attempt is not None:
                attempt.ask(StopReason.CANCEL)
