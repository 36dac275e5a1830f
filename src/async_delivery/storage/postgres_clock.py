"""The database's clock, as this process knows it: what leases are given by and judged by, on every host alike."""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from async_delivery.storage.cells import EPOCH

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

# How often a process looks at the database's clock if nothing else makes it.
MEASURE_SECONDS = 10.0
# An answer that took longer says too little about when it was given.
_MAX_ROUND_TRIP_NS = 1_000_000_000
# By less than this, clocks are adjusted all the time, and answers that were slow are wrong.
_SET_NS = 1_000_000_000
_NOW = b"SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
# Goes on while the machine sleeps, and nobody can set it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseClock:
    """The machine's uninterrupted clock, put right by what the database says. Safe to use from any thread."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(_CLOCK)  # noqa: TID251  until it is measured
        self._measured = False
        self._set_at = -math.inf
        self._measuring = threading.Lock()

    def measure(self, connection: Connection) -> timedelta:
        """Ask the database for the time. By how much its clock was set since it was last asked, by somebody or by a
        change to another machine; zero if it only went on. Raises psycopg.Error.
        """
        before = time.clock_gettime_ns(_CLOCK)
        row = connection.execute(_NOW).fetchone()
        after = time.clock_gettime_ns(_CLOCK)
        if row is None:
            return timedelta()
        with self._measuring:
            moved_ns = int(row[0]) * 1000 - (before + after) // 2 - self._offset_ns
            was_set = self._measured and abs(moved_ns) > _SET_NS + (after - before)
            if self._measured and not was_set and after - before > _MAX_ROUND_TRIP_NS:
                return timedelta()
            self._offset_ns += moved_ns
            self._measured = True
            if not was_set:
                return timedelta()
            self._set_at = self.seconds()
            return timedelta(microseconds=moved_ns // 1000)

    def settled(self, seconds: float) -> bool:
        """Whether nobody has set it for so long, as far as this process has noticed."""
        return self.seconds() - self._set_at > seconds

    def seconds(self) -> float:
        """Seconds of the uninterrupted clock, for measuring spans."""
        return time.clock_gettime(_CLOCK)

    def now(self) -> datetime:
        """Aware UTC."""
        nanoseconds = time.clock_gettime_ns(_CLOCK) + self._offset_ns
        return EPOCH + timedelta(microseconds=nanoseconds // 1000)
