"""Errors of SQLite that are troubles of its files, not faults of a statement, in words an operator can act on."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from async_delivery.domain.errors import NoRoomError, UnavailableError

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# What SQLite says when a disk is full: of the file itself, or of the log and its index beside it.
_MAYBE_FULL = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_NO_ROOM_BYTES = 1 << 16
# What the driver raises of a database. What SQLite says of a damaged one may quote it, and what it quotes may be no
# text: then the driver cannot even make its own error of it.
DATABASE_FAULTS = (sqlite3.Error, UnicodeDecodeError)


def _code(exc: BaseException) -> int:
    """The primary error code: the low byte of the extended one."""
    return int(getattr(exc, "sqlite_errorcode", 0) or 0) & 0xFF


def is_trouble(exc: BaseException) -> bool:
    """True if the file, its disk or its locks are at fault: another try, or a repair, may succeed."""
    return isinstance(exc, sqlite3.OperationalError) or is_damage(exc)


def is_damage(exc: BaseException) -> bool:
    """True if SQLite finds the content of the file wrong."""
    return isinstance(exc, UnicodeDecodeError) or (
        isinstance(exc, sqlite3.DatabaseError) and _code(exc) in _DAMAGED
    )


def unavailable(exc: BaseException, what: str, path: Path) -> UnavailableError:
    """What callers hear of trouble with the database ``path``. ``what`` completes "the database ..."."""
    if is_damage(exc):
        found = "there are bytes in it that are no text" if isinstance(exc, UnicodeDecodeError) else exc
        return UnavailableError(
            f"the database {path} is damaged ({found}): stop the server, see what is wrong with: async-delivery store"
            " check, and restore it from a backup"
        )
    if is_full(exc, path):
        return NoRoomError(
            f"the database {what}: {exc}; free some space on {_file_system(path)}, then try again"
        )
    return UnavailableError(f"the database {what}: {exc}")


def out_of_room(exc: BaseException) -> bool:
    """True if SQLite itself says that there was no room, and so that nothing else went wrong."""
    return _code(exc) == sqlite3.SQLITE_FULL


def is_full(exc: BaseException, path: Path) -> bool:
    """True if it failed for want of room on the file system of ``path``."""
    if out_of_room(exc):
        return True
    if _code(exc) not in _MAYBE_FULL:
        return False
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _NO_ROOM_BYTES


def _file_system(path: Path) -> str:
    """Where the file system of ``path`` is mounted."""
    folder = Path(os.path.realpath(path.parent))
    while not os.path.ismount(folder) and folder != folder.parent:
        folder = folder.parent
    return f"the file system {folder}"
