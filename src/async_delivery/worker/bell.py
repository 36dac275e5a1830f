"""Wakes idle slots: by a ring when a job was queued, by the clock as the truth. Standard library only."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from enum import StrEnum
from time import monotonic

_LONGEST_WAIT_SECONDS = 1.0
_MAX_APPOINTMENTS = 1_000
# A poll comes early by up to this share, so that workers that started together do not ask together for ever.
_JITTER_SHARE = 0.25


class Wake(StrEnum):
    """Why a wait ended."""

    RING = "ring"
    POLL = "poll"
    TICK = "tick"
    CLOSED = "closed"


class Bell:
    """One for all slots of a worker.

    A slot reads ``rings`` before it asks the queue and hands that number to ``wait``: a ring between the two ends
    the wait at once, so none is lost. Each ring wakes one idle slot, and each poll is made by one of them, so that
    a queue with one job is asked once however many slots are idle.

    poll_seconds   the longest time between two polls
    jitter         uniform samples from [0, 1)
    ``waiting`` is how many slots have nothing to do now.
    """

    def __init__(self, poll_seconds: float, jitter: Callable[[], float] = lambda: 0.0) -> None:
        self._poll_seconds = poll_seconds
        self._jitter = jitter
        self._condition = threading.Condition()
        self._next_poll = monotonic() + self._interval()
        self._appointments: list[float] = []
        self._closed = False
        self.rings = 0
        self.waiting = 0

    def ring(self) -> None:
        """Something may be due."""
        with self._condition:
            self.rings += 1
            self._condition.notify()

    def expect(self, seconds: float) -> None:
        """Something will be due in so many seconds."""
        with self._condition:
            if len(self._appointments) < _MAX_APPOINTMENTS:
                heapq.heappush(self._appointments, monotonic() + max(0.0, seconds))
                self._condition.notify()  # one of them must look at the clock again

    def close(self) -> None:
        """End every wait, now and later."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait(self, seen: int) -> Wake:
        """Wait until there is a reason to ask the queue, or a second has passed (TICK: ask nothing, show life)."""
        with self._condition:
            if not self._closed and self.rings == seen and (pause := self._pause()) > 0:
                self.waiting += 1
                try:
                    self._condition.wait(pause)
                finally:
                    self.waiting -= 1
            if self._closed:
                return Wake.CLOSED
            if self.rings != seen:
                return Wake.RING
            if self._pause() > 0:
                return Wake.TICK
            now = monotonic()
            self._next_poll = now + self._interval()
            while self._appointments and self._appointments[0] <= now:
                heapq.heappop(self._appointments)
            return Wake.POLL

    def _interval(self) -> float:
        return self._poll_seconds * (1.0 - _JITTER_SHARE * self._jitter())

    def _pause(self) -> float:
        due = min(self._next_poll, self._appointments[0]) if self._appointments else self._next_poll
        return min(_LONGEST_WAIT_SECONDS, due - monotonic())


class Rings:
    """What rings for all slots of a worker, whichever kind the job is for."""

    def __init__(self, *bells: Bell) -> None:
        self._bells = bells

    def ring(self) -> None:
        """Something may be due."""
        for bell in self._bells:
            bell.ring()
