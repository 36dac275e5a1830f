"""Many ended jobs in a store, made by plain SQL as copies of one that the store itself has kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import psycopg

from async_delivery.domain.job import Job
from tests.contract.support import House
from tests.storage.support import by_hand

CHILDREN = ("job_requests", "events", "attempts", "notifications", "results")
# A job leaves one result and three events.
ROWS_PER_JOB = 4
_BODIES = (
    "INSERT INTO result_bodies (result_key, data) SELECT copies.result_key, source.data FROM results AS copies,"
    " (SELECT data FROM result_bodies JOIN results USING (result_key) WHERE job_id = ?) AS source"
    " WHERE copies.deleted_at IS NULL AND copies.result_key NOT IN (SELECT result_key FROM result_bodies)"
)
_NUMBERS = (
    "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < ?)"
    " SELECT value FROM n)"
)


def add_ended_jobs(house: House, folder: Path, count: int, body_bytes: int = 300) -> list[str]:
    """``count`` completed jobs; the ids of some of their results."""
    job = house.completed(payload={"filler": "x" * body_bytes})
    with by_hand(folder) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for table in ("jobs", *CHILDREN):
            _copy(connection, table, job.job_id, count)
        connection.execute(_BODIES, (job.job_id,))
        connection.execute("COMMIT")
        # Else the first commit of the cleanup would have to work all this into the file.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return _some_of(job, count)


def add_ended_jobs_on_postgres(house: House, url: str, count: int, body_bytes: int = 300) -> list[str]:
    """The same for a store in the database at ``url``."""
    job = house.completed(payload={"filler": "x" * body_bytes})
    with psycopg.connect(url) as connection:
        connection.execute(b"SET search_path TO async_delivery")
        for table in ("jobs", *CHILDREN):
            found = connection.execute(f"SELECT * FROM {table} LIMIT 0".encode())
            names = [column.name for column in found.description or () if column.name != "result_key"]
            numbers = f"generate_series(1, {count}) AS number(value)"
            connection.execute(_copying(table, names, numbers).replace("?", "%s").encode(), (job.job_id,))
        connection.execute(_BODIES.replace("?", "%s").encode(), (job.job_id,))
        connection.commit()
        connection.autocommit = True
        connection.execute(b"VACUUM ANALYZE")
    return _some_of(job, count)


def _some_of(job: Job, count: int) -> list[str]:
    return [f"{job.result_id}-{number}" for number in range(1, count + 1, max(1, count // 100))]


def _copy(connection: sqlite3.Connection, table: str, job_id: str, count: int) -> None:
    found = connection.execute(f"SELECT * FROM {table} LIMIT 0")
    names = [column[0] for column in found.description if column[0] != "result_key"]
    connection.execute(_copying(table, names, f"{_NUMBERS} AS number"), (count, job_id))


def _copying(table: str, names: Sequence[str], numbers: str) -> str:
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(map(_value, names))}"
        f" FROM {table} AS source, {numbers} WHERE source.job_id = ?"
    )


def _value(name: str) -> str:
    if name in ("job_id", "event_id", "result_id", "notification_id"):
        return f"source.{name} || '-' || number.value"
    if name == "dedupe_key":
        return "replace(source.dedupe_key, source.job_id, source.job_id || '-' || number.value)"
    return f"source.{name}"
