"""stdin, stdout and stderr of a child: the same for each attempt, whatever the attempt before has made of them.

Standard library only.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Any, TextIO


class Streams:
    """Of a process whose output goes to ``output``, a pipe."""

    def __init__(self, output: int) -> None:
        self._output = output
        self._null = os.stat(os.devnull).st_rdev
        self._written: dict[int, TextIO] = {}
        self.renew()

    def renew(self) -> None:
        """Point stdin at nothing, stdout and stderr at the pipe, and have sound objects for them.

        To make those anew costs more than all else that is put right between two attempts, so those for output are
        kept while nothing is wrong with them. Of stdin nobody can say whether something was read into it.
        """
        if not self._reads_nothing():
            null = os.open(os.devnull, os.O_RDONLY)
            if null != 0:
                os.dup2(null, 0)
                os.close(null)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  lives as long as the process
        for fd in (1, 2):
            os.dup2(self._output, fd)
            if not _put_right(self._written.get(fd), fd):
                self._written[fd] = open(  # noqa: SIM115  as above
                    fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
                )
        sys.stdout, sys.stderr = self._written[1], self._written[2]

    def flush(self) -> None:
        """Send what was printed."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: BLE001  whatever the analysis has put there; one that fails is not kept
                self._written.clear()

    def _reads_nothing(self) -> bool:
        try:
            return os.fstat(0).st_rdev == self._null
        except OSError:
            return False


def _put_right(stream: TextIO | None, fd: int) -> bool:
    """Whether a stream for ``fd`` is as it was made, after it was given the form it had."""
    if not isinstance(stream, TextIOWrapper):
        return False
    try:
        stream.reconfigure(
            encoding="utf-8",
            errors="backslashreplace",
            newline=None,
            line_buffering=True,
            write_through=False,
        )
        # All three are objects that take any attribute, a method of one's own among them.
        buffer: Any = stream.buffer
        return [vars(stream), vars(buffer), vars(buffer.raw)] == [{"mode": "w"}, {}, {"name": fd}]
    except (AttributeError, OSError, ValueError):
        return False  # closed, or taken apart
