"""What a child prints goes to its pipe, and it reads nothing, whatever the attempt before has done to its streams."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

import pytest

from async_delivery.worker.streams import Streams
from tests.worker.test_footing import in_a_fork


def _reads_a_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"of a tenant\nand more\n")
    os.dup2(reading, 0)
    sys.stdin.readline()


def _reads_a_file_and_hides_it() -> None:
    null = os.dup(0)
    _reads_a_file()
    os.dup2(null, 0)


def _prints_elsewhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


DEEDS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "prints": lambda: print("earlier", flush=True),
    "closes": lambda: sys.stdout.close(),  # noqa: PLW0108  the stdout of that moment
    "closes the buffer": lambda: sys.stdout.buffer.close(),  # noqa: PLW0108
    "takes apart": lambda: sys.stdout.detach(),  # type: ignore[union-attr]  # noqa: PLW0108
    "puts another in its place": lambda: setattr(sys, "stdout", io.StringIO()),
    "takes it away": lambda: setattr(sys, "stdout", None),
    "another encoding": lambda: sys.stdout.reconfigure(encoding="ascii", errors="strict"),  # type: ignore[union-attr]
    "holds back": lambda: sys.stdout.reconfigure(line_buffering=False),  # type: ignore[union-attr]
    "another method": lambda: setattr(sys.stdout, "write", len),
    "another method below": lambda: setattr(sys.stdout.buffer, "write", len),
    "closes the file": lambda: os.close(1),
    "prints elsewhere": _prints_elsewhere,
    "closes stdin": lambda: os.close(0),
    "reads a file": _reads_a_file,
    "reads a file and hides it": _reads_a_file_and_hides_it,
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_streams_are_as_they_were_after(deed: Callable[[], object]) -> None:
    def check() -> bool:
        reading, writing = os.pipe()
        streams = Streams(writing)
        deed()
        streams.flush()

        streams.renew()

        print("später")
        print("so", file=sys.stderr)
        told = os.read(reading, 1000).removeprefix(b"earlier\n").decode()
        return (told, sys.stdin.read(), os.readlink("/proc/self/fd/0")) == ("später\nso\n", "", "/dev/null")

    assert in_a_fork(check)


def test_sound_streams_are_kept() -> None:
    def check() -> bool:
        streams = Streams(os.pipe()[1])
        before = (sys.stdout, sys.stderr)

        streams.renew()

        return before == (sys.stdout, sys.stderr)

    assert in_a_fork(check)
