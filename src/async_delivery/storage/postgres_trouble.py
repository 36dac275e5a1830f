"""Errors of PostgreSQL: which are troubles of the database, which are worth another try, and what callers hear."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from async_delivery.domain.errors import UnavailableError
from async_delivery.storage.postgres_connect import first_line

# Nothing was kept, and the same once more may well succeed.
_COLLIDED = (errors.SerializationFailure, errors.DeadlockDetected)
# A pooler that lends connections by the transaction has given us another session than the one we prepared in.
_NOT_PREPARED = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# Not the fault of a statement: the schema was dropped, or the role may no longer use it.
_GONE = (
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.InvalidSchemaName,
    errors.InsufficientPrivilege,
)
# A replica answers BEGIN READ WRITE with the second; nothing else that is asked here is lacking anywhere.
_READ_ONLY = (errors.ReadOnlySqlTransaction, errors.FeatureNotSupported)
_TROUBLE = (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError, *_GONE, *_READ_ONLY)


def is_trouble(exc: BaseException) -> bool:
    """True if the database, the way to it or its settings are at fault."""
    return isinstance(exc, _TROUBLE)


def has_collided(exc: BaseException) -> bool:
    """True if two transactions were in each other's way."""
    return isinstance(exc, _COLLIDED)


def is_not_prepared(exc: BaseException) -> bool:
    """True if a statement that was prepared is not there, or is there already."""
    return isinstance(exc, _NOT_PREPARED)


def is_broken(exc: BaseException, connection: psycopg.Connection[Any]) -> bool:
    """True if the connection was lost by no fault of the transaction on it, which may be run again on another."""
    return connection.broken and not isinstance(exc, errors.IdleInTransactionSessionTimeout)


def unavailable(exc: BaseException, what: str, failure: BaseException | None = None) -> UnavailableError:
    """What callers hear. ``what`` completes "the database ..."; ``failure`` is why no connection can be made."""
    error = UnavailableError(
        f"the database {what}: {_reason(exc, failure)}", retry_after_seconds=_retry_after(exc)
    )
    error.__cause__ = exc
    return error


def uncertain(exc: BaseException) -> UnavailableError:
    """What callers hear when the connection was lost while a commit was under way."""
    error = UnavailableError(
        f"the connection to the database was lost during a commit: {_reason(exc)}; whether the change was kept is not"
        " known"
    )
    error.__cause__ = exc
    return error


def _retry_after(exc: BaseException) -> int:
    return 1 if has_collided(exc) or isinstance(exc, PoolTimeout | TooManyRequests) else 5


def _reason(exc: BaseException, failure: BaseException | None = None) -> str:
    if isinstance(exc, PoolClosed):
        return "the store is closed"
    if isinstance(exc, PoolTimeout | TooManyRequests):
        if failure is None:
            return "no connection is free"
        return f"no connection can be made: {_reason(failure)}"
    if isinstance(exc, _READ_ONLY):
        return (
            "it takes no writes (a replica, or default_transaction_read_only); name the primary, e.g. with"
            " target_session_attrs=read-write"
        )
    if isinstance(exc, errors.DiskFull):
        return f"{first_line(exc)}; free some space on the database's disk"
    if isinstance(exc, errors.QueryCanceled | errors.LockNotAvailable):
        return f"{first_line(exc)} (statement_timeout and lock_timeout bound every statement)"
    if isinstance(exc, errors.IdleInTransactionSessionTimeout):
        return "a transaction was left idle for too long (idle_in_transaction_session_timeout)"
    if isinstance(exc, _GONE):
        return f"{first_line(exc)}; was it dropped, restored, or its rights changed? See: async-delivery store info"
    return first_line(exc)
