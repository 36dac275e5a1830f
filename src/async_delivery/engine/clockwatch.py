"""Whether the wall clock can be believed before something is deleted for its age.

A clock that is set forward makes everything look old, and what was deleted does not come back when the clock does.
So the wall clock is compared with one that cannot be set. Imports the engine's clock only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from async_delivery.engine.runtime import Clock

# Less than anything is kept for, more than a clock that is kept right is ever put forward at once.
TRUSTED_JUMP_SECONDS = 3_600.0
# So long a clock that was set forward may stand there until it is believed: it may have been wrong before.
BELIEVED_AFTER_SECONDS = 86_400.0


def uptime_seconds() -> float:
    """Since the machine was started, the time it slept included. Nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockWatch:
    """Watches a clock from its making on. Safe to use from any thread."""

    def __init__(self, clock: Clock, steady: Callable[[], float] = uptime_seconds) -> None:
        self._clock, self._steady = clock, steady
        self._lock = threading.Lock()
        self._wall, self._ran = clock.now(), steady()
        self._jump_seconds = 0.0
        self._jumped_at: float | None = None

    def leads_by(self, now: datetime | None = None) -> float | None:
        """Seconds that the wall clock has been put forward by, if it is not to be believed now; else None."""
        with self._lock:
            wall, ran = now or self._clock.now(), self._steady()
            jump = (wall - self._wall).total_seconds() - (ran - self._ran)
            if jump <= TRUSTED_JUMP_SECONDS:
                self._jumped_at = None
                return None
            if self._jumped_at is None or abs(jump - self._jump_seconds) > TRUSTED_JUMP_SECONDS:
                self._jumped_at, self._jump_seconds = ran, jump
            if ran - self._jumped_at < BELIEVED_AFTER_SECONDS:
                return jump
            self._wall, self._ran, self._jumped_at = wall, ran, None
            return None
