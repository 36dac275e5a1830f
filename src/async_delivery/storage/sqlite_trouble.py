"""Errors of SQLite that are troubles of its files, not faults of a statement, in words an operator can act on."""

from __future__ import annotations

import sqlite3

from async_delivery.domain.errors import UnavailableError

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL = frozenset({sqlite3.SQLITE_FULL})


def _code(exc: BaseException) -> int:
    """The primary error code: the low byte of the extended one."""
    return int(getattr(exc, "sqlite_errorcode", 0) or 0) & 0xFF


def is_trouble(exc: BaseException) -> bool:
    """True if the file, its disk or its locks are at fault: another try, or a repair, may succeed."""
    return isinstance(exc, sqlite3.OperationalError) or (
        isinstance(exc, sqlite3.DatabaseError) and _code(exc) in _DAMAGED
    )


def is_damage(exc: BaseException) -> bool:
    """True if SQLite finds the content of the file wrong."""
    return _code(exc) in _DAMAGED


def unavailable(exc: BaseException, what: str) -> UnavailableError:
    """What callers hear. ``what`` completes "the database ..."."""
    if is_damage(exc):
        return UnavailableError(
            f"the database is damaged ({exc}): stop the server, see what is wrong with: async-delivery store check,"
            " and restore it from a backup"
        )
    if _code(exc) in _FULL:
        return UnavailableError(f"the database {what}: {exc}; free some space on its file system")
    return UnavailableError(f"the database {what}: {exc}")
