"""The database's clock, as this process knows it: what leases are given by and judged by, on every host alike."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from async_delivery.storage.cells import EPOCH

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

# An answer that took longer says too little about when it was given.
_MAX_ROUND_TRIP_NS = 1_000_000_000
_NOW = b"SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
# Goes on while the machine sleeps, and nobody can set it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseClock:
    """The machine's uninterrupted clock, put right by what the database says. Safe to use from any thread."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(_CLOCK)  # noqa: TID251  until it is measured
        self._measured = False

    def measure(self, connection: Connection) -> None:
        """Ask the database for the time. Raises psycopg.Error."""
        before = time.clock_gettime_ns(_CLOCK)
        row = connection.execute(_NOW).fetchone()
        after = time.clock_gettime_ns(_CLOCK)
        if row is not None and (not self._measured or after - before <= _MAX_ROUND_TRIP_NS):
            self._offset_ns = int(row[0]) * 1000 - (before + after) // 2
            self._measured = True

    def seconds(self) -> float:
        """Seconds of the uninterrupted clock, for measuring spans."""
        return time.clock_gettime(_CLOCK)

    def now(self) -> datetime:
        """Aware UTC."""
        nanoseconds = time.clock_gettime_ns(_CLOCK) + self._offset_ns
        return EPOCH + timedelta(microseconds=nanoseconds // 1000)
