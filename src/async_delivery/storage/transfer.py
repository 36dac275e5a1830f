"""Whole jobs out of a store and into one, for moving between stores. Knows no dialect.

Read and written by the page: one statement per table for all jobs of it. An instant that a row lacks is EPOCH in
the values (FAR_FUTURE for an expiry) and is written back as missing: as 1970 it would look old to a cleanup.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Table, func, insert, select
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.errors import AsyncDeliveryError, ConflictError
from async_delivery.domain.event import Event
from async_delivery.domain.job import Job, JobId, JobStatus
from async_delivery.domain.result import Result
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.transfer import JobBundle, KeptResult, KeyBinding
from async_delivery.storage import cells, job_rows, rows
from async_delivery.storage import statements as sql
from async_delivery.storage.dialects import ZERO, AnySelect, is_one_of, param
from async_delivery.storage.tables import (
    attempt_logs,
    attempts,
    events,
    idempotency_keys,
    job_requests,
    jobs,
    notifications,
    result_bodies,
    results,
)

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader
    from async_delivery.storage.writing import SqlTransaction

T = TypeVar("T")

_THESE = "the_job_ids"
NEXT_JOB_IDS = (
    select(jobs.c.job_id)
    .where(jobs.c.job_id > param("the_job_id"))
    .order_by(jobs.c.job_id)
    .limit(param("at_most"))
    .offset(ZERO)
)
MEASURE_BODIES = (
    select(results.c.job_id, func.sum(results.c.size_bytes))
    .where(is_one_of(results.c.job_id, param(_THESE)), results.c.deleted_at.is_(None))
    .group_by(results.c.job_id)
)


def _of_these(table: Table, names: Iterable[str]) -> AnySelect:
    return select(*(table.c[name] for name in names)).where(is_one_of(table.c.job_id, param(_THESE)))


THESE_JOBS = _of_these(jobs, job_rows.JOB_COLUMNS)
THEIR_REQUESTS = _of_these(job_requests, ("job_id", *rows.REQUEST_COLUMNS))
THEIR_ATTEMPTS = _of_these(attempts, rows.ATTEMPT_COLUMNS)
THEIR_LOGS = _of_these(attempt_logs, ("job_id", "attempt", "text"))
THEIR_EVENTS = _of_these(events, rows.EVENT_COLUMNS)
THEIR_RESULTS = _of_these(results, rows.RESULT_COLUMNS)
THEIR_NOTIFICATIONS = _of_these(notifications, rows.NOTIFICATION_COLUMNS)
THEIR_KEYS = _of_these(idempotency_keys, ("job_id", "key", "fingerprint", "created_at"))
THEIR_BODIES = (
    select(results.c.job_id, results.c.result_seq, result_bodies.c.data)
    .join_from(results, result_bodies, result_bodies.c.result_key == results.c.result_key)
    .where(is_one_of(results.c.job_id, param(_THESE)))
)
# The key of a result is the database's to give, so its body finds the row by the ids.
INSERT_RESULT = insert(results).values({name: param(name) for name in rows.RESULT_COLUMNS})
INSERT_BODY_OF = insert(result_bodies).from_select(
    ["result_key", "data"],
    select(results.c.result_key, param("data")).where(
        results.c.org_id == param("the_org_id"), results.c.result_id == param("the_result_id")
    ),
)


# ---------------------------------------------------------------- out
def next_jobs(reader: SqlReader, after: JobId | None, limit: int, max_bytes: int) -> list[JobBundle]:
    """See ``contract.Reader.export_jobs``."""
    found = reader.run(NEXT_JOB_IDS, {"the_job_id": after or "", "at_most": limit}).fetchall()
    ids = [job_id for (job_id,) in found]
    sizes: dict[str, int] = {
        job_id: int(size)
        for job_id, size in reader.run(MEASURE_BODIES, {_THESE: reader.list_param(ids)}).fetchall()
    }
    page: list[JobId] = []
    room = max_bytes
    for job_id in ids:
        room -= sizes.get(job_id, 0)
        if page and room < 0:
            break
        page.append(job_id)
    return bundles(reader, page, bodies=True)


def bundles(reader: SqlReader, job_ids: Sequence[JobId], *, bodies: bool) -> list[JobBundle]:
    """See ``contract.Reader.find_bundles``."""
    if not job_ids:
        return []
    params = {_THESE: reader.list_param(list(job_ids))}

    def all_of(statement: ClauseElement) -> list[Sequence[Any]]:
        return reader.run(statement, params).fetchall()

    stored = [job_rows.to_job(row) for row in all_of(THESE_JOBS)]
    if not stored:
        return []
    requests = {row[0]: rows.to_request(row[1:]) for row in all_of(THEIR_REQUESTS)}
    logs: dict[str, dict[int, str]] = defaultdict(dict)
    for job_id, attempt, text in all_of(THEIR_LOGS):
        logs[job_id][attempt] = text
    data: dict[tuple[str, int], bytes] = {}
    if bodies:
        data = {(job_id, seq): bytes(body) for job_id, seq, body in all_of(THEIR_BODIES)}
    of_attempts = _by_job(map(rows.to_attempt, all_of(THEIR_ATTEMPTS)), lambda it: it.attempt)
    of_events = _by_job(map(rows.to_event, all_of(THEIR_EVENTS)), lambda it: it.event_seq)
    of_results = _by_job(map(rows.to_result, all_of(THEIR_RESULTS)), lambda it: it.result_seq)
    of_told = _by_job(map(rows.to_notification, all_of(THEIR_NOTIFICATIONS)), lambda it: it.notification_id)
    of_keys: dict[str, list[KeyBinding]] = defaultdict(list)
    for job_id, key, fingerprint, created_at in sorted(all_of(THEIR_KEYS), key=lambda row: str(row[1])):
        of_keys[job_id].append(KeyBinding(key, fingerprint, cells.instant(created_at)))
    return [
        JobBundle(
            job=job,
            request=requests[job.job_id],
            attempts=tuple(of_attempts.get(job.job_id, ())),
            logs=logs.get(job.job_id, {}),
            events=tuple(of_events.get(job.job_id, ())),
            results=tuple(
                KeptResult(result, data.get((job.job_id, result.result_seq)))
                for result in of_results.get(job.job_id, ())
            ),
            notifications=tuple(of_told.get(job.job_id, ())),
            keys=tuple(of_keys.get(job.job_id, ())),
        )
        for job in sorted(stored, key=lambda it: it.job_id)
    ]


def _by_job(values: Iterable[T], order: Callable[[T], Any]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = defaultdict(list)
    for value in sorted(values, key=order):
        found[value.job_id].append(value)  # type: ignore[attr-defined]
    return found


# ---------------------------------------------------------------- in
def put(tx: SqlTransaction, given: Sequence[JobBundle]) -> None:
    """See ``contract.Transaction.put_jobs``."""
    try:
        _put(tx, given)
    except tx.integrity_error as exc:
        if tx.is_duplicate(exc):
            raise ConflictError("an id, an Idempotency-Key or a dedupe key is in the store already") from exc
        raise AsyncDeliveryError(f"the store refuses what it was given: {exc}") from exc


def _put(tx: SqlTransaction, given: Sequence[JobBundle]) -> None:
    places = _Places(tx)
    tx.run_many(sql.INSERT_JOB, [_job_row(bundle, places) for bundle in given])
    tx.run_many(sql.INSERT_REQUEST, [_request_row(bundle) for bundle in given])
    for bundle in given:
        if bundle.request.input_id is not None:
            params = {"the_input_id": bundle.request.input_id, "the_org_id": bundle.job.org_id}
            tx.run(sql.NAME_INPUT, params)
    tx.run_many(
        sql.INSERT_ATTEMPT,
        [
            _without(rows.attempt_columns(attempt, bundle.job.analysis), "started_at")
            for bundle in given
            for attempt in bundle.attempts
        ],
    )
    tx.run_many(
        sql.INSERT_LOG,
        [
            {"job_id": bundle.job.job_id, "attempt": attempt, "org_id": bundle.job.org_id, "text": text}
            for bundle in given
            for attempt, text in bundle.logs.items()
        ],
    )
    tx.run_many(
        sql.INSERT_EVENT,
        [_event_row(event) for bundle in given for event in bundle.events],
    )
    kept = [result for bundle in given for result in bundle.results]
    tx.run_many(INSERT_RESULT, [_result_row(each.result) for each in kept])
    tx.run_many(
        INSERT_BODY_OF,
        [
            {"data": each.data, "the_org_id": each.result.org_id, "the_result_id": each.result.result_id}
            for each in kept
            if each.data is not None
        ],
    )
    tx.run_many(
        sql.INSERT_NOTIFICATION,
        [
            _without(rows.notification_columns(told), "scheduled_at", "created_at")
            for bundle in given
            for told in bundle.notifications
        ],
    )
    tx.run_many(sql.INSERT_KEY, [row for bundle in given for row in _key_rows(bundle)])


class _Places:
    """The places of queued jobs in their tenants' lines, behind those that wait already."""

    def __init__(self, tx: SqlTransaction) -> None:
        self._tx = tx
        self._given: Counter[OrgId] = Counter()
        self._first: dict[OrgId, int] = {}

    def of(self, job: Job) -> int | None:
        if job.status is not JobStatus.QUEUED or job.due_at is not None:
            return None
        if job.org_id not in self._first:
            self._first[job.org_id] = self._tx.next_place(job.org_id)
        self._given[job.org_id] += 1
        return self._first[job.org_id] + self._given[job.org_id] - 1


