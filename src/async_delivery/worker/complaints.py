"""Troubles that come back every second while the store refuses, told once a minute with their number.

Imports telemetry.
"""

from __future__ import annotations

import threading
from time import monotonic

from async_delivery import telemetry

TELL_EVERY_SECONDS = 60.0


class Complaints:
    """One kind of trouble of one worker. Safe to use from any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._told_at: float | None = None
        self._untold = 0

    def tell(self, error: str, now: float | None = None) -> None:
        """Emit the fact with ``error`` and ``count``, how many there were since the last time it was told.

        now   seconds of the monotonic clock; read where None
        """
        at = monotonic() if now is None else now
        with self._lock:
            self._untold += 1
            if self._told_at is not None and at - self._told_at < TELL_EVERY_SECONDS:
                return
            count, self._untold, self._told_at = self._untold, 0, at
        telemetry.emit(self._name, error=error, count=count)
