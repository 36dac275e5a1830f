"""The statements of readers and transactions, shared by both dialects and named by verb.

Built with SQLAlchemy Core, run as text (see ``dialects``). Every statement that serves a tenant has ``org_id`` in
its WHERE. Parameters that a WHERE compares with begin with ``the_`` or ``was_``, apart from the columns of INSERT
and SET. Cleanup and checks have files of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from sqlalchemy import (
    ColumnElement,
    Insert,
    Table,
    Update,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    null,
    select,
    text,
    update,
)

from async_delivery.storage import job_rows, rows
from async_delivery.storage.dialects import (
    ONE,
    ZERO,
    AnySelect,
    database_now,
    has_label,
    is_one_of,
    param,
)
from async_delivery.storage.tables import (
    IN_LINE,
    IS_DELAYED,
    IS_LEASED,
    IS_QUEUED,
    NOT_COMPLETED,
    attempt_logs,
    attempts,
    events,
    idempotency_keys,
    input_chunks,
    inputs,
    job_requests,
    jobs,
    notifications,
    result_bodies,
    results,
    uploads,
)


def _pick(table: Table, names: Iterable[str]) -> list[ColumnElement[object]]:
    return [table.c[name] for name in names]


def _one_of(table: Table, key: str) -> list[ColumnElement[bool]]:
    return [table.c[key] == param(f"the_{key}"), table.c.org_id == param("the_org_id")]


def _enter(table: Table, names: Iterable[str]) -> Insert:
    return insert(table).values({name: param(name) for name in names})


# ---------------------------------------------------------------- jobs
FIND_JOB = select(*_pick(jobs, job_rows.JOB_COLUMNS)).where(*_one_of(jobs, "job_id"))
LIST_EVENT_SEQS = select(jobs.c.job_id, jobs.c.event_seq).where(
    is_one_of(jobs.c.job_id, param("the_job_ids"))
)
LOCK_JOB = FIND_JOB.with_for_update()
# A job and where its log begins, as cleanup takes events away from the front.
SEE_JOB = FIND_JOB.add_columns(
    select(func.min(events.c.event_seq)).where(events.c.job_id == jobs.c.job_id).scalar_subquery()
)

INSERT_JOB = _enter(jobs, [*job_rows.JOB_COLUMNS, "place", "results_kept", "events_kept"])


@cache
def enter_job(columns: tuple[str, ...]) -> Insert:
    """INSERT_JOB with these columns, all others left to their defaults."""
    return _enter(jobs, columns)


def _unmoved() -> list[ColumnElement[bool]]:
    """The stored job is the one the change was made from."""
    return [
        *_one_of(jobs, "job_id"),
        jobs.c.event_seq == param("was_event_seq"),
        jobs.c.attempt == param("was_attempt"),
        jobs.c.lease_token.is_not_distinct_from(param("was_lease_token")),
    ]


@cache
def move_job(columns: tuple[str, ...]) -> Update:
    """The statement for a change of these columns: SQLite rewrites an index entry whenever its column is in the SET,
    changed or not, and every parameter is handed over one by one."""
    where = _unmoved()
    if "status" not in columns:
        where.append(jobs.c.status == param("was_status"))
    return update(jobs).where(*where).values({name: param(name) for name in columns})


HOLD_JOB = update(jobs).where(*_one_of(jobs, "job_id")).values(held=param("held"))
DELETE_JOB = delete(jobs).where(*_one_of(jobs, "job_id"))

COUNT_QUEUED = select(func.count()).select_from(
    select(ONE.label("one"))
    .where(text(IS_QUEUED), jobs.c.org_id == param("the_org_id"))
    .limit(param("at_most"))
    .offset(ZERO)
    .subquery()
)

INSERT_REQUEST = _enter(job_requests, ["job_id", "org_id", *rows.REQUEST_COLUMNS])
FIND_REQUEST = select(*_pick(job_requests, rows.REQUEST_COLUMNS)).where(*_one_of(job_requests, "job_id"))


@cache
def list_jobs(
    statuses: int, labels: int, *, analysis: bool, after: bool, before: bool, page: bool, completed: bool
) -> AnySelect:
    """The statement for a filter of this shape: so many statuses and labels, which bounds, and whether the
    completed may be among the answers."""
    where: list[ColumnElement[bool]] = [jobs.c.org_id == param("the_org_id")]
    if page:
        where.append(jobs.c.job_id < param("before_job_id"))
    if statuses:
        where.append(jobs.c.status.in_([param(f"status_{n}") for n in range(statuses)]))
        if not completed:
            where.append(literal_column(f"({NOT_COMPLETED})"))
    if analysis:
        where.append(jobs.c.analysis == param("the_analysis"))
    if after:
        where.append(jobs.c.submitted_at > param("created_after"))
    if before:
        where.append(jobs.c.submitted_at < param("created_before"))
    where += [has_label(jobs.c.labels, param(f"key_{n}"), param(f"value_{n}")) for n in range(labels)]
    return (
        select(*_pick(jobs, job_rows.JOB_COLUMNS))
        .where(*where)
        .order_by(jobs.c.job_id.desc())
        .limit(param("at_most"))
        .offset(ZERO)
    )


# ---------------------------------------------------------------- the queue
LOWEST_PLACE = select(func.min(jobs.c.place)).where(text(IN_LINE))
LAST_PLACE_OF_TENANT = select(func.max(jobs.c.place)).where(
    text(IS_QUEUED), jobs.c.org_id == param("the_org_id")
)
PLACES = select(LOWEST_PLACE.scalar_subquery(), LAST_PLACE_OF_TENANT.scalar_subquery())

FIND_DUE = (
    select(jobs.c.job_id, jobs.c.org_id)
    .where(text(IS_DELAYED), jobs.c.due_at <= param("now"))
    .order_by(jobs.c.due_at)
    .limit(param("at_most"))
    .offset(ZERO)
    .with_for_update(skip_locked=True)
)
# From here on it waits for a worker; before, it waited for its time.
PROMOTE = (
    update(jobs)
    .where(*_one_of(jobs, "job_id"))
    .values(queued_at=jobs.c.due_at, due_at=null(), place=param("place"))
)
# A job that somebody else has locked is being claimed: it needs no place any more, and waiting for it could deadlock.
SET_PLACE = (
    update(jobs)
    .where(
        jobs.c.job_id.in_(
            select(jobs.c.job_id)
            .where(*_one_of(jobs, "job_id"), text(IN_LINE))
            .with_for_update(skip_locked=True)
        )
    )
    .values(place=param("place"))
)

# The front of the queue over all tenants.
LIST_FRONT = (
    select(jobs.c.place, jobs.c.job_id, jobs.c.org_id)
    .where(text(IN_LINE))
    .order_by(jobs.c.place, jobs.c.job_id)
    .limit(param("at_most"))
    .offset(ZERO)
)
# The first turn, the first and the last of the analyses that its tenant waits for, and when a delay is over next.
_OF_ITS_TENANT = jobs.alias("of_its_tenant")
_DELAYED = jobs.alias("delayed")
LOOK_AHEAD = (
    select(
        jobs.c.job_id,
        jobs.c.org_id,
        *(
            select(end(_OF_ITS_TENANT.c.analysis))
            .where(text("of_its_tenant.place IS NOT NULL"), _OF_ITS_TENANT.c.org_id == jobs.c.org_id)
            .scalar_subquery()
            for end in (func.min, func.max)
        ),
        select(func.min(_DELAYED.c.due_at)).where(text("delayed.due_at IS NOT NULL")).scalar_subquery(),
    )
    .where(text("jobs.place IS NOT NULL"))
    .order_by(jobs.c.place, jobs.c.job_id)
    .limit(ONE)
    .offset(ZERO)
)
# Tenants with a line, each found by one step in the index.
FIRST_TENANT = select(func.min(jobs.c.org_id)).where(text(IS_QUEUED))
NEXT_TENANT = select(func.min(jobs.c.org_id)).where(text(IS_QUEUED), jobs.c.org_id > param("the_org_id"))
LIST_PLACES_OF_TENANT = (
    select(jobs.c.place, jobs.c.job_id, jobs.c.org_id)
    .where(text(IS_QUEUED), jobs.c.org_id == param("the_org_id"), jobs.c.place.is_not(None))
    .order_by(jobs.c.place)
    .limit(param("at_most"))
    .offset(ZERO)
)
LIST_SHARING = (
    select(jobs.c.job_id)
    .where(text(IS_QUEUED), jobs.c.org_id == param("the_org_id"), jobs.c.place == param("the_place"))
    .order_by(jobs.c.job_id)
    .limit(param("at_most"))
    .offset(ZERO)
    .with_for_update(skip_locked=True)
)
NEXT_ANALYSIS_OF_TENANT = select(func.min(jobs.c.analysis)).where(
    text(IN_LINE), jobs.c.org_id == param("the_org_id"), jobs.c.analysis > param("the_analysis")
)
# With the whole row: it is locked now, so a claim need not ask for it again.
LIST_NEXT_OF_TENANT = (
    select(jobs.c.priority, jobs.c.job_id, jobs.c.place, *_pick(jobs, job_rows.JOB_COLUMNS))
    .where(text(IN_LINE), jobs.c.org_id == param("the_org_id"), jobs.c.analysis == param("the_analysis"))
    .order_by(jobs.c.priority, jobs.c.job_id)
    .limit(param("at_most"))
    .offset(ZERO)
    .with_for_update(skip_locked=True)
)
# Counted by the caller: a GROUP BY would tempt SQLite to walk all jobs in the order of tenants.
LIST_RUNNING_TENANTS = select(jobs.c.org_id).where(text(IS_LEASED))

RENEW_LEASE = (
    update(jobs)
    .where(
        jobs.c.job_id == param("the_job_id"),
        jobs.c.attempt == param("was_attempt"),
        jobs.c.lease_token == param("was_lease_token"),
        jobs.c.lease_worker_id == param("the_worker_id"),
    )
    .values(lease_expires_at=param("lease_expires_at"))
    .returning(jobs.c.cancel_requested_at)
)
LIST_CANCEL_REQUESTS = select(jobs.c.job_id).where(
    text(IS_LEASED), jobs.c.lease_worker_id == param("the_worker_id"), jobs.c.cancel_requested_at.is_not(None)
)
LIST_LEASED = (
    select(*_pick(jobs, job_rows.JOB_COLUMNS))
    .where(text(IS_LEASED))
    .order_by(jobs.c.lease_worker_id, jobs.c.job_id)
    .with_for_update(skip_locked=True)
)

# Where several processes serve a store: leases that are over by the database's clock.
LIST_LOST = (
    select(*_pick(jobs, job_rows.JOB_COLUMNS))
    .where(text(IS_LEASED), jobs.c.lease_expires_at < database_now())
    .order_by(jobs.c.lease_worker_id, jobs.c.job_id)
    .limit(param("at_most"))
    .offset(ZERO)
    .with_for_update(skip_locked=True)
)

# ---------------------------------------------------------------- attempts
INSERT_ATTEMPT = _enter(
    attempts,
    [
        "job_id",
        "attempt",
        "org_id",
        "analysis",
        "worker_id",
        "started_at",
        "ended_at",
        "outcome",
        "error_code",
    ],
)
END_ATTEMPT = (
    update(attempts)
    .where(*_one_of(attempts, "job_id"), attempts.c.attempt == param("the_attempt"))
    .values(ended_at=param("ended_at"), outcome=param("outcome"), error_code=param("error_code"))
)
LIST_ATTEMPTS = (
    select(*_pick(attempts, rows.ATTEMPT_COLUMNS))
    .where(*_one_of(attempts, "job_id"))
    .order_by(attempts.c.attempt)
)
RECENT_RUNS = (
    select(attempts.c.started_at, attempts.c.ended_at)
    .where(text("outcome = 'completed'"), attempts.c.analysis == param("the_analysis"))
    .order_by(attempts.c.ended_at.desc())
    .limit(param("at_most"))
    .offset(ZERO)
)
FIND_LOG = select(attempt_logs.c.text).where(
    *_one_of(attempt_logs, "job_id"), attempt_logs.c.attempt == param("the_attempt")
)
UPDATE_LOG = (
    update(attempt_logs)
    .where(*_one_of(attempt_logs, "job_id"), attempt_logs.c.attempt == param("the_attempt"))
    .values(text=param("text"))
)
INSERT_LOG = _enter(attempt_logs, ["job_id", "attempt", "org_id", "text"])

# ---------------------------------------------------------------- events
INSERT_EVENT = _enter(events, rows.EVENT_COLUMNS)
LIST_EVENTS = (
    select(*_pick(events, rows.EVENT_COLUMNS))
    .where(*_one_of(events, "job_id"), events.c.event_seq > param("after_seq"))
    .order_by(events.c.event_seq)
    .limit(param("at_most"))
    .offset(ZERO)
)

# ---------------------------------------------------------------- results
ENTER_RESULT = _enter(results, rows.RESULT_COLUMNS)
INSERT_RESULT = ENTER_RESULT.returning(results.c.result_key)
INSERT_BODY = _enter(result_bodies, ["result_key", "data"])
FIND_RESULT = (
    select(*_pick(results, rows.RESULT_COLUMNS), jobs.c.status, jobs.c.correlation_id)
    .join(jobs, jobs.c.job_id == results.c.job_id)
    .where(*_one_of(results, "result_id"))
)
_RESULTS_OF_JOB = select(*_pick(results, rows.RESULT_COLUMNS)).where(*_one_of(results, "job_id"))
# A final result is always the last: nothing follows it.
NEWEST_RESULT = _RESULTS_OF_JOB.order_by(results.c.result_seq.desc()).limit(ONE).offset(ZERO)
LIST_RESULTS = _RESULTS_OF_JOB.where(results.c.deleted_at.is_(None)).order_by(results.c.result_seq)
FIND_BODY = (
    select(result_bodies.c.data)
    .join(results, results.c.result_key == result_bodies.c.result_key)
    .where(*_one_of(results, "result_id"))
)

# All that the permalink needs of a snapshot; its body only if it has at most so many bytes.
SEE_RESULT = (
    select(
        *_pick(results, rows.RESULT_COLUMNS),
        jobs.c.status,
        jobs.c.correlation_id,
        case((results.c.size_bytes <= param("at_most_bytes"), result_bodies.c.data), else_=null()),
    )
    .join(jobs, jobs.c.job_id == results.c.job_id)
    .outerjoin(result_bodies, result_bodies.c.result_key == results.c.result_key)
    .where(*_one_of(results, "result_id"))
)

# ---------------------------------------------------------------- notifications
INSERT_NOTIFICATION = _enter(notifications, rows.NOTIFICATION_COLUMNS)
_NOTIFICATIONS_OF_JOB = (
    select(*_pick(notifications, rows.NOTIFICATION_COLUMNS))
    .where(*_one_of(notifications, "job_id"))
    .order_by(notifications.c.notification_id.desc())
    .limit(param("at_most"))
    .offset(ZERO)
)
LIST_NOTIFICATIONS = _NOTIFICATIONS_OF_JOB
LIST_NOTIFICATIONS_OF_CHANNEL = _NOTIFICATIONS_OF_JOB.where(notifications.c.channel == param("the_channel"))

# ---------------------------------------------------------------- idempotency keys
FIND_KEY = select(*_pick(idempotency_keys, rows.IDEMPOTENCY_COLUMNS)).where(*_one_of(idempotency_keys, "key"))
INSERT_KEY = _enter(idempotency_keys, ["org_id", *rows.IDEMPOTENCY_COLUMNS])
DELETE_EXPIRED_KEY = delete(idempotency_keys).where(
    *_one_of(idempotency_keys, "key"), idempotency_keys.c.created_at <= param("expired_before")
)
LIST_OLD_KEYS = (
    select(idempotency_keys.c.org_id, idempotency_keys.c.key)
    .where(idempotency_keys.c.created_at <= param("expired_before"))
    .order_by(idempotency_keys.c.created_at)
    .limit(param("at_most"))
    .offset(ZERO)
)

# ---------------------------------------------------------------- uploaded files
INSERT_INPUT = _enter(inputs, [*rows.INPUT_COLUMNS, "unnamed_since"])
FIND_INPUT = select(*_pick(inputs, rows.INPUT_COLUMNS)).where(*_one_of(inputs, "input_id"))
LOCK_INPUT = FIND_INPUT.with_for_update()
NAME_INPUT = update(inputs).where(*_one_of(inputs, "input_id")).values(unnamed_since=null())
INSERT_UPLOAD = _enter(uploads, ["input_id", "org_id", "started_at"])
DELETE_UPLOAD = delete(uploads).where(*_one_of(uploads, "input_id"))
INSERT_CHUNK = _enter(input_chunks, ["input_id", "seq", "org_id", "data"])
READ_CHUNK = select(input_chunks.c.data).where(
    *_one_of(input_chunks, "input_id"), input_chunks.c.seq == param("the_seq")
)
_NAMED = exists(select(ONE).where(job_requests.c.input_id == inputs.c.input_id))
DELETE_UNNAMED_INPUT = delete(inputs).where(*_one_of(inputs, "input_id"), ~_NAMED)
DELETE_CHUNKS = delete(input_chunks).where(*_one_of(input_chunks, "input_id"))
LIST_STALE_UPLOADS = (
    select(uploads.c.org_id, uploads.c.input_id)
    .where(uploads.c.started_at <= param("expired_before"))
    .order_by(uploads.c.started_at)
    .limit(param("at_most"))
    .offset(ZERO)
)
LIST_STALE_INPUTS = (
    select(inputs.c.org_id, inputs.c.input_id)
    .where(text("unnamed_since IS NOT NULL"), inputs.c.unnamed_since <= param("expired_before"))
    .order_by(inputs.c.unnamed_since)
    .limit(param("at_most"))
    .offset(ZERO)
)
