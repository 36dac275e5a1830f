"""What an analysis prints: the end of it is kept, as clean text. Standard library only."""

from __future__ import annotations

import os
import re
from time import monotonic

from async_delivery.worker.limits import OUTPUT_BYTES_PER_SECOND

_CHUNK_BYTES = 65_536
# Everything that moves a cursor, hides text or ends a line elsewhere: C0 but tab and newline, DEL, C1, the
# separators of lines and paragraphs, and the marks and isolates that turn the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(data: bytes) -> str:
    """``data`` as text that any terminal, log or database takes: bad UTF-8 replaced, control characters spelled."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class OutputRing:
    """Reads the pipe of one child and keeps the last bytes of each attempt.

    Reading is limited to OUTPUT_BYTES_PER_SECOND: an analysis that prints without end waits for its pipe instead
    of keeping this process busy.
    """

    def __init__(self, fd: int, keep_bytes: int) -> None:
        self._fd = fd
        self._keep = keep_bytes
        self._tail = bytearray()
        self._dropped = 0
        self._budget_from = monotonic()
        self._budget = OUTPUT_BYTES_PER_SECOND
        self.dirty = False
        self.at_end = False

    def start(self) -> None:
        """Forget the attempt before."""
        self._tail.clear()
        self._dropped = 0
        self.dirty = False

    def read(self) -> bool:
        """Take in one chunk of what there is, without waiting; False if there was nothing or enough for now."""
        if self._spent():
            return False
        try:
            data = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.at_end = True
            return False
        self._budget -= len(data)
        self._tail += data
        if len(self._tail) > 2 * self._keep:
            self._trim()
        self.dirty = True
        return True

    def drain(self) -> None:
        """Take in all that there is, within the limit."""
        while self.read():
            pass

    def close(self) -> None:
        """Close the pipe; what was read stays."""
        os.close(self._fd)

    def pause_seconds(self) -> float:
        """How long nothing should be read; 0 if the limit is not reached."""
        return max(0.0, self._budget_from + 1.0 - monotonic()) if self._spent() else 0.0

    def _spent(self) -> bool:
        if self._budget > 0:
            return False
        now = monotonic()
        if now - self._budget_from < 1.0:
            return True
        self._budget_from, self._budget = now, OUTPUT_BYTES_PER_SECOND
        return False

    def _trim(self) -> None:
        surplus = len(self._tail) - self._keep
        if surplus > 0:
            del self._tail[:surplus]
            self._dropped += surplus

    def text(self) -> str | None:
        """What is kept, and how much is missing before it; None if nothing was printed."""
        self.dirty = False
        if not self._tail:
            return None
        self._trim()
        kept = clean(bytes(self._tail))
        return f"[{self._dropped} bytes before this were dropped]\n{kept}" if self._dropped else kept
