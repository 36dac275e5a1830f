"""Snapshots for readers: one read-only connection per thread, closed with its thread or with the store."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from async_delivery.domain.errors import UnavailableError
from async_delivery.storage.dialects import SQLITE, Texts
from async_delivery.storage.sqlite_files import connect_reader, resting_state, size_of
from async_delivery.storage.sqlite_index import LogIndex, map_log_index
from async_delivery.storage.sqlite_placed import PlacedReader
from async_delivery.storage.sqlite_trouble import DATABASE_FAULTS, unavailable
from async_delivery.storage.standing import Standing

T = TypeVar("T")

TEXTS = Texts(SQLITE)


class SqliteReader(PlacedReader):
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

    def sizes(self) -> tuple[int, int]:
        path = Path(self._connection.execute("PRAGMA database_list").fetchone()[2])
        return size_of(path), size_of(path.with_name(path.name + "-wal"))


class _Handle:
    """One thread's connection. ``state`` is set while it looks at a file at rest."""

    def __init__(self, path: Path, *, may_rest: bool) -> None:
        self.lock = threading.Lock()
        self._path = path
        self._index: LogIndex | None = None
        self._is_mapped = False
        self.state = resting_state(path) if may_rest else None
        self.connection: sqlite3.Connection | None = connect_reader(path, resting=self.state is not None)
        self.reader = SqliteReader(self.connection, TEXTS)

    def version(self) -> bytes | None:
        """See ``Readers.version``. For the handle's own thread, with its lock."""
        if self.connection is None:
            return None
        if not self._is_mapped:
            self._is_mapped = True
            # From its first read on, SQLite has the index of the log open.
            self.connection.execute("PRAGMA schema_version").fetchone()
            self._index = map_log_index(self._path)
        return None if self._index is None else self._index.version()

    def close(self) -> None:
        with self.lock:
            connection, self.connection = self.connection, None
            if self._index is not None:
                self._index.close()
            if connection is not None:
                connection.close()

    def __del__(self) -> None:
        # Nobody refers to it any more, so nobody holds its lock.
        if getattr(self, "connection", None) is not None:
            self.close()


class Readers:
    """Runs questions over snapshots. Safe to use from any thread.

    may_rest   look at a file that nobody writes without making the log and its index beside it
    """

    def __init__(self, path: Path, standing: Standing, *, may_rest: bool) -> None:
        self._path, self._standing, self._may_rest = path, standing, may_rest
        self._local = threading.local()
        self._handles: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False

    def read(self, fn: Callable[[SqliteReader], T]) -> T:
        """Run ``fn`` over one snapshot. Raises UnavailableError."""
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._open()
        connection = handle.connection
        if connection is not None and connection.in_transaction:
            return fn(handle.reader)  # a read inside a read sees the same snapshot
        if handle.state is not None:
            return self._read_at_rest(handle, fn)
        self._standing.require_for_reading()
        return self._read(handle, fn)

    def _read(self, handle: _Handle, fn: Callable[[SqliteReader], T]) -> T:
        with handle.lock:
            connection = handle.connection
            if connection is None:
                raise UnavailableError("the store is closed")
            try:
                connection.execute("BEGIN")
                try:
                    return fn(handle.reader)
                finally:
                    connection.execute("ROLLBACK")
            except DATABASE_FAULTS as exc:
                raise unavailable(exc, "cannot be read", self._path) from exc

    def ask(self, fn: Callable[[SqliteReader], T]) -> T:
        """``read`` for a single statement, which is a snapshot by itself: it spares the two around it, which cost
        as much. Raises UnavailableError."""
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.state is not None or handle.lock.locked():
            return self.read(fn)
        self._standing.require_for_reading()
        with handle.lock:
            if handle.connection is None:
                raise UnavailableError("the store is closed")
            try:
                return fn(handle.reader)
            except DATABASE_FAULTS as exc:
                raise unavailable(exc, "cannot be read", self._path) from exc

    def version(self) -> bytes | None:
        """See ``contract.Store.version``. Raises UnavailableError."""
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._open()
        if handle.state is not None or handle.lock.locked():
            return None
        self._standing.require_for_reading()
        with handle.lock:
            try:
                return handle.version()
            except DATABASE_FAULTS as exc:
                raise unavailable(exc, "cannot be read", self._path) from exc

    def _read_at_rest(self, handle: _Handle, fn: Callable[[SqliteReader], T]) -> T:
        try:
            answer = self._read(handle, fn)
        except UnavailableError:
            if resting_state(self._path) == handle.state:
                raise
        else:
            if resting_state(self._path) == handle.state:
                return answer
        # Somebody has begun to write: what was read may be half of this and half of that.
        handle.close()
        self._may_rest = False
        return self._read(self._open(), fn)

    def _open(self) -> _Handle:
        with self._lock:
            if self._closed:
                raise UnavailableError("the store is closed")
            try:
                handle = _Handle(self._path, may_rest=self._may_rest)
            except (*DATABASE_FAULTS, OSError) as exc:
                raise unavailable(exc, "cannot be opened", self._path) from exc
            self._handles.add(handle)
        self._standing.require_opened()
        self._local.handle = handle
        return handle

    def refuse(self) -> None:
        """From now on no thread gets a new connection."""
        with self._lock:
            self._closed = True

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self.refuse()
        with self._lock:
            handles = list(self._handles)
        for handle in handles:
            handle.close()
