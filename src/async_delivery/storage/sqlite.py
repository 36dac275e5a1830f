"""The store on SQLite: connections, the writer's session, snapshots for readers.

One writer thread per process commits groups of functions; readers have a read-only connection per thread. Writers
of all processes queue on the lock file. What is asked and written is in ``reading`` and ``writing``.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from async_delivery.domain.errors import UnavailableError
from async_delivery.storage.contract import Reader, Signal, StoreInfo, Transaction
from async_delivery.storage.dialects import SQLITE, Texts
from async_delivery.storage.locks import CleanupLock, LockFile
from async_delivery.storage.reading import SqlReader
from async_delivery.storage.sqlite_info import describe
from async_delivery.storage.writer import Writer
from async_delivery.storage.writing import SqlTransaction

T = TypeVar("T")
Listener = Callable[[Signal], Any]

# A write that has waited so long is refused: its caller should hear of it rather than hang.
BUSY_SECONDS = 15.0
_TEXTS = Texts(SQLITE)
_MEBIBYTE = 1 << 20
# Safe on any file: no value in it is trusted to be what the schema says, nothing in the schema may call out.
_COMMON = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA temp_store = MEMORY",
)


class Mode(Enum):
    """What a process wants of the store: serve it, write to it beside a server, or only look."""

    SERVE = "serve"
    TOOL = "tool"
    READ_ONLY = "read_only"


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


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot change a byte of the database or its log."""
    connection = connect(path, "ro")
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = {-16 * _MEBIBYTE // 1024}")
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on disk before they return."""
    connection = connect(path, "rw")
    # FULL syncs the log with every commit; NORMAL loses the last ones at a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = {-64 * _MEBIBYTE // 1024}")
    connection.execute(f"PRAGMA journal_size_limit = {64 * _MEBIBYTE}")
    # Deleted content is overwritten where that costs no extra write.
    connection.execute("PRAGMA secure_delete = FAST")
    return connection


class SqliteReader(SqlReader):
    """A Reader on SQLite."""

    def list_param(self, values: Sequence[Any]) -> str:
        return orjson.dumps(values).decode()

    def damage(self, limit: int) -> list[str]:
        found = [
            row[0] for row in self._connection.execute(f"PRAGMA integrity_check({int(limit)})").fetchall()
        ]
        broken = [f"the database file: {text}" for text in found if text != "ok"]
        for table, row, parent, _ in self._connection.execute("PRAGMA foreign_key_check").fetchmany(limit):
            broken.append(
                f"the database file: row {row} of {table} points to a row of {parent} that is not there"
            )
        return broken


class SqliteTransaction(SqliteReader, SqlTransaction):
    """A Transaction on SQLite."""

    integrity_error = sqlite3.IntegrityError

    def is_duplicate(self, exc: Exception) -> bool:
        return isinstance(exc, sqlite3.IntegrityError) and exc.sqlite_errorname in {
            "SQLITE_CONSTRAINT_UNIQUE",
            "SQLITE_CONSTRAINT_PRIMARYKEY",
            "SQLITE_CONSTRAINT_ROWID",
        }


class SqliteSession:
    """The writer's connection; see ``writer.Session``."""

    def __init__(
        self, path: Path, lock: LockFile, tell: Callable[[Signal], None], before_close: Callable[[], None]
    ):
        self._path, self._lock, self._tell, self._before_close = path, lock, tell, before_close
        self._connection: sqlite3.Connection | None = None

    def begin(self) -> SqliteTransaction:
        self._lock.take_writer(BUSY_SECONDS)
        if self._connection is None:
            self._connection = connect_writer(self._path)
        self._connection.execute("BEGIN IMMEDIATE")
        return SqliteTransaction(self._connection, _TEXTS)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the connection is gone")
        return self._connection

    def mark(self, transaction: SqliteTransaction) -> int:
        self._open().execute("SAVEPOINT f")
        return len(transaction.signals)

    def keep(self) -> None:
        self._open().execute("RELEASE f")

    def undo(self, transaction: SqliteTransaction, mark: int) -> bool:
        connection = self._open()
        del transaction.signals[mark:]
        try:
            connection.execute("ROLLBACK TO f")
            connection.execute("RELEASE f")
        except sqlite3.Error:
            return False
        return True

    def commit(self) -> None:
        # The automatic checkpoint runs inside COMMIT, so it is under the lock as well.
        self._open().execute("COMMIT")
        self._lock.release_writer()

    def abandon(self) -> None:
        # After an error of a sync nobody knows what the page cache still holds: the connection is opened anew.
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            with suppress(sqlite3.Error):
                connection.close()
        self._lock.release_writer()

    def tell(self, transaction: SqliteTransaction) -> None:
        for signal in transaction.signals:
            self._tell(signal)

    def close(self) -> None:
        self._before_close()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # The last connection to close checkpoints the log, so it closes under the lock too. If another process
        # holds that for too long, this is not the last connection, and closing it writes nothing.
        with suppress(UnavailableError):
            self._lock.take_writer(BUSY_SECONDS)
        with suppress(sqlite3.Error):
            connection.close()
        self._lock.release_writer()


class _Handle:
    """One thread's connection for reading. Closed when its thread is gone, or with the store."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = connect_reader(path)
        self.reader = SqliteReader(self.connection, _TEXTS)

    def close(self) -> None:
        with self.lock:
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.close()

    def __del__(self) -> None:
        # Nobody refers to it any more, so nobody holds its lock.
        if getattr(self, "connection", None) is not None:
            self.close()


class SqliteStore:
    """One SQLite file; see ``contract.Store``. Made by ``opening.open_store``."""

    inline_reads = True
    exclusive = True

    def __init__(self, path: Path, lock: LockFile | None, revision: str) -> None:
        """Take over ``lock``, which holds what the mode needs; without one, the store can only be read.

        The file is checked and its schema is current.
        """
        self._path, self._lock, self._revision = path, lock, revision
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._handles_lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._closed = False
        self._writer: Writer | None = None
        if lock is not None:
            session = SqliteSession(path, lock, self._tell, self._close_readers)
            self._writer = Writer(session, f"store-writer-{path.name}")

    # ------------------------------------------------------------ reading
    def read(self, fn: Callable[[Reader], T]) -> T:
        return self._read(fn)

    def _read(self, fn: Callable[[SqliteReader], T]) -> T:
        handle = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._new_handle()
        connection = handle.connection
        if connection is not None and connection.in_transaction:
            return fn(handle.reader)  # a read inside a read sees the same snapshot
        with handle.lock:
            if handle.connection is None:
                raise UnavailableError("the store is closed")
            try:
                handle.connection.execute("BEGIN")
                try:
                    return fn(handle.reader)
                finally:
                    handle.connection.execute("ROLLBACK")
            except sqlite3.DatabaseError as exc:
                raise UnavailableError(f"the database cannot be read: {exc}") from exc

    def _new_handle(self) -> _Handle:
        with self._handles_lock:
            if self._closed:
                raise UnavailableError("the store is closed")
            try:
                handle = _Handle(self._path)
            except sqlite3.Error as exc:
                raise UnavailableError(f"the database cannot be opened: {exc}") from exc
            self._handles.add(handle)
        self._local.handle = handle
        return handle

    def _close_readers(self) -> None:
        with self._handles_lock:
            handles = list(self._handles)
        for handle in handles:
            handle.close()

    # ------------------------------------------------------------ writing
    def write(self, fn: Callable[[Transaction], T]) -> T:
        writer = self._writing()
        if writer.is_current_thread:
            raise RuntimeError("a write inside a write, or in a listener, would wait for itself")
        future: Future[T] = writer.submit(fn)
        return future.result()

    def write_soon(self, fn: Callable[[Transaction], T]) -> Future[T]:
        return self._writing().submit(fn)

    def _writing(self) -> Writer:
        if self._writer is None:
            raise UnavailableError("the store was opened for reading only")
        return self._writer

    # ------------------------------------------------------------ signals
    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._handles_lock:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            with self._handles_lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def _tell(self, signal: Signal) -> None:
        for listener in self._listeners:
            try:
                listener(signal)
            except Exception as exc:  # noqa: BLE001  a broken listener must not stop every write of the process
                sys.stderr.write(f"a subscriber of the store failed: {exc!r}\n")

    # ------------------------------------------------------------ the rest
    def cleanup_lock(self) -> CleanupLock:
        return CleanupLock(lock_path(self._path))

    def info(self) -> StoreInfo:
        return self._read(lambda reader: describe(reader, self._path, self._revision))

    def close(self) -> None:
        with self._handles_lock:
            self._closed = True
        if self._writer is not None:
            self._writer.close()
        self._close_readers()
        if self._lock is not None:
            self._lock.close()
