"""The store on PostgreSQL: a pool of connections, one transaction for each function or for a group of them.

Connections are in ``postgres_connect``, groups in ``postgres_groups``, what is asked and written in ``reading`` and
``writing`` as for every store, what other processes do in ``postgres_pulse``, and making and migrating in
``postgres_opening``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from async_delivery import telemetry
from async_delivery.domain.errors import StoreBusyError, UnavailableError
from async_delivery.storage import postgres_info
from async_delivery.storage.contract import Reader, Signal, StoreInfo, Transaction
from async_delivery.storage.counts import counts
from async_delivery.storage.listeners import Listener, Listeners
from async_delivery.storage.mode import Mode
from async_delivery.storage.postgres_clock import DatabaseClock
from async_delivery.storage.postgres_connect import Limits
from async_delivery.storage.postgres_groups import Groups
from async_delivery.storage.postgres_pool import DEFAULT_CONNECTIONS, Connections
from async_delivery.storage.postgres_pulse import Pulse
from async_delivery.storage.postgres_session import (
    PostgresReader,
    PostgresTransaction,
    Session,
)
from async_delivery.storage.postgres_together import TEXTS
from async_delivery.storage.postgres_trouble import (
    has_collided,
    is_broken,
    is_not_prepared,
    is_trouble,
    unavailable,
    uncertain,
)
from async_delivery.storage.schema import APPLICATION_ID, LOCK_CLEANUP

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

T = TypeVar("T")

# Collisions are settled by chance; so many in a row are no chance any more.
_MAX_COLLISIONS = 8
# A tool may count or copy everything there is; beside requests nothing may take so long.
_SERVING, _TOOLING = Limits(), Limits(statement_seconds=3600.0, idle_seconds=3600.0)


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
        Raises UnavailableError.
        """
        self._conninfo, self._revision = conninfo, revision
        self._read_only, self._serves = mode is Mode.READ_ONLY, mode is Mode.SERVE
        self._told: tuple[str, ...] = ()
        self._take(facts)
        limits = _SERVING if mode is Mode.SERVE else _TOOLING
        self._connections = Connections(conninfo, store_id, limits, connections)
        # Every connection may have been lost with a restart of the database, and each is met once.
        self._attempts = connections + 1
        self._busy = threading.local()
        self._listeners = Listeners()
        self._clock = DatabaseClock()
        self._pulse: Pulse | None = None
        try:
            with self._connections.lent("cannot be reached", away=False) as connection:
                self._clock.measure(connection)
        except BaseException:
            self._connections.close()
            raise
        self._writers = ThreadPoolExecutor(connections, thread_name_prefix="store-alone")
        if not self._read_only:
            self._pulse = Pulse(self._connections.new, self._clock, self._tell, self._look)
        self._groups = Groups(
            self._connections, self._clock, self._write_alone, self._tell_all, lambda: self._away, self._busy
        )

    @property
    def _away(self) -> bool:
        return self._pulse is not None and self._pulse.away

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
            self._connections.prepare_no_more()
            return _OnceMore(exc, collided=False)
        if has_collided(exc):
            return _OnceMore(exc, collided=True)
        if is_broken(exc, connection):
            return uncertain(exc) if committing else _OnceMore(exc, collided=False)
        return unavailable(exc, what) if is_trouble(exc) else exc

    # ------------------------------------------------------------ reading
    def read(self, fn: Callable[[Reader], T]) -> T:
        current: PostgresReader | None = getattr(self._busy, "reader", None)
        if current is not None:
            return fn(current)  # a read inside a read sees the same snapshot
        return self._again(lambda: self._read_once(fn), "cannot be read")

    def ask(self, fn: Callable[[Reader], T]) -> T:
        # A statement outside of a transaction would have no time limits.
        return self.read(fn)

    def version(self) -> bytes | None:
        return None  # no word of the server's tells it without a trip

    def _read_once(self, fn: Callable[[Reader], T]) -> T:
        beside = getattr(self._busy, "writing", False)
        with self._connections.lent("cannot be read", away=self._away, beside=beside) as connection:
            reader = PostgresReader(Session(connection), TEXTS)
            self._busy.reader = reader
            try:
                self._connections.begin_read(connection)
                return fn(reader)
            except psycopg.Error as exc:
                raise self._sort_out(exc, connection, "cannot be read", committing=False) from exc
            finally:
                self._busy.reader = None
                self._connections.end(connection)

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
        with self._connections.lent("refuses to write", away=self._away) as connection:
            transaction = PostgresTransaction(Session(connection), TEXTS, self._clock)
            try:
                self._connections.begin_write(connection)
                value = fn(transaction)
                committing = True
                self._connections.commit(connection)
            except psycopg.Error as exc:
                raise self._sort_out(exc, connection, "refuses to write", committing=committing) from exc
            finally:
                self._connections.end(connection)
        self._tell_all(transaction.signals)
        return value

    def write_soon(self, fn: Callable[[Transaction], T]) -> Future[T]:
        if self._read_only:
            return self._writers.submit(self.write, fn)
        return self._groups.submit(fn)

    def _write_alone(self, fn: Callable[[Transaction], Any], future: Future[Any]) -> None:
        """``write`` on some thread, for a future that is running."""

        def run() -> None:
            try:
                value = self.write(fn)
            except BaseException as exc:  # noqa: BLE001  the future's
                future.set_exception(exc)
            else:
                future.set_result(value)

        self._writers.submit(run)

    # ------------------------------------------------------------ signals
    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return self._listeners.add(listener)

    def _tell_all(self, signals: Sequence[Signal]) -> None:
        for signal in signals:
            self._tell(signal)
        if self._pulse is not None and signals:
            self._pulse.tell(signals)

    def _tell(self, signal: Signal) -> None:
        was_writing, self._busy.writing = getattr(self._busy, "writing", False), True
        try:
            self._listeners.tell(signal)
        finally:
            self._busy.writing = was_writing

    # ------------------------------------------------------------ the rest
    @property
    def durability(self) -> str:
        """As the server is set up now."""
        return self._facts.durability

    def _look(self, connection: Connection) -> None:
        """See that the database is still this store's, and how it is set up. Raises psycopg.Error."""
        self._connections.require_own(connection)
        self._take(postgres_info.ask(connection))

    def _take(self, facts: postgres_info.Facts) -> None:
        """Keep what the server says of itself, and let the operator hear what is wrong with it, each once."""
        self._facts = facts
        found = tuple(facts.warnings())
        for warning in found:
            if self._serves and warning not in self._told:
                telemetry.emit("store.weak", warning=warning)
        self._told = found

    def clock(self) -> datetime:
        return self._clock.now()

    def is_served(self) -> bool:
        return not self._read_only

    def cleanup_lock(self) -> CleanupPlace:
        return CleanupPlace(self._connections)

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
        self._groups.close()
        self._writers.shutdown(wait=True)
        if self._pulse is not None:
            self._pulse.close()
        self._connections.close()


def _place(conninfo: str) -> str:
    """Where the database is, without anything secret."""
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415  beside the only use

    said = conninfo_to_dict(conninfo)
    shown = {name: said[name] for name in ("service", "user", "host", "port", "dbname") if said.get(name)}
    return "postgresql " + " ".join(f"{name}={value}" for name, value in shown.items())


class CleanupPlace:
    """Holds the one place for a cleanup over all processes and hosts: an advisory lock of a transaction that does
    nothing else, so that it ends with the process and passes through any pooler."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._connection: Connection | None = None

    def __enter__(self) -> CleanupPlace:
        try:
            connection = self._connections.new()
        except psycopg.Error as exc:
            raise unavailable(exc, "cannot be reached") from exc
        try:
            self._connections.begin_write(connection)
            connection.execute(b"SET LOCAL idle_in_transaction_session_timeout = 0")
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
            # Not by closing alone: the server would give the place up only some time after we have gone on.
            self._connections.end(connection)
            connection.close()
