"""An SQLite file of ours: its connections and settings, its lock file, and whether anybody writes to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

T = TypeVar("T")

# A write that has waited so long is refused: its caller should hear of it rather than hang.
BUSY_SECONDS = 15.0
_MEBIBYTE = 1 << 20
# Safe on any file: no value in it is trusted to be what the schema says, nothing in the schema may call out.
_COMMON = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA temp_store = MEMORY",
)


def lock_path(database: Path) -> Path:
    """The lock file beside a database file."""
    return database.with_name(database.name + ".lock")


def connect(path: Path, mode: str, *, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection in autocommit mode to an existing file. ``mode`` is SQLite's: ro, rw or rwc."""
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode={mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )
    try:
        for pragma in _COMMON:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path, *, resting: bool = False) -> sqlite3.Connection:
    """A connection that cannot change a byte of the database or its log.

    resting   nobody writes (see ``resting_state``): not even the empty log and its index are made beside the file
    """
    connection = connect(path, "ro&immutable=1" if resting else "ro")
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = {-16 * _MEBIBYTE // 1024}")
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on disk before they return."""
    connection = connect(path, "rw")
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL syncs the log with every commit; NORMAL loses the last ones at a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = {-64 * _MEBIBYTE // 1024}")
    connection.execute(f"PRAGMA journal_size_limit = {64 * _MEBIBYTE}")
    # Deleted content is overwritten where that costs no extra write.
    connection.execute("PRAGMA secure_delete = FAST")
    return connection


State = tuple[int, int]


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def resting_state(path: Path) -> State | None:
    """What a file at rest is recognised by (size and time of its last change), or None while its log holds
    anything: then a writer has it open, or the last one was killed."""
    try:
        if path.with_name(path.name + "-wal").stat().st_size:
            return None
    except FileNotFoundError:
        pass
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def look(path: Path, question: Callable[[sqlite3.Connection], T]) -> T:
    """Answer ``question`` from the file without leaving a trace beside it. Raises sqlite3.Error, OSError."""
    state = resting_state(path)
    for resting in (True, False) if state else (False,):
        connection = connect_reader(path, resting=resting)
        try:
            answer = question(connection)
        except sqlite3.DatabaseError:
            if resting and resting_state(path) != state:
                continue  # somebody began to write while we looked
            raise
        finally:
            connection.close()
        if not resting or resting_state(path) == state:
            return answer
    raise sqlite3.OperationalError("the file changes faster than it can be looked at")
