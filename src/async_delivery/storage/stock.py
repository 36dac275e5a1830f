"""What is in the store, counted for metrics and signals: cheap beside a busy server, however much there is.

Each count walks one small index that holds nothing else. Ended jobs without their in_app record are found by two
counts, which agree as long as every ended job has one; only when they do not are the jobs looked at one by one.
Knows no dialect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, exists, func, literal_column, or_, select, text
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.instant import parse_instant
from async_delivery.domain.job import TERMINAL, JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage import cells, retention, retention_jobs
from async_delivery.storage.contract import Section, Stock, StoreFacts
from async_delivery.storage.dialects import ONE, ZERO, AnySelect, param, valid_instant
from async_delivery.storage.tables import (
    HAS_EVENTS,
    IN_LINE,
    IS_DELAYED,
    IS_IN_APP,
    IS_LEASED,
    IS_TERMINAL,
    alembic_version,
    events,
    jobs,
    meta,
    notifications,
    results,
)

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader

# More than anybody would look through by hand, and counted in milliseconds.
_AT_MOST = 10_000
_QUEUED: ColumnElement[str] = literal_column(f"'{JobStatus.QUEUED}'")
_TEMPLATES = ", ".join(f"'async.job.{status}'" for status in sorted(TERMINAL))
# Spelled exactly as the index has it, and what the index holds besides.
_IS_END_TOLD = text(f"{IS_IN_APP} AND template_key IN ({_TEMPLATES})")


def _by_analysis(status: ColumnElement[str], where: str) -> AnySelect:
    counted = select(status, jobs.c.analysis, func.count()).where(text(where)).group_by(jobs.c.analysis)
    # PostgreSQL takes no constant there.
    return counted if status is _QUEUED else counted.group_by(status)


COUNT_ENDED = _by_analysis(jobs.c.status, IS_TERMINAL)
COUNT_LEASED = _by_analysis(jobs.c.status, IS_LEASED)
COUNT_DELAYED = _by_analysis(_QUEUED, IS_DELAYED)
COUNT_IN_LINE = (
    select(jobs.c.analysis, func.count(), func.min(jobs.c.queued_at))
    .where(text(IN_LINE))
    .group_by(jobs.c.analysis)
)
OLDEST_DUE = select(func.min(jobs.c.due_at)).where(text(IS_DELAYED), jobs.c.due_at <= param("now"))

COUNT_ENDS_TOLD = select(func.count()).select_from(notifications).where(_IS_END_TOLD)
# Spelled so that SQLite looks up the few rows of the job, and does not walk all of the index above for each.
_TOLD = exists(
    select(ONE).where(
        notifications.c.job_id == jobs.c.job_id,
        text("coalesce(channel, '') = 'in_app'"),
        text(f"coalesce(template_key, '') IN ({_TEMPLATES})"),
    )
)
COUNT_NOT_TOLD = select(func.count()).select_from(
    select(ONE.label("one"))
    .select_from(jobs)
    .where(
        text(IS_TERMINAL),
        or_(~valid_instant(jobs.c.finished_at), jobs.c.finished_at <= param("ended_before")),
        ~_TOLD,
    )
    .limit(param("at_most"))
    .offset(ZERO)
    .subquery()
)


def stock(reader: SqlReader, now: datetime, ended_before: datetime) -> Stock:
    """See ``contract.Reader.stock``."""
    found: Counter[tuple[JobStatus, str]] = Counter()
    for statement in (COUNT_ENDED, COUNT_LEASED, COUNT_DELAYED):
        for status, analysis, count in reader.run(statement, {}).fetchall():
            found[JobStatus(status), analysis] += count
    waiting = [_value(reader, OLDEST_DUE, {"now": cells.to_micros(now)})]
    for analysis, count, oldest in reader.run(COUNT_IN_LINE, {}).fetchall():
        found[JobStatus.QUEUED, analysis] += count
        waiting.append(oldest)
    instants = [at for at in map(cells.optional_instant, waiting) if at is not None]
    ended = sum(count for (status, _), count in found.items() if status.terminal)
    missing = 0
    if ended != _value(reader, COUNT_ENDS_TOLD, {}):
        params = {"ended_before": cells.to_micros(ended_before), "at_most": _AT_MOST}
        missing = _value(reader, COUNT_NOT_TOLD, params)
    store_bytes, wal_bytes = reader.sizes()
    return Stock(found, min(instants, default=None), missing, store_bytes, wal_bytes)


def _value(reader: SqlReader, statement: ClauseElement, params: Mapping[str, object]) -> Any:
    return reader.run(statement, params).fetchone()[0]


# ---------------------------------------------------------------- the backlog of cleanup
def _bounded(rows: AnySelect) -> AnySelect:
    return select(func.count()).select_from(rows.limit(param("at_most")).offset(ZERO).subquery())


_BACKLOG_OF_RESULTS = tuple(
    _bounded(
        select(ONE.label("one"))
        .join_from(jobs, results, results.c.job_id == jobs.c.job_id)
        .where(*retention.past_their_time(own_ttl, until))
    )
    for own_ttl, until in ((ZERO, "cutoff"), (ONE, "now"))
)
_BACKLOG_OF_EVENTS = _bounded(
    select(ONE.label("one"))
    .join_from(jobs, events, events.c.job_id == jobs.c.job_id)
    .where(
        text(HAS_EVENTS),
        jobs.c.held == ZERO,
        # Not valid_instant: of two upper bounds SQLite would take the one in it, and walk all of history. What is
        # at or before a cutoff is a number, as text sorts above all numbers.
        jobs.c.finished_at >= literal_column(str(cells.MIN_INSTANT)),
        jobs.c.finished_at <= param("cutoff"),
        valid_instant(events.c.occurred_at),
    )
)

_BACKLOG_OF_JOBS = tuple(_bounded(each) for each in retention_jobs.PARTS)


def backlog(reader: SqlReader, policy: RetentionPolicy, now: datetime, at_most: int) -> Mapping[Section, int]:
    """See ``contract.Reader.backlog``."""
    at = cells.to_micros(now)
    of_results = {"now": at, "cutoff": cells.to_micros(policy.results_cutoff(now)), "at_most": at_most}
    of_events = {"cutoff": cells.to_micros(policy.events_cutoff(now)), "at_most": at_most}
    old_results = sum(_value(reader, statement, of_results) for statement in _BACKLOG_OF_RESULTS)
    of_jobs = {**retention_jobs.times(policy, now), "held": 0, "at_most": at_most}
    old_jobs = sum(_value(reader, statement, of_jobs) for statement in _BACKLOG_OF_JOBS)
    return {
        Section.RESULTS: min(at_most, old_results),
        Section.EVENTS: _value(reader, _BACKLOG_OF_EVENTS, of_events),
        Section.JOBS: min(at_most, old_jobs),
    }


# ---------------------------------------------------------------- facts
_FACT = select(meta.c.value).where(meta.c.name == param("the_name"))
_REVISION: AnySelect = select(alembic_version.c.version_num)


def facts(reader: SqlReader) -> StoreFacts:
    """See ``contract.Reader.facts``."""
    store_id = fact(reader, "store_id")
    created_at = fact(reader, "created_at")
    try:
        made = parse_instant(created_at) if created_at else None
    except ValueError:
        made = None
    return StoreFacts(store_id or "", made, str(_value(reader, _REVISION, {})))


def fact(reader: SqlReader, name: str) -> str | None:
    """The value of a row of ``meta``, or None."""
    row = reader.run(_FACT, {"the_name": name}).fetchone()
    return None if row is None else str(row[0])
