"""A store with a long past: as many ended jobs as are asked for, with all rows that belong to them.

Twenty jobs go their real way through the store; all others are copies of their rows, made inside the database with
ids, tenants and times of their own, so that a million take minutes. Standard library and the store only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from async_delivery.domain import lifecycle
from async_delivery.domain.failure import Failure, FailureCode
from async_delivery.domain.job import Job
from async_delivery.domain.result import seal
from async_delivery.engine.runtime import SystemClock, new_id
from async_delivery.storage.contract import Store, Transaction
from async_delivery.storage.opening import Mode, create_store, open_store
from async_delivery.storage.tables import metadata
from bench.pgserver import connected
from bench.simulate_costs import claim, submit

TENANTS = 100
SPAN_SECONDS = 14 * 86_400
SAMPLED = 20
_FAILED, _CANCELED = 2, 1
# Only these have a result.
COMPLETED = SAMPLED - _FAILED - _CANCELED
_SCHEMA = "async_delivery"
# In the order of their foreign keys.
_TABLES = ("jobs", "job_requests", "attempts", "events", "results", "result_bodies", "notifications")
_BODY = {"rows": 48_211, "columns": [{"name": f"column_{n}", "nulls": n, "mean": n / 7} for n in range(8)]}
# Above those that a new database gives.
_FIRST_KEY = 1_000_000_000

Execute = Callable[[str], Any]


def build(
    folder: Path, url: str | None, count: int, body: Mapping[str, object] = _BODY, reports: int = 0
) -> Path:
    """A new store file in ``folder`` for a store with ``count`` ended jobs; ``url`` is None for SQLite.

    body     of every result
    reports  events of progress in every log, beside those of its states
    """
    file = create_store(folder / "store.v1.json", url, store_id=new_id(), now=SystemClock().now())
    store = open_store(file.path, Mode.SERVE)
    try:
        _live_through(store, body, reports)
    finally:
        store.close()
    if url is None:
        _copy_in_sqlite(file.path.with_suffix(".sqlite3"), count)
    else:
        _copy_in_postgres(url, count)
    return file.path


def _live_through(store: Store, body: Mapping[str, object], reports: int) -> None:
    for number in range(SAMPLED):
        submit(store, number)
    for number, job in enumerate(claim(store, SAMPLED)):
        for report in range(1, reports + 1):
            _report(store, job, 10.0 * report)
        _end(store, job, number, body)


def _report(store: Store, job: Job, percent: float) -> None:
    def write(tx: Transaction) -> None:
        locked = tx.lock_job(job.org_id, job.job_id)
        assert job.fence is not None
        change = lifecycle.progress(locked, job.fence, percent, None, None, datetime.now(UTC), new_id)
        assert change is not None
        tx.save(change)

    store.write(write)


def _end(store: Store, job: Job, number: int, body: Mapping[str, object]) -> None:
    def write(tx: Transaction) -> None:
        locked, now = tx.lock_job(job.org_id, job.job_id), datetime.now(UTC)
        assert job.fence is not None
        if number < _FAILED:
            reason = Failure(FailureCode.ANALYSIS_ERROR.value, "the file has no header", retryable=False)
            tx.save(lifecycle.fail(locked, job.fence, reason, now, new_id, rule=_NO_RETRY, again=False))
        elif number < _FAILED + _CANCELED:
            change = lifecycle.request_cancel(locked, "tenant", "not needed", now, new_id)
            assert change is not None
            tx.save(change)
            tx.save(lifecycle.confirm_cancel(change.job, job.fence, now, new_id))
        else:
            tx.save(lifecycle.complete(locked, job.fence, seal(body), now, new_id))

    store.write(write)


_NO_RETRY = lifecycle.RetryRule(0.0)


# ---------------------------------------------------------------- copies
def _copy(execute: Execute, prefix: str, hex12: str, count: int) -> None:
    """``hex12``: twelve hex digits of %s in the dialect."""
    execute("CREATE TEMP TABLE series (n BIGINT PRIMARY KEY)")
    execute(
        "INSERT INTO series WITH RECURSIVE numbers(n) AS "
        f"(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count - SAMPLED}) SELECT n FROM numbers"
    )
    execute(
        "CREATE TEMP TABLE sample AS SELECT job_id, org_id, submitted_at,"
        f" row_number() OVER (ORDER BY job_id) - 1 AS k FROM {prefix}jobs"
    )
    for table in _TABLES:
        execute(f"CREATE TEMP TABLE copied_{table} AS SELECT * FROM {prefix}{table}")
    step = SPAN_SECONDS * 1_000_000 // count
    for table in _TABLES:
        columns = [column.name for column in metadata.tables[table].columns]
        values = ", ".join(_value(table, name, hex12, count, step) for name in columns)
        source = f"series s CROSS JOIN sample o CROSS JOIN copied_{table} c"
        where = f"o.k = s.n % {SAMPLED} AND c.job_id = o.job_id"
        if table == "result_bodies":
            source += " CROSS JOIN copied_results r"
            where = f"o.k = s.n % {SAMPLED} AND r.job_id = o.job_id AND c.result_key = r.result_key"
        execute(
            f"INSERT INTO {prefix}{table} ({', '.join(columns)}) SELECT {values} FROM {source} WHERE {where}"
        )
    for table in (*(f"copied_{table}" for table in _TABLES), "sample", "series"):
        execute(f"DROP TABLE {table}")


def _value(table: str, column: str, hex12: str, count: int, step: int) -> str:
    """What a copy has in ``column``. The newest is a step older than the job it is a copy of."""
    shift = f"(s.n - {count}) * {step}"

    def new(kind: str) -> str:
        # As the service's ids: milliseconds first, so that they are sorted by time.
        ms = hex12 % f"((o.submitted_at + {shift}) / 1000)"
        return f"(substr({ms}, 1, 8) || '-' || substr({ms}, 9, 4) || '-7{kind}0-8000-' || {hex12 % 's.n'})"

    kinds = {"job_id": "00", "correlation_id": "00", "result_id": "10", "notification_id": "30"}
    if column in kinds:
        return f"CASE WHEN c.{column} IS NULL THEN NULL ELSE {new(kinds[column])} END"
    if column == "event_id":
        return f"replace({new('2~')}, '~', CAST(c.event_seq AS TEXT))"
    if column == "result_key":
        return f"{_FIRST_KEY} + s.n"
    if column == "org_id":
        return f"'tenant-' || substr(CAST({10 * TENANTS} + s.n % {TENANTS} AS TEXT), 2)"
    if column in ("dedupe_key", "payload") and table == "notifications":
        return f"replace(c.{column}, o.job_id, {new('00')})"
    return f"c.{column} + {shift}" if column.endswith("_at") else f"c.{column}"


def _copy_in_sqlite(database: Path, count: int) -> None:
    # Nobody serves it now; what is lost with the power is built anew.
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-262144")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("BEGIN")
        _copy(connection.execute, "main.", "printf('%%012x', %s)", count)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _copy_in_postgres(url: str, count: int) -> None:
    import psycopg

    with connected(url) as connection:
        with suppress(psycopg.errors.InsufficientPrivilege):
            # Without a look-up of the job for every row of a copy. For superusers.
            connection.execute(b"SET session_replication_role = replica")
        connection.execute(b"BEGIN")
        _copy(
            lambda text: connection.execute(text.encode()),
            f"{_SCHEMA}.",
            "lpad(to_hex((%s)::bigint), 12, '0')",
            count,
        )
        connection.execute(b"COMMIT")
        # As autovacuum would within minutes.
        connection.execute(b"VACUUM ANALYZE")
        connection.execute(b"CHECKPOINT")


def stored(store: Store) -> int:
    """Jobs in it."""
    return store.info().counts["jobs"]
