"""The store on SQLite: one writer thread that commits groups of functions, readers beside it.

Connections are in ``sqlite_files`` and ``sqlite_readers``, the thread in ``writer``, the lock file in ``locks``; what
is asked and written is in ``reading`` and ``writing``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.errors import NoRoomError, UnavailableError
from async_delivery.domain.job import Job
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.reserve import Reserve
from async_delivery.domain.tenant import OrgId
from async_delivery.storage import dispatch
from async_delivery.storage import statements as sql
from async_delivery.storage.ballast import Ballast
from async_delivery.storage.contract import Reader, Signal, StoreInfo, Transaction
from async_delivery.storage.dialects import Texts
from async_delivery.storage.listeners import Listener, Listeners
from async_delivery.storage.locks import CleanupLock, LockFile
from async_delivery.storage.reading import Params
from async_delivery.storage.sqlite_files import BUSY_SECONDS, connect_writer, lock_path
from async_delivery.storage.sqlite_info import DURABILITY, describe
from async_delivery.storage.sqlite_placed import PLACED
from async_delivery.storage.sqlite_readers import TEXTS, Readers, SqliteReader
from async_delivery.storage.sqlite_trouble import DATABASE_FAULTS, is_full, out_of_room, unavailable
from async_delivery.storage.standing import Standing
from async_delivery.storage.writer import Writer
from async_delivery.storage.writing import SqlTransaction, Write

T = TypeVar("T")


class SqliteTransaction(SqliteReader, SqlTransaction):
    """A Transaction on SQLite."""

    integrity_error = sqlite3.IntegrityError

    def __init__(self, connection: sqlite3.Connection, texts: Texts, ballast: Ballast) -> None:
        super().__init__(connection, texts)
        self._sqlite = connection
        self._ballast = ballast

    def _entering(self, change: Change) -> list[Write]:
        self._ballast.require_room(self._unused_bytes)
        (_, columns), *others = super()._entering(change)
        # Each parameter is bound by itself, and a new job has nothing yet in half of its columns.
        given = {name: value for name, value in columns.items() if value is not None}
        return [(sql.enter_job(tuple(given)), given), *others]

    def enter_result(self, columns: Params) -> int:
        # RETURNING gathers its rows in a table first; that the key is the row's own number, the driver knows anyhow.
        text, pick = PLACED[sql.ENTER_RESULT]
        key = self._sqlite.execute(text, pick(columns)).lastrowid
        if key is None:
            raise sqlite3.OperationalError("a result was entered without a key")
        return key

    def claimable(
        self, limit: int, analyses: Sequence[str] | None, max_running_per_tenant: int | None, now: datetime
    ) -> list[Job]:
        if limit == 1 and max_running_per_tenant is None:
            job = dispatch.claimable_at_once(self, analyses, now)
            if job is not None:
                return [job]
        return super().claimable(limit, analyses, max_running_per_tenant, now)

    def add_input_chunk(self, org_id: OrgId, input_id: str, seq: int, data: bytes, now: datetime) -> None:
        self._ballast.require_room(self._unused_bytes)
        super().add_input_chunk(org_id, input_id, seq, data, now)

    def run_many(self, statement: ClauseElement, rows_: Sequence[Params]) -> None:
        text, pick = PLACED[statement]
        self._sqlite.executemany(text, [pick(row) for row in rows_])

    def _unused_bytes(self) -> int:
        """Room inside the database, left by what was deleted."""
        ask = self._connection.execute
        pages, page_bytes = ask("PRAGMA freelist_count").fetchone()[0], ask("PRAGMA page_size").fetchone()[0]
        return int(pages * page_bytes)

    def is_duplicate(self, exc: Exception) -> bool:
        return isinstance(exc, sqlite3.IntegrityError) and exc.sqlite_errorname in {
            "SQLITE_CONSTRAINT_UNIQUE",
            "SQLITE_CONSTRAINT_PRIMARYKEY",
            "SQLITE_CONSTRAINT_ROWID",
        }


class SqliteSession:
    """The writer's connection; see ``writer.Session``."""

    def __init__(
        self,
        path: Path,
        lock: LockFile,
        standing: Standing,
        ballast: Ballast,
        tell: Callable[[Signal], None],
        before_close: Callable[[], None],
    ):
        self._path, self._lock, self._standing, self._ballast = path, lock, standing, ballast
        self._tell, self._before_close = tell, before_close
        self._connection: sqlite3.Connection | None = None

    def begin(self) -> SqliteTransaction:
        self._lock.take_writer(BUSY_SECONDS)
        try:
            # Two or three look-ups of a name, some microseconds beside a synced commit.
            self._standing.require_for_writing()
        except UnavailableError:
            # The connection stays: it is the only way to what its log still holds.
            self._lock.release_writer()
            raise
        tight = self._ballast.tend()
        if self._connection is None:
            self._connect(tight)
        else:
            if tight:
                self._empty_log(self._connection)
            self._connection.execute("BEGIN IMMEDIATE")
        return SqliteTransaction(self._open(), TEXTS, self._ballast)

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Work the log into the file, as far as readers let us, so that this transaction begins it anew: on a disk
        without room it cannot grow, although all that it holds may be in the file already."""
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.OperationalError as exc:
            if not is_full(exc, self._path):
                raise
            # No room for what is new in it: some of the reserve, or else the log has to grow.
            if self._ballast.release():
                self._empty_log(connection)

    def _connect(self, tight: bool) -> None:
        self._connection = connect_writer(self._path)
        if tight:
            self._empty_log(self._connection)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._standing.require_opened()
        except UnavailableError as exc:
            self.abandon(exc)
            raise
        self._standing.note_log()

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
        except DATABASE_FAULTS:
            return False
        return True

    def restart(self, transaction: SqliteTransaction) -> bool:
        connection = self._open()
        transaction.signals.clear()
        try:
            connection.execute("ROLLBACK")
            # The lock file is still held, so nobody has written in between.
            connection.execute("BEGIN IMMEDIATE")
        except DATABASE_FAULTS:
            return False
        return True

    def commit(self) -> None:
        # The automatic checkpoint runs inside COMMIT, so it is under the lock as well.
        self._open().execute("COMMIT")
        self._lock.release_writer()

    def abandon(self, exc: BaseException) -> None:
        if out_of_room(exc) and self._connection is not None and self._rolled_back(self._connection):
            # The last connection to close would remove the log, and its room on a full disk is soon somebody else's.
            self._lock.release_writer()
            return
        # After an error of a sync nobody knows what the page cache still holds: the connection is opened anew.
        connection, self._connection = self._connection, None
        self._standing.forget_log()
        if connection is not None:
            with suppress(*DATABASE_FAULTS):
                connection.execute("ROLLBACK")
            with suppress(*DATABASE_FAULTS):
                connection.close()
        self._lock.release_writer()

    def _rolled_back(self, connection: sqlite3.Connection) -> bool:
        """Whether ``connection`` is as it was before the transaction; it often rolls that back itself."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except DATABASE_FAULTS:
            return False
        return True

    def make_room(self, exc: BaseException) -> bool:
        return is_full(exc, self._path) and self._ballast.release()

    def explain(self, exc: BaseException) -> UnavailableError:
        error = unavailable(exc, "refuses to write", self._path)
        if isinstance(error, NoRoomError):
            # Too late for this one; what comes next, a cleanup for example, finds some room.
            self._ballast.release()
        return error

    def tell(self, transaction: SqliteTransaction) -> None:
        for signal in transaction.signals:
            self._tell(signal)

    def close(self) -> None:
        self._before_close()
        # The last connection to close works the log into the file and removes it, so it closes under the lock too.
        # If another process holds that for too long, this is not the last one, and closing it writes nothing.
        with suppress(UnavailableError):
            self._lock.take_writer(BUSY_SECONDS)
        with suppress(*DATABASE_FAULTS, UnavailableError):
            if self._connection is None:
                self._standing.require_opened()
            # A store that was only read may have left an empty log, which only a connection that writes removes.
            connection = self._connection or connect_writer(self._path)
            connection.execute("PRAGMA user_version")
            connection.close()
        self._connection = None
        self._lock.release_writer()


