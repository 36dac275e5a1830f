"""Whether the files a process has open are still the ones their paths name.

A file that was deleted or replaced goes on to take writes which nobody can ever read. So a writer asks here before
each transaction, and readers now and then. Only names are looked up: to open and close the database file with plain
file calls would drop SQLite's own locks on it. Imports domain.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from time import monotonic

from async_delivery.domain.errors import UnavailableError

log = logging.getLogger("async_delivery.storage")

_READERS_LOOK_SECONDS = 1.0

Identity = tuple[int, int]


def identity(path: Path | str) -> Identity | None:
    """What the file at ``path`` is recognised by (device and inode); None where none can be reached."""
    found = _look(path)
    return None if found is None else (found.st_dev, found.st_ino)


def _look(path: Path | str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


class Standing:
    """The database, its log and its lock file as they were opened. Safe to use from any thread."""

    def __init__(self, database: Path, lock: tuple[Path, Identity] | None) -> None:
        """lock   path of the lock file and the identity of the one that is held; None for one who only reads"""
        self._database = database
        self._opened = identity(database)
        self._size_bytes = 0
        self._lock = lock
        self._wal = database.with_name(database.name + "-wal")
        # Looked up so often that making texts of paths would cost more than the looking.
        self._database_name, self._wal_name = str(database), str(self._wal)
        self._lock_name = "" if lock is None else str(lock[0])
        self._wal_opened: Identity | None = None
        self._looked_at = monotonic()
        self._told: str | None = None
        self._telling = threading.Lock()

    def note_log(self) -> None:
        """The writer's connection has just opened the log: while it stays open, nobody may remove that rightly."""
        self._wal_opened = identity(self._wal)

    def forget_log(self) -> None:
        """The writer's connection is closed: SQLite itself may remove the log now."""
        self._wal_opened = None

    def require_for_writing(self) -> None:
        """Raises UnavailableError if what is written now could be lost, or another writer could be beside us."""
        fault = self._fault_of_database()
        if fault is None and self._lock is not None and identity(self._lock_name) != self._lock[1]:
            fault = (
                f"the lock file {self._lock[0]} was removed or replaced under this process, so another could write"
                " at the same time; put it back, or restart this process"
            )
        if fault is None and self._wal_opened is not None and identity(self._wal_name) != self._wal_opened:
            fault = (
                f"the log of the database {self._wal} was removed or replaced under this process; stop this process"
                " with SIGTERM, which saves what is in the log, and start it again"
            )
        self._tell(fault)

    def require_for_reading(self) -> None:
        """Raises UnavailableError if the database is no longer the one opened; looks once a second at most."""
        now = monotonic()
        if now - self._looked_at < _READERS_LOOK_SECONDS and self._told is None:
            return
        self._looked_at = now
        if (fault := self._fault_of_database()) is not None:
            self._tell(fault)

    def require_opened(self) -> None:
        """For one who has just opened the database by its path. Raises UnavailableError if that is another now."""
        if (fault := self._fault_of_database()) is not None:
            self._tell(fault)

    def _fault_of_database(self) -> str | None:
        found = _look(self._database_name)
        if found is not None and (found.st_dev, found.st_ino) == self._opened:
            # No statement of ours shrinks the file, so whoever has done that has cut it off or written over it.
            if found.st_size < self._size_bytes:
                return (
                    f"the database {self._database} was cut off or written over while it was open: stop this process,"
                    " see what is wrong with: async-delivery store check, and restore it from a backup"
                )
            self._size_bytes = found.st_size
            return None
        what = "is gone" if found is None else "was replaced by another file"
        return (
            f"the database {self._database} {what} while it was open; put it back where it was, or restart this"
            " process once the right one is in its place"
        )

    def _tell(self, fault: str | None) -> None:
        if fault is None and self._told is None:
            return
        with self._telling:
            news, self._told = fault != self._told, fault
        if fault is None:
            if news:
                log.warning("the files of the store are back in their places: writing goes on")
            return
        if news:
            log.error("writing is refused: %s", fault)
        raise UnavailableError(fault)
