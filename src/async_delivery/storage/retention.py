"""What cleanup counts and deletes. One predicate says what is old, for the dry run and for the live one.

A row is old when its job has ended, is not held, and ended long enough ago; both the job's end and the row's own
instant must be valid. Two partial indexes know only ended jobs that still have results or events, so a second
cleanup looks at nothing the first has taken. Knows no dialect.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    delete,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.retention import RetentionPolicy, SectionCount
from async_delivery.storage import cells, retention_jobs
from async_delivery.storage.contract import Deleted, Reached, RetentionCount
from async_delivery.storage.dialects import ONE, ZERO, AnySelect, byte_length, is_one_of, param, valid_instant
from async_delivery.storage.tables import (
    HAS_EVENTS,
    HAS_RESULTS,
    IS_ENDED,
    IS_LEASED,
    IS_QUEUED,
    RESULTS_CLOCK,
    events,
    jobs,
    result_bodies,
    results,
)

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader

_CLOCK: ColumnElement[int] = literal_column(f"({RESULTS_CLOCK})")
_OWN_TTL = jobs.c.ttl_requested == ONE
_HELD = jobs.c.held == ONE
_RESULT_VALID = and_(valid_instant(jobs.c.finished_at), valid_instant(results.c.created_at))
_EVENT_VALID = and_(valid_instant(jobs.c.finished_at), valid_instant(events.c.occurred_at))
_RESULT_OLD = and_(
    _RESULT_VALID,
    or_(and_(_OWN_TTL, param("now") >= _CLOCK), and_(not_(_OWN_TTL), param("cutoff") >= _CLOCK)),
)
_EVENT_OLD = and_(_EVENT_VALID, jobs.c.finished_at <= param("cutoff"))


# ---------------------------------------------------------------- counting
# Two hints in plain SQL, without which SQLite would walk all of history instead of the few jobs in its partial
# index: the tenant is grouped by as an expression, because the bare column invites it to go by jobs_by_tenant; and
# rows are joined from the left, because an inner join may begin with every result.
_OWNER: ColumnElement[str] = func.coalesce(jobs.c.org_id, jobs.c.org_id)
_RESULTS_OF = and_(results.c.job_id == jobs.c.job_id, results.c.deleted_at.is_(None))
_EVENTS_OF = events.c.job_id == jobs.c.job_id


def _sum_where(condition: ColumnElement[bool], value: ColumnElement[int] = ONE) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, value), else_=ZERO)), ZERO)


def _found(
    row: ColumnElement[Any], valid: ColumnElement[bool], old: ColumnElement[bool]
) -> list[ColumnElement[Any]]:
    """Columns: rows, those without a valid instant, those held though old."""
    return [func.count(row), _sum_where(and_(row.is_not(None), not_(valid))), _sum_where(and_(_HELD, old))]


def _going(old: ColumnElement[bool], size: ColumnElement[int]) -> list[ColumnElement[Any]]:
    """Columns: tenant, rows that go, their bytes."""
    going = and_(old, not_(_HELD))
    return [_OWNER, _sum_where(going), _sum_where(going, size)]


def _results(*columns: ColumnElement[Any]) -> AnySelect:
    return select(*columns).outerjoin_from(jobs, results, _RESULTS_OF).where(text(HAS_RESULTS))


def _events(*columns: ColumnElement[Any]) -> AnySelect:
    return select(*columns).outerjoin_from(jobs, events, _EVENTS_OF).where(text(HAS_EVENTS))


_RESULTS_FOUND = _found(results.c.result_key, _RESULT_VALID, _RESULT_OLD)
_EVENTS_FOUND = _found(events.c.event_seq, _EVENT_VALID, _EVENT_OLD)
# To sort every row by its tenant costs as much again as to look at it, so a run that deletes goes without.
FIND_RESULTS, FIND_EVENTS = _results(*_RESULTS_FOUND), _events(*_EVENTS_FOUND)
COUNT_RESULTS = _results(*_RESULTS_FOUND, *_going(_RESULT_OLD, results.c.size_bytes)).group_by(_OWNER)
COUNT_EVENTS = _events(*_EVENTS_FOUND, *_going(_EVENT_OLD, byte_length(events.c.payload))).group_by(_OWNER)
COUNT_JOBS = select(func.count()).select_from(jobs)


def _active(where: str) -> AnySelect:
    return select(func.count()).select_from(jobs).where(text(where))


COUNT_QUEUED = _active(IS_QUEUED)
COUNT_LEASED = _active(IS_LEASED)


def _results_of_active(where: str) -> AnySelect:
    joined = select(func.count(results.c.result_key)).outerjoin_from(jobs, results, _RESULTS_OF)
    return joined.where(text(where))


def _events_of_active(where: str) -> AnySelect:
    return select(func.count(events.c.event_seq)).outerjoin_from(jobs, events, _EVENTS_OF).where(text(where))


RESULTS_OF_QUEUED, RESULTS_OF_LEASED = _results_of_active(IS_QUEUED), _results_of_active(IS_LEASED)
EVENTS_OF_QUEUED, EVENTS_OF_LEASED = _events_of_active(IS_QUEUED), _events_of_active(IS_LEASED)


def count(reader: SqlReader, policy: RetentionPolicy, now: datetime, *, going: bool = True) -> RetentionCount:
    """What a cleanup with ``policy`` would find, and delete, at ``now``; see ``contract.Reader.count_retention``."""

    def number(statement: ClauseElement) -> int:
        return int(reader.run(statement, {}).fetchone()[0])

    at = cells.to_micros(now)
    tenants: dict[str, dict[str, int]] = defaultdict(lambda: {"results": 0, "events": 0, "jobs": 0})

    def section(
        name: str, found: ClauseElement, counted: ClauseElement, cutoff: datetime, active: int
    ) -> SectionCount:
        sums: Counter[str] = Counter()
        params = {"now": at, "cutoff": cells.to_micros(cutoff)}
        for total, missing, held, *share in reader.run(counted if going else found, params).fetchall():
            sums.update(total=total, missing=missing, held=held)
            if share and share[1]:
                org_id, rows, size = share
                sums.update(going=rows, size=int(size))
                tenants[org_id][name] = int(rows)
        return SectionCount(
            total=sums["total"] + active,
            eligible_terminal=sums["total"],
            delete_count=sums["going"],
            skipped_missing_timestamp=sums["missing"],
            held_count=sums["held"],
            bytes=sums["size"],
        )

    active_results = number(RESULTS_OF_QUEUED) + number(RESULTS_OF_LEASED)
    active_events = number(EVENTS_OF_QUEUED) + number(EVENTS_OF_LEASED)
    active_jobs = number(COUNT_QUEUED) + number(COUNT_LEASED)
    terminal = number(COUNT_JOBS) - active_jobs
    jobs_found, jobs_of_tenants = retention_jobs.count_jobs(
        reader, policy, now, terminal, active_jobs, going=going
    )
    for org_id, share in jobs_of_tenants.items():
        tenants[org_id]["jobs"] = share
    return RetentionCount(
        terminal_job_count=terminal,
        active_job_count=active_jobs,
        results=section("results", FIND_RESULTS, COUNT_RESULTS, policy.results_cutoff(now), active_results),
        events=section("events", FIND_EVENTS, COUNT_EVENTS, policy.events_cutoff(now), active_events),
        jobs=jobs_found,
        per_tenant=dict(tenants),
    )


# ---------------------------------------------------------------- deleting results
def past_their_time(own_ttl: ColumnElement[int], until: str) -> list[ColumnElement[bool]]:
    """What is true of results joined to their jobs that a cleanup deletes, led by the columns of its index."""
    return [
        text(HAS_RESULTS),  # type: ignore[list-item]
        jobs.c.held == ZERO,
        jobs.c.ttl_requested == own_ttl,
        param(until) >= _CLOCK,
        _RESULT_VALID,
        results.c.deleted_at.is_(None),
    ]


def _old_results(own_ttl: ColumnElement[int], until: str) -> AnySelect:
    return (
        select(results.c.result_key, results.c.org_id, results.c.size_bytes, results.c.job_id, _CLOCK)
        .join_from(jobs, results, results.c.job_id == jobs.c.job_id)
        .where(*past_their_time(own_ttl, until), param("since") <= _CLOCK)
        .order_by(_CLOCK)
        .limit(param("at_most"))
        .offset(ZERO)
        # Both rows, so that both are looked at again once locked; what somebody else has locked goes the next time.
        .with_for_update(of=(jobs, results), skip_locked=True)
    )


OLD_RESULTS = _old_results(ZERO, "cutoff")
OLD_RESULTS_OF_OWN_TTL = _old_results(ONE, "now")

# Every condition again, in the statement that deletes. IS_ENDED and not HAS_RESULTS: with the predicate of the
# index, SQLite would rather walk all old jobs in it than look up these few. OFFSET, here and below: without it
# PostgreSQL would make a join of it, and read the whole table for a batch.
_IS_OLD = exists(
    select(ONE)
    .join_from(results, jobs, results.c.job_id == jobs.c.job_id)
    .where(results.c.result_key == result_bodies.c.result_key, text(IS_ENDED), not_(_HELD), _RESULT_OLD)
    .limit(ONE)
    .offset(ZERO)
)
DELETE_BODIES = delete(result_bodies).where(is_one_of(result_bodies.c.result_key, param("the_keys")), _IS_OLD)
MARK_DELETED = (
    update(results).where(is_one_of(results.c.result_key, param("the_keys"))).values(deleted_at=param("now"))
)
FORGET_RESULTS = (
    update(jobs)
    .where(
        is_one_of(jobs.c.job_id, param("the_job_ids")),
        ~exists(select(ONE).where(_RESULTS_OF).limit(ONE).offset(ZERO)),
    )
    .values(results_kept=ZERO)
)


def delete_results(
    tx: SqlReader, policy: RetentionPolicy, now: datetime, limit: int, since: Reached
) -> Deleted:
    """Delete the bodies of at most ``limit`` old results and mark their rows; see ``Transaction.delete_old``."""
    times = {"now": cells.to_micros(now), "cutoff": cells.to_micros(policy.results_cutoff(now))}
    old, more, reached = _fitting_results(tx, times, limit, since)
    params = {**times, "the_keys": tx.list_param([row[0] for row in old])}
    tx.run(DELETE_BODIES, params)
    tx.run(MARK_DELETED, params)
    tx.run(FORGET_RESULTS, {"the_job_ids": tx.list_param(list(dict.fromkeys(row[3] for row in old)))})
    tenants = Counter(row[1] for row in old)
    return Deleted(len(old), sum(row[2] for row in old), dict(tenants), more, reached)


def _fitting_results(
    tx: SqlReader, times: Mapping[str, int], limit: int, since: Reached
) -> tuple[list[Sequence[Any]], bool, Reached]:
    """The first old results, at most ``limit`` and with no more bytes together than one batch may delete, but for the
    first; whether there may be more; and how far they reach."""
    fitting: list[Sequence[Any]] = []
    reached, room = list(since), retention_jobs.MAX_BATCH_BYTES
    for place, statement in enumerate((OLD_RESULTS, OLD_RESULTS_OF_OWN_TTL)):
        at_most = limit - len(fitting)
        for row in tx.stream(statement, {**times, "since": since[place], "at_most": at_most}):
            room -= row[2]
            if fitting and room < 0:
                return fitting, True, (reached[0], reached[1])
            fitting.append(row)
            reached[place] = row[4]
        if len(fitting) == limit:
            break
    return fitting, len(fitting) == limit, (reached[0], reached[1])


# ---------------------------------------------------------------- deleting events
_HAS_VALID_EVENT = exists(
    select(ONE).where(events.c.job_id == jobs.c.job_id, valid_instant(events.c.occurred_at))
)
OLD_LOGS = (
    select(jobs.c.job_id, jobs.c.org_id, jobs.c.event_seq, jobs.c.finished_at)
    .where(
        text(HAS_EVENTS),
        jobs.c.held == ZERO,
        jobs.c.finished_at >= param("since"),
        jobs.c.finished_at <= param("cutoff"),
        valid_instant(jobs.c.finished_at),
        _HAS_VALID_EVENT,
    )
    .order_by(jobs.c.finished_at)
    .limit(param("at_most"))
    .offset(ZERO)
    .with_for_update(skip_locked=True)
)
_OLD_OF_THESE_JOBS = select(jobs.c.job_id).where(
    is_one_of(jobs.c.job_id, param("the_job_ids")),
    text(IS_ENDED),
    jobs.c.held == ZERO,
    valid_instant(jobs.c.finished_at),
    jobs.c.finished_at <= param("cutoff"),
)
_CUT = (valid_instant(events.c.occurred_at), events.c.event_seq <= param("up_to_seq"))
MEASURE_EVENTS = (
    select(events.c.job_id, func.count(), func.sum(byte_length(events.c.payload)))
    .where(is_one_of(events.c.job_id, param("the_job_ids")), *_CUT)
    .group_by(events.c.job_id)
)
DELETE_EVENTS = delete(events).where(events.c.job_id.in_(_OLD_OF_THESE_JOBS), *_CUT)
NTH_EVENT = (
    select(events.c.event_seq)
    .where(events.c.job_id == param("the_job_id"), valid_instant(events.c.occurred_at))
    .order_by(events.c.event_seq)
    .limit(ONE)
    .offset(param("skipped"))
)
FORGET_EVENTS = (
    update(jobs)
    .where(
        is_one_of(jobs.c.job_id, param("the_job_ids")),
        ~exists(select(ONE).where(_EVENTS_OF).limit(ONE).offset(ZERO)),
    )
    .values(events_kept=ZERO)
)

_NO_BOUND = 2**31 - 1
# An ended job was queued, ran and ended; a batch of canceled jobs is only a little smaller than it might be.
_SHORTEST_LOG = 3


def delete_events(
    tx: SqlReader, policy: RetentionPolicy, now: datetime, limit: int, since: Reached
) -> Deleted:
    """Delete at most ``limit`` old events, whole logs where they fit; see ``Transaction.delete_old``."""
    cutoff = cells.to_micros(policy.events_cutoff(now))
    logs, more = _fitting_logs(tx, cutoff, limit, since)
    if not logs:
        return Deleted(0, 0, {}, more=False)
    up_to = _NO_BOUND if logs[0][2] <= limit else _nth_event(tx, logs[0][0], limit)
    params = {"the_job_ids": tx.list_param([row[0] for row in logs]), "cutoff": cutoff, "up_to_seq": up_to}
    measured = tx.run(MEASURE_EVENTS, params).fetchall()
    count = tx.run(DELETE_EVENTS, params).rowcount
    tx.run(FORGET_EVENTS, params)
    owners = {row[0]: row[1] for row in logs}
    tenants: Counter[str] = Counter()
    for job_id, events_of_job, _ in measured:
        tenants[owners[job_id]] += events_of_job
    return Deleted(
        count,
        int(sum(size for _, _, size in measured)),
        dict(tenants),
        more or up_to != _NO_BOUND,
        (logs[-1][3], since[1]),
    )


def _fitting_logs(tx: SqlReader, cutoff: int, limit: int, since: Reached) -> tuple[list[Sequence[Any]], bool]:
    """The first jobs whose logs hold at most ``limit`` events together, or the first alone; and whether there may be
    more. No further than that is looked, or locked."""
    at_most = max(1, limit // _SHORTEST_LOG)
    fitting: list[Sequence[Any]] = []
    room = limit
    for row in tx.stream(OLD_LOGS, {"cutoff": cutoff, "since": since[0], "at_most": at_most}):
        room -= row[2]
        if fitting and room < 0:
            return fitting, True
        fitting.append(row)
    return fitting, len(fitting) == at_most


def _nth_event(tx: SqlReader, job_id: str, number: int) -> int:
    """The ``event_seq`` of the ``number``-th event that a log still has; without a bound if it has fewer."""
    found = tx.run(NTH_EVENT, {"the_job_id": job_id, "skipped": number - 1}).fetchone()
    return found[0] if found else _NO_BOUND
