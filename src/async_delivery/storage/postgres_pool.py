"""The connections of one process to its database: made, checked to lead to the right store, lent, and replaced.

Every transaction begins with its own time limits, in the same message. Settings of a session would do as well, but
where a pooler lends connections by the transaction they would be left behind for whoever comes next.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed

from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.storage import postgres_connect
from async_delivery.storage.postgres_connect import Limits
from async_delivery.storage.postgres_trouble import unavailable

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

DEFAULT_CONNECTIONS = 10
# How long a caller waits for a connection: it should hear of a database that is away rather than hang.
_WAIT_SECONDS = 3.0
# The same while it is known to be away: many callers that wait for nothing would keep all threads busy.
_AWAY_WAIT_SECONDS = 0.3
# Not minutes: the next caller tries again.
_RECONNECT_SECONDS = 2.0
# A line for every try while the database is away: that it is away is told once, and callers hear why.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
# How long many that share a transaction wait for a lock that one of them wants, before each goes by itself. Less than
# PostgreSQL's own second until it looks for deadlocks.
_GROUP_LOCK_SECONDS = 0.5


def _with(begin: str, limits: Limits) -> bytes:
    """``begin`` and the time limits of its transaction, as one message."""
    set_limits = "".join(f"; SET LOCAL {name} = {value}" for name, value in limits.settings().items())
    return f"{begin}{set_limits}".encode()


class _Noting(psycopg.Connection[tuple[Any, ...]]):
    """A connection that tells why it could not be made; the pool would keep it to itself."""

    @classmethod
    def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, note: Callable[[BaseException | None], None], **kwargs: Any
    ) -> Connection:
        try:
            return super().connect(conninfo, **kwargs)
        except psycopg.Error as exc:
            note(exc)
            raise


class Connections:
    """Safe to use from any thread."""

    def __init__(self, conninfo: str, store_id: str, limits: Limits, most: int) -> None:
        """``most`` are open at a time, and one more if a write reads beside itself."""
        self._conninfo, self._store_id = conninfo, store_id
        self._begin_read, self._begin_write = (_with(begin, limits) for begin in (_READ, _WRITE))
        soon = min(limits.lock_seconds, _GROUP_LOCK_SECONDS)
        self._begin_group = _with(_WRITE, replace(limits, lock_seconds=soon))
        # None once a pooler has been met that lends other sessions than the one a statement was prepared in.
        self._prepare_threshold: int | None = 5
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._beside: ConnectionPool[Connection] | None = None
        self._pool = self._new_pool(1, most)

    def _new_pool(self, least: int, most: int) -> ConnectionPool[Connection]:
        return ConnectionPool(
            self._conninfo,
            connection_class=_Noting,
            min_size=least,
            max_size=most,
            open=True,
            timeout=_WAIT_SECONDS,
            reconnect_timeout=_RECONNECT_SECONDS,
            configure=self._configure,
            kwargs={"autocommit": True, "note": self._note},
            name=f"store-{self._store_id[:8]}",
        )

    def _note(self, failure: BaseException | None) -> None:
        self._failure = failure

    def _configure(self, connection: Connection) -> None:
        # The driver names its statements by a number. Were they the same on every connection, a pooler that lends
        # sessions by the transaction could have one process run what another has prepared under that name; so it is
        # not there, which is noticed.
        connection._prepared._prepared_idx = int.from_bytes(os.urandom(7))  # noqa: TID251  no other way
        try:
            self.require_own(connection)
        except psycopg.Error as exc:
            self._note(exc)
            raise
        self._note(None)

    def require_own(self, connection: Connection) -> None:
        """See that the database still holds this store. Raises psycopg.Error.

        Of what is found to be wrong here, nothing is done any more on the connections there are."""
        try:
            if postgres_connect.store_id_of(connection) != self._store_id:
                raise psycopg.OperationalError(
                    "the database holds another store than when this process started"
                )
        except psycopg.Error:
            if not connection.broken:
                self.renew()
            raise

    def renew(self) -> None:
        """Let go of every connection that nobody uses now; new ones are checked anew."""
        for pool in (self._pool, self._beside):
            if pool is not None and not pool.closed:
                pool.drain()

    def new(self) -> Connection:
        """A connection that is not lent but the caller's own. Raises psycopg.Error."""
        if self._closed:
            raise PoolClosed("the store is closed")
        connection = postgres_connect.connect(self._conninfo)
        try:
            self.require_own(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def lent(self, what: str, *, away: bool, beside: bool = False) -> Iterator[Connection]:
        """A connection until the end of the block. Raises UnavailableError.

        what     completes "the database ..." for people
        away     it is known that there is no database now
        beside   for a read by a thread that has one already: with as many such threads as connections all would
                 wait for one another
        """
        pool = self._pool_beside() if beside else self._pool
        try:
            connection = pool.getconn(_AWAY_WAIT_SECONDS if away else _WAIT_SECONDS)
        except psycopg.Error as exc:
            raise unavailable(exc, what, self._failure) from exc
        connection.prepare_threshold = self._prepare_threshold
        try:
            yield connection
        finally:
            pool.putconn(connection)

    def _pool_beside(self) -> ConnectionPool[Connection]:
        with self._lock:
            if self._beside is None and not self._closed:
                self._beside = self._new_pool(0, 1)
            return self._beside or self._pool

    def prepare_no_more(self) -> None:
        """Send every statement as it is."""
        self._prepare_threshold = None

    # ------------------------------------------------------------ transactions
    # Their statements are never prepared: that would save nothing, and fails behind a pooler.
    def begin_read(self, connection: Connection) -> None:
        """Open a transaction over one snapshot. Raises psycopg.Error."""
        connection.execute(self._begin_read, prepare=False)

    def begin_write(self, connection: Connection) -> None:
        """Open a transaction that sees what others commit. Raises psycopg.Error."""
        connection.execute(self._begin_write, prepare=False)

    def begin_group(self, connection: Connection) -> None:
        """The same for many functions, who must not wait long for what one of them wants. Raises psycopg.Error."""
        connection.execute(self._begin_group, prepare=False)

    @staticmethod
    def commit(connection: Connection) -> None:
        """Raises psycopg.Error, AsyncDeliveryError if there is nothing that could be committed."""
        if connection.info.transaction_status is TransactionStatus.INERROR:
            # PostgreSQL would roll back and report success.
            raise AsyncDeliveryError(
                "a statement of this write failed, and its function went on as if it had not: nothing is kept"
            )
        connection.execute(b"COMMIT", prepare=False)

    @staticmethod
    def end(connection: Connection) -> None:
        """Leave nothing open: a function that raised keeps nothing."""
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            with suppress(psycopg.Error):
                connection.execute(b"ROLLBACK", prepare=False)

    def close(self) -> None:
        """Close all that nobody uses, and the others when they are given back. Idempotent."""
        with self._lock:
            self._closed = True
        self._pool.close()
        if self._beside is not None:
            self._beside.close()
