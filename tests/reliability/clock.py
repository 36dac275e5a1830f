"""A clock that can be set under a process that runs; see ``clock_shim.c``."""

from __future__ import annotations

import struct
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.reliability.power import compiled

# What clocks do: by name, seconds from the true time.
HOUR, DAY = 3_600.0, 86_400.0


class Clock:
    """The offset of the processes that are started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self._shim = compiled("clock_shim.c", folder)
        self._file.write_bytes(bytes(8))

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._shim), "CLOCK_OFFSET": str(self._file)}

    def set(self, seconds: float) -> None:
        """Show the true time plus ``seconds`` from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", int(seconds * 1e9)))

    def set_to(self, instant: datetime) -> None:
        self.set(instant.timestamp() - time.time())


def jumps() -> dict[str, float]:
    """Name -> seconds from the true time: back and forth, the changes of summer time, and past what 32 bits hold."""
    now = time.time()
    year = datetime.now(UTC).year + 1
    return {
        "an hour forward": HOUR,
        "an hour back": -HOUR,
        "a day forward": DAY,
        "a day back": -DAY,
        "a week forward": 7 * DAY,
        "the end of winter time": datetime(year, 3, 28, 0, 59, 59, tzinfo=UTC).timestamp() - now,
        "the end of summer time": datetime(year, 10, 31, 0, 59, 59, tzinfo=UTC).timestamp() - now,
        "2038": datetime(2038, 1, 19, 3, 14, 6, tzinfo=UTC).timestamp() - now,
    }
