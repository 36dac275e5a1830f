"""What a store holds, read by plain SQL: no code of the product stands between the rows and their judgement."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class JobRow:
    """``operation`` is the label by which a client knows its own job again."""

    job_id: str
    org_id: str
    status: str
    attempt: int
    event_seq: int
    result_seq: int
    result_id: str | None
    retry_of: str | None
    operation: str | None


@dataclass(slots=True)
class EventRow:
    job_id: str
    org_id: str
    seq: int
    kind: str
    attempt: int | None


@dataclass(slots=True)
class ResultRow:
    """``body_sha256`` is computed from the stored bytes; None if there are none."""

    result_id: str
    job_id: str
    org_id: str
    kind: str
    seq: int
    attempt: int
    sha256: str
    body_sha256: str | None
    deleted: bool


@dataclass(slots=True)
class AttemptRow:
    job_id: str
    org_id: str
    number: int
    outcome: str | None


@dataclass(slots=True)
class NotificationRow:
    job_id: str
    org_id: str
    channel: str
    template: str


@dataclass(slots=True)
class Image:
    """All rows that promises are about."""

    jobs: dict[str, JobRow] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    notifications: list[NotificationRow] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


_JOBS = (
    "SELECT job_id, org_id, status, attempt, event_seq, result_seq, result_id, retry_of, labels FROM {}jobs"
)
_EVENTS = "SELECT job_id, org_id, event_seq, event_type, payload FROM {}events ORDER BY job_id, event_seq"
_RESULTS = (
    "SELECT r.result_id, r.job_id, r.org_id, r.result_kind, r.result_seq, r.attempt, r.sha256, b.data, r.deleted_at"
    " FROM {0}results r LEFT JOIN {0}result_bodies b ON b.result_key = r.result_key"
    " ORDER BY r.job_id, r.result_seq"
)
_ATTEMPTS = "SELECT job_id, org_id, attempt, outcome FROM {}attempts ORDER BY job_id, attempt"
_NOTIFICATIONS = "SELECT job_id, org_id, channel, template_key FROM {}notifications"


def image_of_sqlite(database: Path) -> Image:
    """Of a store that nobody serves. A new connection, which recovers what a crash has left."""
    connection = sqlite3.connect(f"file:{database}?mode=rw", uri=True)
    try:
        image = _image(connection.execute, "")
        said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        image.damage = [line for line in said if line != "ok"]
        image.damage += [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
        return image
    finally:
        connection.close()


def image_of_postgres(url: str) -> Image:
    """Of a store in one snapshot, whoever serves it."""
    import psycopg

    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return _image(lambda text: connection.execute(text.encode()), "async_delivery.")


def _image(ask: Any, schema: str) -> Image:
    def rows(text: str) -> Iterable[Sequence[Any]]:
        found: Iterable[Sequence[Any]] = ask(text.format(schema))
        return found

    image = Image()
    for *columns, labels in rows(_JOBS):
        job = JobRow(*[*columns, _json(labels).get("op")])
        image.jobs[job.job_id] = job
    for *columns, payload in rows(_EVENTS):
        image.events.append(EventRow(*[*columns, _json(payload).get("attempt")]))
    for *columns, data, deleted_at in rows(_RESULTS):
        digest = None if data is None else hashlib.sha256(data).hexdigest()
        image.results.append(ResultRow(*[*columns, digest, deleted_at is not None]))
    image.attempts = [AttemptRow(*row) for row in rows(_ATTEMPTS)]
    image.notifications = [NotificationRow(*row) for row in rows(_NOTIFICATIONS)]
    return image


def _json(text: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text) if text else {}
    return found
