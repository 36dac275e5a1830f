"""Every invariant of the contract, checked over the whole store. Knows no dialect.

Each check is one set query that walks an index in order and yields only what is wrong, so a check of millions of
rows needs no memory; bodies are hashed as they stream by. What the database itself can check (its file, its
foreign keys) is asked through ``SqlReader.damage``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Table, and_, case, func, literal_column, not_, or_, select, text

from async_delivery.domain.job import JobStatus
from async_delivery.storage.dialects import ONE, ZERO, AnySelect, param, valid_instant
from async_delivery.storage.tables import (
    IS_TERMINAL,
    attempts,
    events,
    input_chunks,
    inputs,
    job_requests,
    jobs,
    notifications,
    result_bodies,
    results,
)

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader

_TERMINAL: ColumnElement[bool] = literal_column(f"(jobs.{IS_TERMINAL})")
_KNOWN = ", ".join(f"'{status}'" for status in JobStatus)
_HUNDRED: ColumnElement[float] = literal_column("100")


def _word(text_: str) -> ColumnElement[str]:
    return literal_column(f"'{text_}'")


def _sum(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, ONE), else_=ZERO)), ZERO)


def _per_job(child: Table, columns: Sequence[ColumnElement[Any]], *also: ColumnElement[bool]) -> AnySelect:
    """Each job with sums over its rows in ``child``, in the order of both primary keys."""
    return (
        select(jobs.c.job_id, *columns)
        .outerjoin_from(jobs, child, and_(child.c.job_id == jobs.c.job_id, *also))
        .group_by(jobs.c.job_id)
    )


@dataclass(frozen=True, slots=True)
class Check:
    """A query for what is wrong, and the words for one row of it."""

    wrong: AnySelect
    say: Callable[[Sequence[Any]], str]


# ---------------------------------------------------------------- jobs by themselves
_STATES = Check(
    select(jobs.c.job_id, jobs.c.status, jobs.c.progress_percent).where(
        or_(
            literal_column(f"jobs.status NOT IN ({_KNOWN})"),
            not_(jobs.c.progress_percent.between(ZERO, _HUNDRED)),
            and_(jobs.c.status == _word("completed"), jobs.c.result_id.is_(None)),
            jobs.c.event_seq < ONE,
        )
    ),
    lambda row: f"job {row[0]}: its status {row[1]!r}, progress {row[2]}, result or event number cannot be",
)
_LEASES = Check(
    select(jobs.c.job_id, jobs.c.status).where(
        or_(
            and_(
                literal_column("jobs.status IN ('running', 'partial')"),
                or_(jobs.c.lease_token.is_(None), jobs.c.lease_worker_id.is_(None)),
            ),
            and_(
                literal_column("jobs.status NOT IN ('running', 'partial')"),
                or_(jobs.c.lease_token.is_not(None), jobs.c.lease_worker_id.is_not(None)),
            ),
        )
    ),
    lambda row: f"job {row[0]}: is {row[1]} and its lease does not fit that",
)
_QUEUE = Check(
    select(jobs.c.job_id).where(text("status = 'queued'"), jobs.c.place.is_(None), jobs.c.due_at.is_(None)),
    lambda row: f"job {row[0]}: waits without a place in the queue and would never run",
)

# ---------------------------------------------------------------- events
_SEQ = events.c.event_seq
# An active job has all its events. An ended one may have lost the front of its log to cleanup, which leaves rows
# without a valid instant where they are: from the first valid one on, everything must be there.
_VALID = valid_instant(events.c.occurred_at)
_EVENTS = Check(
    _per_job(events, [jobs.c.event_seq, func.count(_SEQ), func.min(_SEQ), func.max(_SEQ)]).having(
        or_(
            func.max(_SEQ) > jobs.c.event_seq,
            and_(not_(_TERMINAL), func.count(_SEQ) != jobs.c.event_seq),
            and_(_TERMINAL, _sum(_VALID) > ZERO, func.max(_SEQ) != jobs.c.event_seq),
        )
    ),
    lambda row: f"job {row[0]}: has {row[2]} events from {row[3]} to {row[4]}, its last number is {row[1]}",
)
_NEXT = events.alias("next_event")
_GAPS = Check(
    select(events.c.job_id, _SEQ)
    .join_from(events, jobs, jobs.c.job_id == events.c.job_id)
    .outerjoin(_NEXT, and_(_NEXT.c.job_id == events.c.job_id, _NEXT.c.event_seq == _SEQ + ONE))
    .where(_NEXT.c.job_id.is_(None), jobs.c.event_seq > _SEQ, or_(_VALID, not_(_TERMINAL))),
    lambda row: f"job {row[0]}: its event {row[1] + 1} is missing",
)
_EVENT_FLAGS = Check(
    _per_job(events, [func.count(_SEQ)]).having(and_(jobs.c.events_kept == ZERO, func.count(_SEQ) > ZERO)),
    lambda row: f"job {row[0]}: has {row[1]} events that cleanup does not know of",
)

# ---------------------------------------------------------------- results
_FINALS = _sum(results.c.result_kind == _word("final"))
_PARTIALS = _sum(results.c.result_kind == _word("partial"))
_KEPT = _sum(and_(results.c.result_id.is_not(None), results.c.deleted_at.is_(None)))
_NAMED_SEQ = func.max(case((results.c.result_id == jobs.c.result_id, results.c.result_seq)))
_LAST_SEQ = func.coalesce(func.max(results.c.result_seq), ZERO)
_RESULTS = Check(
    _per_job(results, [jobs.c.status, _FINALS, _PARTIALS, jobs.c.result_seq, _LAST_SEQ]).having(
        or_(
            case((jobs.c.status == _word("completed"), ONE), else_=ZERO) != _FINALS,
            jobs.c.partial_count != _PARTIALS,
            jobs.c.result_seq != _LAST_SEQ,
            func.coalesce(_NAMED_SEQ, ZERO) != jobs.c.result_seq,
        )
    ),
    lambda row: (
        f"job {row[0]} is {row[1]} and has {row[2]} final and {row[3]} partial results, the last {row[5]} of {row[4]}"
    ),
)
_RESULT_FLAGS = Check(
    _per_job(results, [_KEPT]).having(and_(jobs.c.results_kept == ZERO, _KEPT > ZERO)),
    lambda row: f"job {row[0]}: has {row[1]} results that cleanup does not know of",
)
_BODIES = Check(
    select(results.c.result_id, results.c.deleted_at)
    .outerjoin_from(results, result_bodies, result_bodies.c.result_key == results.c.result_key)
    .where(result_bodies.c.result_key.is_(None) != results.c.deleted_at.is_not(None)),
    lambda row: f"result {row[0]}: {'has no body' if row[1] is None else 'is deleted but has a body'}",
)

# ---------------------------------------------------------------- notifications and attempts
_TEMPLATE = _word("async.job.").concat(jobs.c.status)
_TOLD = func.count(notifications.c.notification_id)
_RIGHT = _sum(
    and_(
        notifications.c.template_key == _TEMPLATE,
        notifications.c.dedupe_key == jobs.c.job_id.concat(_word(":in_app:")).concat(_TEMPLATE),
    )
)
# As an expression: the bare column invites SQLite to look each job up among all in-app records of the store.
_told_in: ColumnElement[str] = func.coalesce(notifications.c.channel, notifications.c.channel)
_NOTIFICATIONS = Check(
    _per_job(notifications, [jobs.c.status, _TOLD, _RIGHT], _told_in == _word("in_app")).having(
        or_(and_(_TERMINAL, or_(_TOLD != ONE, _RIGHT != ONE)), and_(not_(_TERMINAL), _TOLD != ZERO))
    ),
    lambda row: (
        f"job {row[0]}: is {row[1]} and has {row[2]} in-app notifications, {row[3]} of them as they should be"
    ),
)
_STARTS = func.count(attempts.c.attempt)
_OPEN = _sum(and_(attempts.c.attempt.is_not(None), attempts.c.outcome.is_(None)))
_ATTEMPTS = Check(
    _per_job(attempts, [jobs.c.attempt, _STARTS, _OPEN]).having(
        or_(
            jobs.c.attempt != _STARTS,
            func.coalesce(func.min(attempts.c.attempt), ONE) != ONE,
            func.coalesce(func.max(attempts.c.attempt), ZERO) != jobs.c.attempt,
            case((jobs.c.lease_worker_id.is_not(None), ONE), else_=ZERO) != _OPEN,
        )
    ),
    lambda row: f"job {row[0]}: has {row[2]} attempts on record ({row[3]} not ended), {row[1]} were counted",
)


# ---------------------------------------------------------------- rows of another tenant, or of nobody
def _strangers(child: Table) -> Check:
    return Check(
        select(child.c.job_id)
        .join_from(child, jobs, jobs.c.job_id == child.c.job_id)
        .where(child.c.org_id != jobs.c.org_id),
        lambda row: f"job {row[0]}: a row of {child.name} belongs to another tenant",
    )


_REQUESTS = Check(
    select(jobs.c.job_id)
    .outerjoin_from(jobs, job_requests, job_requests.c.job_id == jobs.c.job_id)
    .where(job_requests.c.job_id.is_(None)),
    lambda row: f"job {row[0]}: its request is missing",
)

CHECKS = (
    _STATES,
    _LEASES,
    _QUEUE,
    _EVENTS,
    _GAPS,
    _EVENT_FLAGS,
    _RESULTS,
    _RESULT_FLAGS,
    _BODIES,
    _NOTIFICATIONS,
    _ATTEMPTS,
    _REQUESTS,
    *(_strangers(child) for child in (job_requests, events, results, notifications, attempts)),
)
STREAM_BODIES = select(
    results.c.result_id, results.c.size_bytes, results.c.sha256, result_bodies.c.data
).join_from(result_bodies, results, results.c.result_key == result_bodies.c.result_key)
LIST_INPUTS = select(inputs.c.input_id, inputs.c.size_bytes, inputs.c.sha256)
STREAM_CHUNKS = (
    select(input_chunks.c.data)
    .where(input_chunks.c.input_id == param("the_input_id"))
    .order_by(input_chunks.c.seq)
)


def violations(reader: SqlReader, limit: int) -> list[str]:
    """At most ``limit`` breaches, one sentence each; see ``contract.Reader.violations``."""
    return list(islice(_all(reader, limit), limit))


def _all(reader: SqlReader, limit: int) -> Iterator[str]:
    yield from reader.damage(limit)
    for check in CHECKS:
        for row in reader.stream(check.wrong, {}):
            yield check.say(row)
    for result_id, size, sha256, data in reader.stream(STREAM_BODIES, {}):
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            yield f"result {result_id}: its body is not the one that was sealed (SHA-256 differs)"
    for input_id, size, sha256 in reader.stream(LIST_INPUTS, {}):
        digest, found = hashlib.sha256(), 0
        for (data,) in reader.stream(STREAM_CHUNKS, {"the_input_id": input_id}):
            digest.update(data)
            found += len(data)
        if found != size or digest.hexdigest() != sha256:
            yield f"input {input_id}: its bytes are not the ones that were uploaded (SHA-256 differs)"
