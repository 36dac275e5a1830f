"""The reserve of an SQLite store as a file beside it, which takes up room until that is needed.

How much is kept, and when it is let go and taken back, is decided in ``domain.reserve``. The file is looked up each
time: a cleanup by another process may have let it go. Never opens the database.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from async_delivery.domain.errors import NoRoomError
from async_delivery.domain.reserve import (
    Reserve,
    is_tight,
    lends,
    may_enter,
    may_restore,
    slice_bytes,
    wanted_bytes,
)

log = logging.getLogger("async_delivery.storage")

_RETRY_SECONDS = 30
_MEBIBYTE = 1 << 20
# With so much room beside what is needed nobody can fill the disk before it is looked at again.
_PLENTY_BYTES = 256 * _MEBIBYTE
_PLENTY_SECONDS = 0.02


def ballast_path(database: Path) -> Path:
    """The file beside a database file."""
    return database.with_name(database.name + ".ballast")


class Ballast:
    """For the thread that writes. A process that only comes to clean up lets it go and leaves it to the server to
    take it back."""

    def __init__(self, database: Path) -> None:
        self.path = ballast_path(database)
        # Looked up so often that making texts of paths would cost more than the looking.
        self._path, self._folder = str(self.path), str(self.path.parent)
        self._asked_bytes: int | None = None
        self._released = False
        self._plenty_until = 0.0

    def keep(self, asked_bytes: int) -> None:
        """From now on keep so much, 0 for nothing. For the one process that serves the store."""
        self._asked_bytes = asked_bytes
        self._plenty_until = 0.0
        if asked_bytes == 0:
            self.path.unlink(missing_ok=True)
            return
        found = self.state()
        if found.held_bytes > found.wanted_bytes:
            with suppress(OSError):
                os.truncate(self.path, found.wanted_bytes)
        self.tend()

    def state(self) -> Reserve:
        """How it stands now. Without ``keep``, what is there is what is wanted."""
        return self._look()[0]

    def _look(self) -> tuple[Reserve, int]:
        """How it stands, and how much is free besides."""
        try:
            held = os.stat(self._path).st_size
        except OSError:
            held = 0
        free_bytes, disk_bytes = _disk(self._folder)
        wanted = held if self._asked_bytes is None else wanted_bytes(self._asked_bytes, disk_bytes)
        return Reserve(wanted, held), free_bytes

    def tend(self) -> bool:
        """Before a transaction: take it back if there is room again. True if the disk is nearly full."""
        if monotonic() < self._plenty_until:
            return False
        reserve, free_bytes = self._look()
        if may_restore(reserve, free_bytes):
            self._take(reserve)
        elif reserve.is_whole and free_bytes >= reserve.needed_bytes + _PLENTY_BYTES:
            self._plenty_until = monotonic() + _PLENTY_SECONDS
        return is_tight(free_bytes)

    def release(self) -> bool:
        """Let a slice of it go; False if there is nothing to let go. Raises nothing."""
        self._plenty_until = 0.0
        try:
            size = self.path.stat().st_size
            left = size - slice_bytes(Reserve(max(size, self.state().wanted_bytes), size))
            if left > 0:
                os.truncate(self.path, left)
            else:
                self.path.unlink()
        except OSError:
            return False
        if not self._released:
            log.warning(
                "the disk is full: what is kept in reserve, %d MiB, is let go bit by bit for cleanups and for jobs that"
                " run; new jobs are refused until there is room again",
                size // _MEBIBYTE,
            )
        self._released = True
        return True

    def require_room(self, unused_bytes: Callable[[], int]) -> None:
        """Raises NoRoomError if there is no room for a new job. ``unused_bytes`` as in ``may_enter``."""
        if monotonic() < self._plenty_until:
            return
        reserve, free_bytes = self._look()
        if free_bytes >= reserve.needed_bytes:
            return
        if not may_enter(reserve, free_bytes, unused_bytes()):
            raise NoRoomError(
                f"the disk of the store is full: new jobs are taken again once {_mebibytes(reserve.needed_bytes)} are"
                f" free ({_mebibytes(free_bytes)} are now); free some space there, or clean up",
                _RETRY_SECONDS,
            )
        if lends(reserve, free_bytes):
            self.release()

    def _take(self, reserve: Reserve) -> None:
        try:
            # Only its owner's: nobody has any business with it.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
        except OSError as exc:
            log.debug("no reserve can be kept: %s", exc)
            return
        try:
            os.posix_fallocate(descriptor, 0, reserve.wanted_bytes)
        except OSError as exc:
            if reserve.held_bytes:
                os.ftruncate(descriptor, reserve.held_bytes)
            else:
                self.path.unlink(missing_ok=True)
            log.debug("no reserve can be kept: %s", exc)
            return
        finally:
            os.close(descriptor)
        if self._released:
            log.warning(
                "there is room on the disk again: %d MiB are back in reserve",
                reserve.wanted_bytes // _MEBIBYTE,
            )
        self._released = False


def _disk(folder: str) -> tuple[int, int]:
    """Free and all bytes of the file system; as good as endless where it does not tell."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 1 << 62, 1 << 62
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _mebibytes(size: int) -> str:
    return f"{size / _MEBIBYTE:.4g} MiB"
