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

from async_delivery.domain.errors import NoRoomError
from async_delivery.domain.reserve import Reserve, low_bytes, may_enter, may_restore, wanted_bytes

log = logging.getLogger("async_delivery.storage")

_RETRY_SECONDS = 30
_MEBIBYTE = 1 << 20


def ballast_path(database: Path) -> Path:
    """The file beside a database file."""
    return database.with_name(database.name + ".ballast")


class Ballast:
    """For the thread that writes. A process that only comes to clean up lets it go and leaves it to the server to
    take it back."""

    def __init__(self, database: Path) -> None:
        self.path = ballast_path(database)
        self._asked_bytes: int | None = None
        self._released = False

    def keep(self, asked_bytes: int) -> None:
        """From now on keep so much, 0 for nothing. For the one process that serves the store."""
        self._asked_bytes = asked_bytes
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
        try:
            held = self.path.stat().st_size
        except OSError:
            held = 0
        if self._asked_bytes is None:
            return Reserve(held, held)
        return Reserve(wanted_bytes(self._asked_bytes, _disk(self.path.parent)[1]), held)

    def tend(self) -> None:
        """Before a transaction: let it go if that may be needed, take it back if there is room again."""
        reserve = self.state()
        if not reserve.held_bytes and not reserve.wanted_bytes:
            return
        free_bytes, _ = _disk(self.path.parent)
        if reserve.held_bytes and free_bytes < low_bytes(reserve.held_bytes):
            self.release()
        elif may_restore(reserve, free_bytes):
            self._take(reserve.wanted_bytes)

    def release(self) -> bool:
        """Let it go; False if there is nothing to let go. Raises nothing."""
        try:
            size = self.path.stat().st_size
            self.path.unlink()
        except OSError:
            return False
        self._released = True
        log.warning(
            "the disk is full: %d MiB kept in reserve are let go for cleanups and for jobs that run; new jobs are"
            " refused until there is room again",
            size // _MEBIBYTE,
        )
        return True

    def require_room(self, unused_bytes: Callable[[], int]) -> None:
        """Raises NoRoomError if there is no room for a new job. ``unused_bytes`` as in ``may_enter``."""
        reserve = self.state()
        if reserve.is_whole:
            return
        free_bytes, _ = _disk(self.path.parent)
        if not may_enter(reserve, free_bytes, unused_bytes()):
            raise NoRoomError(
                f"the disk of the store is full: new jobs are taken again once {_mebibytes(reserve.needed_bytes)} are"
                f" free ({_mebibytes(free_bytes)} are now); free some space there, or clean up",
                _RETRY_SECONDS,
            )

    def _take(self, size: int) -> None:
        try:
            # Only its owner's: nobody has any business with it.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o600)
        except OSError as exc:
            log.debug("no reserve can be kept: %s", exc)
            return
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as exc:
            self.path.unlink(missing_ok=True)
            log.debug("no reserve can be kept: %s", exc)
            return
        finally:
            os.close(descriptor)
        if self._released:
            log.warning("there is room on the disk again: %d MiB are back in reserve", size // _MEBIBYTE)
        self._released = False


def _disk(folder: Path) -> tuple[int, int]:
    """Free and all bytes of the file system; as good as endless where it does not tell."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return 1 << 62, 1 << 62
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _mebibytes(size: int) -> str:
    return f"{size / _MEBIBYTE:.4g} MiB"
