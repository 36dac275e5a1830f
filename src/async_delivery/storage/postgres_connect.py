"""Connections to PostgreSQL: from a store's URL to the driver.

A URL may name everything that libpq understands (several hosts, a service, certificates) but no password. Nothing
depends on the session: statements name their schema, and no setting outlives a transaction, so a pooler that lends
connections by the transaction may stand between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from async_delivery.domain.errors import StoreFileError
from async_delivery.storage.dialects import POSTGRESQL_SCHEMA

if TYPE_CHECKING:
    import psycopg

    Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

# PostgreSQL 14 is the oldest whose statements are all understood.
OLDEST_VERSION = 140_000
# A dead peer is noticed by the kernel in seconds rather than in hours.
_DEFAULTS = {
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "application_name": "async-delivery",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Times after which PostgreSQL gives up by itself, in seconds; 0 is never.

    statement_seconds   one statement
    lock_seconds        waiting for a row that somebody else has locked
    idle_seconds        a transaction in which nothing is asked: less than lock_seconds, so that whoever waits for its
                        locks outlasts a machine that stands still. One of these is the place for claims, without
                        which no worker gets a job.
    """

    statement_seconds: float = 60.0
    lock_seconds: float = 10.0
    idle_seconds: float = 5.0

    def settings(self) -> dict[str, str]:
        """As PostgreSQL's settings, in milliseconds."""
        return {
            "statement_timeout": f"{self.statement_seconds * 1000:.0f}",
            "lock_timeout": f"{self.lock_seconds * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{self.idle_seconds * 1000:.0f}",
        }


def require_driver() -> None:
    """Raises StoreFileError where psycopg is not installed."""
    try:
        import psycopg  # noqa: F401, PLC0415  an extra
        import psycopg_pool  # noqa: F401, PLC0415
    except ImportError as exc:
        raise StoreFileError(
            "a store on PostgreSQL needs the driver: pip install 'async-delivery[postgres]'"
        ) from exc


def conninfo_of(url: str) -> str:
    """The connection string for ``url``. Raises StoreFileError if libpq cannot read it."""
    require_driver()
    from psycopg import ProgrammingError  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415

    try:
        asked = conninfo_to_dict(url)
    except ProgrammingError as exc:
        raise StoreFileError(f"the database URL cannot be read: {str(exc).strip()}") from exc
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in asked}
    # Never what PGCLIENTENCODING, a role or the URL says: texts would come as bytes, or be refused at some later time.
    return make_conninfo(url, **defaults, client_encoding="UTF8")


def connect(conninfo: str) -> Connection:
    """A connection in autocommit mode. Raises psycopg.OperationalError."""
    import psycopg  # noqa: PLC0415  an extra, and slow to import

    return psycopg.connect(conninfo, autocommit=True)


STORE_ID = f"SELECT value FROM {POSTGRESQL_SCHEMA}.meta WHERE name = 'store_id'"  # noqa: S608  a constant


def store_id_of(connection: Connection) -> str | None:
    """Which store the database holds; None if the table lacks it."""
    row = connection.execute(STORE_ID.encode()).fetchone()
    return None if row is None else str(row[0])


def first_line(exc: BaseException) -> str:
    """What ``exc`` says, without the driver's hints and excerpts; its kind if it says nothing."""
    said = str(exc).strip()
    return said.splitlines()[0] if said else type(exc).__name__
