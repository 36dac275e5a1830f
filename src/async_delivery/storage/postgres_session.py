"""Reader and Transaction on one connection to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.job import Fence, Job, JobId, JobRequest
from async_delivery.domain.tenant import OrgId
from async_delivery.storage import job_rows, postgres_claims
from async_delivery.storage import statements as sql
from async_delivery.storage.contract import Renewal
from async_delivery.storage.dialects import POSTGRESQL_SCHEMA, Texts
from async_delivery.storage.postgres_clock import MEASURE_SECONDS, DatabaseClock
from async_delivery.storage.postgres_together import PARAMETER, params_of, text_of
from async_delivery.storage.reading import STREAMED_ROWS, Cursor, SqlReader
from async_delivery.storage.schema import APPLICATION_ID, LOCK_CLAIMS
from async_delivery.storage.writing import SqlTransaction, Write

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

_SIZE = f"""
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace('{POSTGRESQL_SCHEMA}')
""".encode()  # noqa: S608  a constant
_INVALID_INDEXES = f"""
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relnamespace = to_regnamespace('{POSTGRESQL_SCHEMA}')
""".encode()  # noqa: S608
_INVALID_CONSTRAINTS = f"""
SELECT conname FROM pg_constraint
WHERE NOT convalidated AND connamespace = to_regnamespace('{POSTGRESQL_SCHEMA}')
""".encode()  # noqa: S608
_names = count(1)


@cache
def _numbered(text: str) -> tuple[bytes, tuple[str, ...]]:
    """A statement with the server's own placeholders, and the names of its parameters in their order.

    Done once: the driver would look through the text again for each execution of a statement as long as these."""
    names: dict[str, int] = {}
    numbered = PARAMETER.sub(lambda found: f"${names.setdefault(found[1], len(names) + 1)}", text)
    return numbered.replace("%%", "%").encode(), tuple(names)


class _Rows:
    """What one statement has answered; it has all arrived when the next one begins."""

    __slots__ = ("_left", "rowcount")

    def __init__(self, rowcount: int, rows: list[Any]) -> None:
        self.rowcount, self._left = rowcount, rows

    def fetchone(self) -> Any:
        return self._left.pop(0) if self._left else None

    def fetchmany(self, size: int = 1, /) -> list[Any]:
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def fetchall(self) -> list[Any]:
        taken, self._left = self._left, []
        return taken


class Session:
    """The driver's connection as statements use it: values come in their binary form, bytes above all.

    One cursor for all statements of a transaction, because to make one costs a quarter of a small statement."""

    def __init__(self, connection: Connection) -> None:
        self._raw = connection
        self._cursor = psycopg.RawCursor(connection)

    @property
    def raw(self) -> Connection:
        """The driver's connection itself."""
        return self._raw

    @property
    def status(self) -> TransactionStatus:
        """Whether a transaction is open, and whether a statement of it has failed."""
        return self._raw.info.transaction_status

    def execute(self, text: str, parameters: Mapping[str, Any] | None = None, /) -> Cursor:
        """Run one statement. Raises UnicodeError, before anything is sent, for a text that cannot be."""
        numbered, names = _numbered(text)
        return self.run(numbered, None if parameters is None else [parameters[name] for name in names])

    def run(self, numbered: bytes, values: Sequence[Any] | None) -> Cursor:
        """Run one statement with the server's own placeholders. Raises UnicodeError as ``execute`` does."""
        cursor = self._cursor
        try:
            cursor.execute(numbered, values, binary=True)
        except psycopg.DataError as exc:
            if exc.sqlstate is None:  # the driver's own: U+0000
                raise UnicodeError(str(exc)) from exc
            raise
        answered = cursor.pgresult is not None and cursor.pgresult.nfields > 0
        return _Rows(cursor.rowcount, cursor.fetchall() if answered else [])

    def executemany(self, text: str, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Run one statement for each of the rows, without waiting for the answer to one before the next is sent."""
        numbered, names = _numbered(text)
        self._cursor.executemany(numbered, [[row[name] for name in names] for row in rows])


class _OnPostgres:
    """What Reader and Transaction have in common here."""

    _connection: Any
    _texts: Texts

    def list_param(self, values: Sequence[Any]) -> list[Any]:
        return list(values)

    def stream(self, statement: ClauseElement, params: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
        # A plain cursor would have fetched every row before the first is looked at.
        with self._connection.raw.cursor(f"ad_{next(_names)}", binary=True) as cursor:
            cursor.itersize = STREAMED_ROWS
            cursor.execute(self._texts[statement].encode(), params)
            yield from cursor

    def damage(self, limit: int) -> list[str]:
        raw: Connection = self._connection.raw
        found = [f"the database: its index {name} is not valid" for (name,) in raw.execute(_INVALID_INDEXES)]
        found += [
            f"the database: its constraint {name} was never checked"
            for (name,) in raw.execute(_INVALID_CONSTRAINTS)
        ]
        return found[:limit]

    def sizes(self) -> tuple[int, int]:
        row = self._connection.raw.execute(_SIZE).fetchone()
        return (int(row[0]) if row else 0), 0


class PostgresReader(_OnPostgres, SqlReader):
    """A Reader on PostgreSQL."""


class PostgresTransaction(_OnPostgres, SqlTransaction):
    """A Transaction on PostgreSQL."""

    integrity_error = psycopg.IntegrityError
    places_are_shared = True

    def __init__(self, connection: Session, texts: Texts, clock: DatabaseClock) -> None:
        super().__init__(connection, texts)
        self._clock = clock
        # What was asked for with jobs that this transaction has locked to claim them.
        self._requests: dict[tuple[OrgId, JobId], JobRequest] = {}

    def is_duplicate(self, exc: Exception) -> bool:
        return isinstance(exc, errors.UniqueViolation)

    def serialize_claims(self) -> None:
        self._connection.raw.execute(
            b"SELECT pg_advisory_xact_lock(%s::int, %s::int)", (APPLICATION_ID, LOCK_CLAIMS)
        )

    def claimable(
        self, limit: int, analyses: Sequence[str] | None, max_running_per_tenant: int | None, now: datetime
    ) -> list[Job]:
        if limit == 1 and analyses is not None and max_running_per_tenant is None:
            found = postgres_claims.find_one(self._connection, analyses, now)
            if isinstance(found, postgres_claims.Found):
                return [self._given_its_turn(found)]
            if not found:
                return []
        return super().claimable(limit, analyses, max_running_per_tenant, now)

    def _given_its_turn(self, found: postgres_claims.Found) -> Job:
        job = found.job
        if found.turn != job.job_id:
            place = {"the_job_id": found.turn, "the_org_id": job.org_id, "place": found.place}
            self.run(sql.SET_PLACE, place)
        self._requests[job.org_id, job.job_id] = found.request
        return job

    def find_request(self, org_id: OrgId, job_id: JobId) -> JobRequest | None:
        known = self._requests.pop((org_id, job_id), None)
        return super().find_request(org_id, job_id) if known is None else known

    def write_together(self, writes: Sequence[Write]) -> int:
        if len(writes) == 1:
            return super().write_together(writes)
        text = text_of(tuple(statement for statement, _ in writes))
        (written,) = self._connection.execute(text, params_of(writes)).fetchone()
        return int(written)

    def renew_leases(
        self, worker_id: str, fences: Mapping[JobId, Fence], expires_at: datetime
    ) -> list[Renewal]:
        # By a clock that was set since it was last asked they would be over now, or hold long after a worker's death.
        was_set = self._clock.measure(self._connection.raw)
        return super().renew_leases(worker_id, fences, expires_at + was_set)

    def lost_jobs(
        self, now: datetime, alive: Sequence[str], limit: int, lease_seconds: float = 0.0
    ) -> list[Job]:
        # Other processes serve this store too: their leases count until the database's clock says otherwise. Where
        # that was set, each must have had the time to notice, and to renew what it holds.
        self._clock.measure(self._connection.raw)
        if not self._clock.settled(lease_seconds + MEASURE_SECONDS):
            return []
        return job_rows.to_jobs(self._all(sql.LIST_LOST, {"at_most": limit}))
