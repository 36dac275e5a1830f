"""What the program owes its process before anything else: three standard files, and a quiet end at Ctrl-C.

Loaded first of all, so it imports the standard library only, and little of that.
"""

from __future__ import annotations

import io
import os
import signal
import sys

# Not from typing: until this module is loaded, Ctrl-C is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import TextIO

INTERRUPTED = 130  # as shells say it
TERMINATED = 143


def prepare() -> None:
    """Open what is missing, and let Ctrl-C end the process at once until ``interruptible``."""
    _open_standard_files()
    _take_every_character(sys.stdout)
    # A shell that starts a program in the background has it ignore Ctrl-C, and so it stays.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def interruptible() -> None:
    """From here the first Ctrl-C is a KeyboardInterrupt; a second one waits for nothing any more."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


def uninterruptible() -> None:
    """The command has ended: nothing is left that Ctrl-C could interrupt, only an interpreter that goes."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, _leave)


def silence(stream: TextIO) -> None:
    """Nobody takes what is written to ``stream``: neither the rest of it nor the interpreter's own last flush."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    # No exception: in the middle of an import or of the interpreter's end it would be told as a traceback.
    os._exit(INTERRUPTED)


def _open_standard_files() -> None:
    """Without this the first sockets and files would get the numbers 0 to 2, and be written to as stdout."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, as those below are taken by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # What was missing when the interpreter started is None, against what is declared.
    if getattr(sys, "stdin", None) is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  stays open like any stdin
    if getattr(sys, "stdout", None) is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if getattr(sys, "stderr", None) is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _take_every_character(stream: TextIO) -> None:
    """A name with an umlaut must not end a command whose terminal or cron job knows ASCII only."""
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in {"utf-8", "utf8"}:
        stream.reconfigure(errors="backslashreplace")
