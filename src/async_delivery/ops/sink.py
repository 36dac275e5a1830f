"""Where lines of the log go: a file descriptor that may be slow, full, or closed at its other end.

Imports the standard library only.
"""

from __future__ import annotations

import os
import select

_STALL_SECONDS = 1.0


class Sink:
    """Whole lines to ``fd``. For one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._broken = False

    def write(self, lines: bytes) -> None:
        """All of ``lines``, waiting as long as that takes. Raises OSError where nothing more can be written."""
        if self._broken:
            # What failed may have left half a line; the next record begins on its own.
            lines = b"\n" + lines
        rest = memoryview(lines)
        while rest:
            try:
                taken = os.write(self._fd, rest)
            except BlockingIOError:
                # Somebody who shares the terminal or pipe has made it non-blocking.
                select.select([], [self._fd], [], _STALL_SECONDS)
                continue
            except OSError:
                self._broken = True
                raise
            rest = rest[taken:]
            self._broken = False
