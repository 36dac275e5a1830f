"""The store on PostgreSQL: a pool of connections, one transaction for each function.

Connections are in ``postgres_connect``, what is asked and written in ``reading`` and ``writing`` as for every store,
what other processes do in ``postgres_pulse``, and making and migrating in ``postgres_opening``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

from async_delivery.domain.errors import StoreBusyError, UnavailableError
from async_delivery.storage import postgres_connect, postgres_info
from async_delivery.storage.contract import Reader, Signal, StoreInfo, Transaction
from async_delivery.storage.counts import counts
from async_delivery.storage.mode import Mode
from async_delivery.storage.postgres_clock import DatabaseClock
from async_delivery.storage.postgres_connect import Limits
from async_delivery.storage.postgres_pulse import Pulse
from async_delivery.storage.postgres_session import (
    TEXTS,
    PostgresReader,
    PostgresTransaction,
    Session,
)
from async_delivery.storage.postgres_trouble import (
    has_collided,
    is_not_prepared,
    is_trouble,
    unavailable,
    uncertain,
)
from async_delivery.storage.schema import APPLICATION_ID, LOCK_CLEANUP

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

T = TypeVar("T")
Listener = Callable[[Signal], Any]

DEFAULT_CONNECTIONS = 10
# How long a caller waits for a connection: it should hear of a database that is away rather than hang.
_WAIT_SECONDS = 3.0
# The same while it is known to be away: many callers that wait for nothing would keep all threads busy.
_AWAY_WAIT_SECONDS = 0.3
# Collisions are settled by chance; so many in a row are no chance any more.
_MAX_COLLISIONS = 8
_BEGIN_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITE = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_COMMIT, _ROLLBACK = b"COMMIT", b"ROLLBACK"


class _OnceMore(Exception):  # noqa: N818  not an error: nothing was kept, and it is run again
    def __init__(self, cause: BaseException, *, collided: bool) -> None:
        super().__init__(str(cause))
        self.cause, self.collided = cause, collided


class PostgresStore:
    """One database on PostgreSQL; see ``contract.Store``. Made by ``opening.open_store``."""

    inline_reads = False
    exclusive = False

    def __init__(
        self,
        conninfo: str,
        store_id: str,
        revision: str,
        mode: Mode,
        facts: postgres_info.Facts,
        connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        """The database is checked and its schema is current.

        connections   the most this process has open at a time for reads and writes; two more listen and notify
        """
        self._conninfo, self._store_id, self._revision, self._facts = conninfo, store_id, revision, facts
        self._read_only = mode is Mode.READ_ONLY
        # A tool may count or copy everything there is; beside requests nothing may take so long.
        self._limits = Limits() if mode is Mode.SERVE else Limits(3600, 10, 3600)
        self._prepare_threshold: int | None = 5
        self._pool = ConnectionPool(
            conninfo,
            min_size=1,
            max_size=connections,
            open=True,
            timeout=_WAIT_SECONDS,
            # Not minutes: the next caller tries again.
            reconnect_timeout=2.0,
            configure=self._configure,
            kwargs={"autocommit": True},
            name=f"store-{store_id[:8]}",
        )
        self._busy = threading.local()
        self._listeners_lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._clock = DatabaseClock()
        self._writers = ThreadPoolExecutor(connections, thread_name_prefix="store-writer")
        self._pulse: Pulse | None = None
        self._attempts = connections + 1
        with self._borrowed("cannot be reached") as connection:
            self._clock.measure(connection)
        if mode is not Mode.READ_ONLY:
            self._pulse = Pulse(self._connect, self._clock, self._tell, self._take_facts)

    # ------------------------------------------------------------ connections
    def _connect(self) -> Connection:
        connection = postgres_connect.connect(self._conninfo)
        try:
            self._configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _configure(self, connection: Connection) -> None:
        postgres_connect.prepare(connection, self._limits, read_only=self._read_only)
        connection.prepare_threshold = self._prepare_threshold
        if postgres_connect.store_id_of(connection) != self._store_id:
            raise psycopg.OperationalError("another store is in the database than when this process started")

    @contextmanager
    def _borrowed(self, what: str) -> Iterator[Connection]:
        try:
            away = self._pulse is not None and self._pulse.away
            connection = self._pool.getconn(_AWAY_WAIT_SECONDS if away else _WAIT_SECONDS)
        except psycopg.Error as exc:
            raise unavailable(exc, what) from exc
        connection.prepare_threshold = self._prepare_threshold
        try:
            yield connection
        finally:
            self._pool.putconn(connection)

    def _again(self, run: Callable[[], T], what: str) -> T:
        """``run`` until it is done or does not ask for another try."""
        collisions, lost = 0, 0
        while True:
            try:
                return run()
            except _OnceMore as exc:
                collisions += exc.collided
                lost += not exc.collided
                # Every connection of the pool may have been lost with a restart of the database.
                if collisions > _MAX_COLLISIONS or lost > self._attempts:
                    raise unavailable(exc.cause, what) from exc.cause

    def _sort_out(
        self, exc: psycopg.Error, connection: Connection, what: str, *, committing: bool
    ) -> Exception:
        """What to raise for ``exc``."""
        if is_not_prepared(exc):
            self._prepare_threshold = None
            return _OnceMore(exc, collided=False)
        if has_collided(exc):
            return _OnceMore(exc, collided=True)
        if connection.broken:
            return uncertain(exc) if committing else _OnceMore(exc, collided=False)
        return unavailable(exc, what) if is_trouble(exc) else exc

    # ------------------------------------------------------------ reading
    def read(self, fn: Callable[[Reader], T]) -> T:
        current: PostgresReader | None = getattr(self._busy, "reader", None)
        if current is not None:
            return fn(current)  # a read inside a read sees the same snapshot
        return self._again(lambda: self._read_once(fn), "cannot be read")

    def _read_once(self, fn: Callable[[Reader], T]) -> T:
        with self._borrowed("cannot be read") as connection:
            reader = PostgresReader(Session(connection), TEXTS)
            self._busy.reader = reader
            try:
                connection.execute(_BEGIN_READ)
                return fn(reader)
            except psycopg.Error as exc:
                raise self._sort_out(exc, connection, "cannot be read", committing=False) from exc
            finally:
                self._busy.reader = None
                _end(connection)

    # ------------------------------------------------------------ writing
    def write(self, fn: Callable[[Transaction], T]) -> T:
        if self._read_only:
            raise UnavailableError("the store was opened for reading only")
        if getattr(self._busy, "writing", False):
            raise RuntimeError("a write inside a write, or in a listener, would wait for itself")
        self._busy.writing = True
        try:
            return self._again(lambda: self._write_once(fn), "refuses to write")
        finally:
            self._busy.writing = False

    def _write_once(self, fn: Callable[[Transaction], T]) -> T:
        committing = False
        with self._borrowed("refuses to write") as connection:
            transaction = PostgresTransaction(Session(connection), TEXTS)
            try:
                connection.execute(_BEGIN_WRITE)
                value = fn(transaction)
                committing = True
                connection.execute(_COMMIT)
            except psycopg.Error as exc:
                raise self._sort_out(exc, connection, "refuses to write", committing=committing) from exc
            finally:
                _end(connection)
        for signal in transaction.signals:
            self._tell(signal)
        if self._pulse is not None and transaction.signals:
            self._pulse.tell(transaction.signals)
        return value

    def write_soon(self, fn: Callable[[Transaction], T]) -> Future[T]:
        try:
            return self._writers.submit(self.write, fn)
        except RuntimeError as exc:
            raise UnavailableError("the store is closed") from exc

    # ------------------------------------------------------------ signals
    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._listeners_lock:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            with self._listeners_lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def _tell(self, signal: Signal) -> None:
        for listener in self._listeners:
            try:
                listener(signal)
            except Exception as exc:  # noqa: BLE001  a broken listener must not stop every write of the process
                sys.stderr.write(f"a subscriber of the store failed: {exc!r}\n")

    # ------------------------------------------------------------ the rest
    @property
    def durability(self) -> str:
        """As the server is set up now."""
        return self._facts.durability

    def _take_facts(self, facts: postgres_info.Facts) -> None:
        self._facts = facts

    def clock(self) -> datetime:
        return self._clock.now()

    def is_served(self) -> bool:
        return not self._read_only

    def cleanup_lock(self) -> CleanupPlace:
        return CleanupPlace(self._connect)

    def info(self) -> StoreInfo:
        def describe(reader: Reader) -> StoreInfo:
            if not isinstance(reader, PostgresReader):
                raise TypeError("a reader of this store")
            return StoreInfo(
                dialect="postgresql",
                database=_place(self._conninfo),
                schema_revision=self._revision,
                durability=self._facts.durability,
                size_bytes=reader.sizes()[0],
                counts=counts(reader),
                warnings=tuple(self._facts.warnings()),
            )

        return self.read(describe)

    def close(self) -> None:
        self._writers.shutdown(wait=True)
        if self._pulse is not None:
            self._pulse.close()
        self._pool.close()


def _end(connection: Connection) -> None:
    """Leave nothing open: a function that raised keeps nothing."""
    if connection.info.transaction_status is not TransactionStatus.IDLE:
        with suppress(psycopg.Error):
            connection.execute(_ROLLBACK)


def _place(conninfo: str) -> str:
    """Where the database is, without anything secret."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415  beside the only use

    said = conninfo_to_dict(conninfo)
    shown = {name: said[name] for name in ("service", "user", "host", "port", "dbname") if said.get(name)}
    return "postgresql " + " ".join(f"{name}={value}" for name, value in shown.items())


class CleanupPlace:
    """Holds the one place for a cleanup over all processes and hosts: an advisory lock of a transaction that does
    nothing else, so that it ends with the process and passes through any pooler."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._make = connect
        self._connection: Connection | None = None

    def __enter__(self) -> CleanupPlace:
        try:
            connection = self._make()
        except psycopg.Error as exc:
            raise unavailable(exc, "cannot be reached") from exc
        try:
            connection.execute(_BEGIN_WRITE)
            connection.execute(b"SELECT set_config('idle_in_transaction_session_timeout', '0', true)")
            row = connection.execute(
                b"SELECT pg_try_advisory_xact_lock(%s::int, %s::int)", (APPLICATION_ID, LOCK_CLEANUP)
            ).fetchone()
        except psycopg.Error as exc:
            connection.close()
            raise unavailable(exc, "cannot be reached") from exc
        if row is None or not row[0]:
            connection.close()
            raise StoreBusyError("another cleanup of this store is running; wait for it to end")
        self._connection = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