def _job_row(bundle: JobBundle, places: _Places) -> dict[str, Any]:
    job = bundle.job
    if job.lease is not None:
        raise ValueError(f"job {job.job_id} is being run; it cannot be entered like that")
    row = job_rows.new_job_columns(job, places.of(job), events_kept=int(bool(bundle.events)))
    row["results_kept"] = int(any(each.data is not None for each in bundle.results))
    return _without(row, "submitted_at", "queued_at", "updated_at")


def _request_row(bundle: JobBundle) -> dict[str, Any]:
    request = bundle.request
    return {
        "job_id": bundle.job.job_id,
        "org_id": bundle.job.org_id,
        "query": request.query,
        "params_json": request.params_json,
        "fingerprint": request.fingerprint,
        "input_id": request.input_id,
    }


def _event_row(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "org_id": event.org_id,
        "job_id": event.job_id,
        "event_seq": event.event_seq,
        "event_type": event.event_type.value,
        "occurred_at": None if event.occurred_at == cells.EPOCH else cells.to_micros(event.occurred_at),
        "actor_type": event.actor_type.value,
        "payload": cells.canonical_of_parsed(dict(event.payload)).decode(),
    }


def _result_row(result: Result) -> dict[str, Any]:
    row = _without(rows.result_columns(result), "created_at")
    if result.expires_at == cells.FAR_FUTURE:
        row["expires_at"] = None
    return row


def _key_rows(bundle: JobBundle) -> list[dict[str, Any]]:
    return [
        {
            "org_id": bundle.job.org_id,
            "key": binding.key,
            "fingerprint": binding.fingerprint,
            "job_id": bundle.job.job_id,
            "created_at": cells.to_micros(binding.created_at),
        }
        for binding in bundle.keys
    ]


def _without(row: dict[str, Any], *instants: str) -> dict[str, Any]:
    """``row`` with those of its ``instants`` missing that are EPOCH."""
    for name in instants:
        if row[name] == 0:
            row[name] = None
    return row
