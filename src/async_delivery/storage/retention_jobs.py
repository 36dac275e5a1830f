"""Ended jobs that go, with all that belongs to them: counted and deleted.

A job goes last: once it ended long enough ago and no result or event of it is kept any more. A live run has deleted
those before it comes to jobs, so it looks only at jobs of which nothing is left, in an index of their own; a count
also looks at those that will be so by then. Knows no dialect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
    union_all,
)

from async_delivery.domain.retention import RetentionPolicy, SectionCount
from async_delivery.domain.tenant import OrgId
from async_delivery.storage import cells
from async_delivery.storage.contract import Deleted, Reached
from async_delivery.storage.dialects import ONE, ZERO, AnySelect, byte_length, is_one_of, param, valid_instant
from async_delivery.storage.tables import (
    HAS_EVENTS,
    HAS_RESULTS,
    IS_EMPTIED,
    IS_ENDED,
    RESULTS_CLOCK,
    attempt_logs,
    events,
    inputs,
    job_requests,
    jobs,
    notifications,
    results,
)

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader
    from async_delivery.storage.writing import SqlTransaction

# Files, or bodies of results, that go in one batch, together; the first goes in any case. Deleting a byte costs as
# much as writing one.
MAX_BATCH_BYTES = 64 * 2**20
_NEVER = cells.MIN_INSTANT - 1

_DATED = valid_instant(jobs.c.finished_at)
_OLD = (jobs.c.finished_at <= param("jobs_cutoff"), _DATED)
_FROM_THERE = jobs.c.finished_at >= param("since")
# When its results are over, as the index has it.
_OVER_AT: ColumnElement[int] = literal_column(f"({RESULTS_CLOCK})")
_OWN_TTL = jobs.c.ttl_requested == ONE


# ---------------------------------------------------------------- what a live run finds
def _has(rows: Any, *where: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(ONE).where(rows.c.job_id == jobs.c.job_id, *where))


_IS_KEPT = results.c.deleted_at.is_(None)
# The flags say the same. Nothing is deleted on their word alone.
_EMPTY = (~_has(results, _IS_KEPT), ~_has(events))


def _sum(rows: Any, size: ColumnElement[int]) -> ColumnElement[int]:
    found = select(func.sum(size)).where(rows.c.job_id == jobs.c.job_id)
    return func.coalesce(found.scalar_subquery(), ZERO)


# What is left of a job by then; its uploaded file is counted apart, as several jobs may share it.
_SIZE = (
    _sum(
        job_requests,
        byte_length(job_requests.c.params_json) + func.coalesce(byte_length(job_requests.c.query), ZERO),
    )
    + _sum(attempt_logs, byte_length(attempt_logs.c.text))
    + _sum(notifications, byte_length(notifications.c.payload))
)
_INPUT = select(job_requests.c.input_id).where(job_requests.c.job_id == jobs.c.job_id).scalar_subquery()
_INPUT_SIZE = (
    select(inputs.c.size_bytes)
    .join_from(job_requests, inputs, inputs.c.input_id == job_requests.c.input_id)
    .where(job_requests.c.job_id == jobs.c.job_id)
    .scalar_subquery()
)

OLD_JOBS = (
    select(jobs.c.job_id, jobs.c.org_id, _SIZE, _INPUT, _INPUT_SIZE, jobs.c.finished_at)
    .where(text(IS_EMPTIED), jobs.c.held == ZERO, _FROM_THERE, *_OLD, *_EMPTY)
    .order_by(jobs.c.finished_at)
    .limit(param("at_most"))
    .offset(ZERO)
    # What somebody else has locked, to hold it or to try it again, is looked at the next time.
    .with_for_update(of=jobs, skip_locked=True)
)
# Every condition again, and the flags as a sum: with the predicate of the index SQLite would rather walk all of it.
DELETE_JOBS = (
    delete(jobs)
    .where(
        is_one_of(jobs.c.job_id, param("the_job_ids")),
        text(IS_ENDED),
        jobs.c.held == ZERO,
        jobs.c.results_kept + jobs.c.events_kept == ZERO,
        *_OLD,
        *_EMPTY,
    )
    .returning(jobs.c.job_id)
)


def delete_jobs(
    tx: SqlTransaction, policy: RetentionPolicy, now: datetime, limit: int, since: Reached
) -> Deleted:
    """Delete at most ``limit`` old jobs, with all that belongs to them; see ``Transaction.delete_old``."""
    cutoff = policy.jobs_cutoff(now)
    if cutoff is None:
        return Deleted(0, 0, {}, more=False)
    at_most = {"jobs_cutoff": cells.to_micros(cutoff), "since": since[0], "at_most": limit}
    found = tx.run(OLD_JOBS, at_most).fetchall()
    chosen = _fitting(found)
    if not chosen:
        return Deleted(0, 0, {}, more=False)
    params = {**at_most, "the_job_ids": tx.list_param([row[0] for row in chosen])}
    # Everything else that belongs to a job goes with its row, by the foreign keys.
    gone = {row[0] for row in tx.run(DELETE_JOBS, params).fetchall()}
    rows = [row for row in chosen if row[0] in gone]
    files = sorted({(row[3], row[1]) for row in rows if row[3] is not None})
    freed = sum(_drop_file(tx, org_id, input_id) for input_id, org_id in files)
    return Deleted(
        len(rows),
        sum(int(row[2]) for row in rows) + freed,
        dict(Counter(row[1] for row in rows)),
        len(found) >= limit or len(chosen) < len(found),
        (chosen[-1][5], since[1]),
    )


def _fitting(found: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """The first jobs whose files together are not too much for one batch."""
    room = MAX_BATCH_BYTES
    for number, row in enumerate(found):
        room -= row[4] or 0
        if room < 0:
            return found[: max(1, number)]
    return found


def _drop_file(tx: SqlTransaction, org_id: OrgId, input_id: str) -> int:
    """Forget an uploaded file unless a job names it; the bytes that went."""
    file = tx.find_input(org_id, input_id)
    tx.drop_input(org_id, input_id)
    return file.size_bytes if file is not None and tx.find_input(org_id, input_id) is None else 0


# ---------------------------------------------------------------- what a count foresees
# A row that the same cleanup will not have taken when it comes to jobs.
_OVER = or_(
    and_(_OWN_TTL, param("now") >= _OVER_AT), and_(not_(_OWN_TTL), param("results_cutoff") >= _OVER_AT)
)
_RESULT_STAYS = _has(results, _IS_KEPT, not_(and_(valid_instant(results.c.created_at), _OVER)))
_EVENT_STAYS = _has(events, not_(valid_instant(events.c.occurred_at)))
_HELD = jobs.c.held == param("held")
_EVENTS_GO = (jobs.c.finished_at <= param("events_cutoff"), ~_EVENT_STAYS)


def _with_results(own_ttl: ColumnElement[int], until: str) -> AnySelect:
    return select(jobs.c.job_id).where(
        text(HAS_RESULTS),
        _HELD,
        jobs.c.ttl_requested == own_ttl,
        param(until) >= _OVER_AT,
        jobs.c.events_kept == ZERO,
        *_OLD,
        ~_RESULT_STAYS,
        ~_has(events),
    )


# Each ended job is in exactly one of these: nothing left, events left, only results left (by either clock).
PARTS = (
    select(jobs.c.job_id).where(text(IS_EMPTIED), _HELD, *_OLD, *_EMPTY),
    select(jobs.c.job_id).where(text(HAS_EVENTS), _HELD, *_OLD, *_EVENTS_GO, ~_RESULT_STAYS),
    _with_results(ZERO, "results_cutoff"),
    _with_results(ONE, "now"),
)
_GOING = select(union_all(*PARTS).subquery("going").c.job_id)
_MEASURED = select(jobs.c.org_id, _SIZE.label("size")).where(jobs.c.job_id.in_(_GOING)).subquery("measured")
COUNT_OLD = select(_MEASURED.c.org_id, func.count(), func.sum(_MEASURED.c.size)).group_by(_MEASURED.c.org_id)
_OTHER = job_requests.alias("other_request")
SUM_FILES = select(func.coalesce(func.sum(inputs.c.size_bytes), ZERO)).where(
    inputs.c.input_id.in_(
        select(job_requests.c.input_id).where(
            job_requests.c.input_id.is_not(None), job_requests.c.job_id.in_(_GOING)
        )
    ),
    ~exists(select(ONE).where(_OTHER.c.input_id == inputs.c.input_id, _OTHER.c.job_id.not_in(_GOING))),
)


def _undated(where: str, *more: ColumnElement[bool]) -> AnySelect:
    return select(func.count()).select_from(jobs).where(text(where), not_(_DATED), *more)


UNDATED = (
    _undated(IS_EMPTIED),
    _undated(HAS_EVENTS),
    _undated(HAS_RESULTS, jobs.c.events_kept == ZERO),
)


def times(policy: RetentionPolicy, now: datetime) -> dict[str, Any]:
    """The parameters of ``PARTS`` but for ``held``."""
    cutoff = policy.jobs_cutoff(now)
    return {
        "now": cells.to_micros(now),
        "results_cutoff": cells.to_micros(policy.results_cutoff(now)),
        "events_cutoff": cells.to_micros(policy.events_cutoff(now)),
        "jobs_cutoff": _NEVER if cutoff is None else cells.to_micros(cutoff),
    }


def count_jobs(
    reader: SqlReader, policy: RetentionPolicy, now: datetime, terminal: int, active: int, *, going: bool
) -> tuple[SectionCount, Mapping[str, int]]:
    """What a cleanup would do to jobs, and the share of each tenant that loses any; neither unless ``going``."""
    params = times(policy, now)
    old = reader.run(COUNT_OLD, {**params, "held": 0}).fetchall() if going else []
    held = reader.run(COUNT_OLD, {**params, "held": 1}).fetchall()
    files = reader.run(SUM_FILES, {**params, "held": 0}).fetchone()[0] if old else 0
    section = SectionCount(
        total=terminal + active,
        eligible_terminal=terminal,
        delete_count=sum(row[1] for row in old),
        skipped_missing_timestamp=sum(reader.run(each, {}).fetchone()[0] for each in UNDATED),
        held_count=sum(row[1] for row in held),
        bytes=int(sum(row[2] for row in old) + files),
    )
    return section, {row[0]: int(row[1]) for row in old}