class SqliteStore:
    """One SQLite file; see ``contract.Store``. Made by ``opening.open_store``."""

    inline_reads = True
    exclusive = True
    durability = DURABILITY

    def __init__(self, path: Path, lock: LockFile | None, revision: str) -> None:
        """Take over ``lock``, which holds what the mode needs; without one, the store can only be read.

        The file is checked and its schema is current.
        """
        self._path, self._lock, self._revision = path, lock, revision
        standing = Standing(path, None if lock is None else (lock.path, lock.identity))
        self._readers = Readers(path, standing, may_rest=lock is None)
        self._listeners = Listeners()
        self._writer: Writer | None = None
        self._ballast = Ballast(path)
        if lock is not None:
            self._session = SqliteSession(
                path, lock, standing, self._ballast, self._listeners.tell, self._readers.close
            )
            self._writer = Writer(self._session, f"store-writer-{path.name}")

    def read(self, fn: Callable[[Reader], T]) -> T:
        return self._readers.read(fn)

    def ask(self, fn: Callable[[Reader], T]) -> T:
        return self._readers.ask(fn)

    def version(self) -> bytes | None:
        return self._readers.version()

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
        return self._listeners.add(listener)

    # ------------------------------------------------------------ the rest
    def clock(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251  this is where the clock comes from

    def is_served(self) -> bool:
        return self._lock is not None and self._lock.is_served()

    def cleanup_lock(self) -> CleanupLock:
        return CleanupLock(lock_path(self._path))

    def keep_reserve(self, asked_bytes: int) -> None:
        """Keep so much of the disk free for cleanups and running jobs; 0 for nothing. For who serves the store."""
        self._ballast.keep(asked_bytes)

    def reserve(self) -> Reserve:
        """How it stands with what is kept."""
        return self._ballast.state()

    def info(self) -> StoreInfo:
        return self._readers.read(lambda reader: describe(reader, self._path, self._revision))

    def close(self) -> None:
        self._readers.refuse()
        if self._writer is not None:
            self._writer.close()
        self._readers.close()
        if self._lock is not None:
            self._lock.close()
