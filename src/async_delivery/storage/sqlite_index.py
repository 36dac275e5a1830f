"""Whether anybody has committed to an SQLite database, told without a statement: by the index of its log.

The ``-shm`` file begins with two copies of a header (https://sqlite.org/walformat.html#the_wal_index_file_format)
that every commit writes anew, by whichever process: a counter, how many frames of the log are valid, their running
checksum, and the log's salts. SQLite itself keeps the pages it has read for as long as the header is the same; here
what was made of them is kept by the same rule. Why it holds is in docs/decisions/0014.

SQLite holds POSIX locks on that file, which a process loses when it closes any descriptor of the file. So none is
opened here: SQLite's own is used once, to map the file, which needs no descriptor from then on.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_COPY_BYTES = 48
_HEADER_BYTES = 2 * _COPY_BYTES
# The only version of the format there has been.
_FORMAT = (3_007_000).to_bytes(4, sys.byteorder)
_IS_INIT = 12
_VALID_FRAMES = slice(16, 20)
_NO_FRAMES = bytes(4)
_MAP_FAILED = ctypes.c_void_p(-1).value
_OPEN_FILES = "/proc/self/fd"


class LogIndex:
    """A look at the header, for as long as a connection of this process has the log open: SQLite keeps the file from
    being cut off until then. Not to be used from two threads at once."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._header: ctypes.Array[ctypes.c_char] | None = (ctypes.c_char * _HEADER_BYTES).from_address(
            address
        )
        self._last = b""

    def version(self) -> bytes | None:
        """The header: while it is the same, nothing has been committed. None where that says nothing: a commit is
        under way, or the log is empty, whose header may be the one of another empty log."""
        if self._header is None:
            return None
        found = self._header.raw
        if found == self._last:
            return self._last
        first, second = found[:_COPY_BYTES], found[_COPY_BYTES:]
        if first != second or not first.startswith(_FORMAT) or not first[_IS_INIT]:
            return None
        if first[_VALID_FRAMES] == _NO_FRAMES:
            return None
        self._last = found
        return found

    def close(self) -> None:
        """Let go of the file, before the connection does. Idempotent."""
        if self._header is not None:
            self._header = None
            _libc().munmap(self._address, mmap.PAGESIZE)


def map_log_index(database: Path) -> LogIndex | None:
    """The index of the log of ``database``, which this process must have read from in WAL mode already; None where it
    cannot be had."""
    try:
        descriptor = _descriptor_of(f"{os.path.realpath(database)}-shm")
    except OSError:
        return None
    # One that SQLite may only read it does not always lock, and then a writer that comes may cut the file off.
    if descriptor is None or fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        return None
    address = _libc().mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    return None if address == _MAP_FAILED else LogIndex(address)


def _descriptor_of(path: str) -> int | None:
    """The descriptor by which this process, that is SQLite in it, has the file at ``path`` open. Raises OSError."""
    wanted = os.stat(path)
    for name in os.listdir(_OPEN_FILES):
        try:
            found = os.stat(f"{_OPEN_FILES}/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return int(name)
    return None


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
