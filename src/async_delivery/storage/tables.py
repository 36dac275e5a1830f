"""The tables, as SQLAlchemy values: what the statements are built from, and what migrations are compared with.

Instants are microseconds since 1970 in UTC. An instant may be missing or broken in a row that came from elsewhere,
so the ones that cleanup judges by are nullable. Flags are 0 or 1. Predicates of partial indexes are spelled
exactly as the statements repeat them, or the planner would not use the index. No statement lives here.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy import Text as PlainText

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# By code point in both dialects, whatever language a PostgreSQL database was made for: the order of ids is an answer.
Text = PlainText().with_variant(PlainText(collation="C"), "postgresql")
# Only INTEGER PRIMARY KEY is the row's own number on SQLite; anything else costs a second tree.
RowKey = BigInteger().with_variant(Integer, "sqlite")

IN_LINE = "place IS NOT NULL"
IS_QUEUED = "status = 'queued'"
IS_LEASED = "lease_worker_id IS NOT NULL"
IS_DELAYED = "due_at IS NOT NULL"
NOT_COMPLETED = "status <> 'completed'"
IS_TERMINAL = "status IN ('completed', 'failed', 'canceled')"
# The same as IS_TERMINAL, spelled so that no index with status in it offers itself: cleanup has indexes of its own.
IS_ENDED = "status NOT IN ('queued', 'running', 'partial')"
HAS_RESULTS = f"results_kept = 1 AND {IS_ENDED}"
HAS_EVENTS = f"events_kept = 1 AND {IS_ENDED}"
# Of these only the job itself is left, with what belongs to it: a cleanup deletes it whole, once it is old enough.
IS_EMPTIED = f"results_kept = 0 AND events_kept = 0 AND {IS_ENDED}"
IS_IN_APP = "channel = 'in_app'"
# When the job ended; for a job with a TTL of its own, when its results are over.
RESULTS_CLOCK = "finished_at + ttl_requested * results_ttl_seconds * 1000000"

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("analysis", Text, nullable=False),
    Column("analysis_version", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("labels", Text, nullable=False),
    Column("timeout_seconds", Float, nullable=False),
    Column("results_ttl_seconds", BigInteger, nullable=False),
    Column("ttl_requested", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("submitted_at", BigInteger),
    Column("queued_at", BigInteger),
    Column("updated_at", BigInteger),
    Column("retry_of", Text),
    Column("traceparent", Text),
    Column("progress_percent", Float, nullable=False),
    Column("stage", Text),
    Column("message", Text),
    Column("partial_count", Integer, nullable=False),
    Column("error_count", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("result_id", Text),
    Column("event_seq", Integer, nullable=False),
    Column("result_seq", Integer, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("error_retryable", Integer),
    Column("due_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("lease_worker_id", Text),
    Column("lease_token", Text),
    Column("lease_expires_at", BigInteger),
    Column("cancel_requested_at", BigInteger),
    Column("canceled_at", BigInteger),
    Column("canceled_by", Text),
    Column("cancel_reason", Text),
    Column("held", Integer, nullable=False, server_default=text("0")),
    # Not part of the value: the job's place in its tenant's line, and what cleanup still finds of it.
    Column("place", BigInteger),
    Column("results_kept", Integer, nullable=False, server_default=text("0")),
    Column("events_kept", Integer, nullable=False, server_default=text("0")),
    CheckConstraint(
        "status IN ('queued', 'running', 'partial', 'completed', 'failed', 'canceled')", name="status"
    ),
    CheckConstraint("priority IN (0, 1)", name="priority"),
    CheckConstraint("progress_percent BETWEEN 0 AND 100", name="progress"),
    CheckConstraint("status <> 'completed' OR result_id IS NOT NULL", name="completed_has_result"),
    CheckConstraint(
        "(status IN ('running', 'partial')) = (lease_worker_id IS NOT NULL)", name="lease_while_running"
    ),
    CheckConstraint(
        "(lease_worker_id IS NULL) = (lease_token IS NULL)"
        " AND (lease_worker_id IS NULL) = (lease_expires_at IS NULL)",
        name="lease_whole",
    ),
    CheckConstraint("place IS NULL OR (status = 'queued' AND due_at IS NULL)", name="place_in_queue"),
    CheckConstraint("due_at IS NULL OR status = 'queued'", name="due_in_queue"),
    CheckConstraint(
        "attempt >= 0 AND event_seq >= 0 AND result_seq >= 0 AND partial_count >= 0 AND error_count >= 0",
        name="counts",
    ),
    CheckConstraint(
        "held IN (0, 1) AND ttl_requested IN (0, 1) AND results_kept IN (0, 1) AND events_kept IN (0, 1)",
        name="flags",
    ),
    # Unique, so that a look-up by tenant and id goes this way and not by the id alone: another tenant's id and an
    # unknown one are then told apart not even by the time it takes.
    Index("jobs_by_tenant", "org_id", "job_id", unique=True),
    # Listing by status: the completed are the many and found soon, the others would be needles among them.
    Index(
        "jobs_not_completed",
        "org_id",
        "job_id",
        sqlite_where=text(NOT_COMPLETED),
        postgresql_where=text(NOT_COMPLETED),
    ),
    Index(
        "jobs_in_line",
        "place",
        "job_id",
        "org_id",
        sqlite_where=text(IN_LINE),
        postgresql_where=text(IN_LINE),
    ),
    Index(
        "jobs_queued_by_tenant",
        "org_id",
        "place",
        sqlite_where=text(IS_QUEUED),
        postgresql_where=text(IS_QUEUED),
    ),
    Index(
        "jobs_next_of_tenant",
        "org_id",
        "analysis",
        "priority",
        "job_id",
        sqlite_where=text(IN_LINE),
        postgresql_where=text(IN_LINE),
    ),
    # For metrics: how many wait and since when, and how many have ended how. The column of the predicate is in the
    # index, because SQLite would look it up in the table otherwise.
    Index(
        "jobs_waiting",
        "analysis",
        "queued_at",
        "place",
        sqlite_where=text(IN_LINE),
        postgresql_where=text(IN_LINE),
    ),
    Index(
        "jobs_ended",
        "analysis",
        "status",
        sqlite_where=text(IS_TERMINAL),
        postgresql_where=text(IS_TERMINAL),
    ),
    Index("jobs_delayed", "due_at", sqlite_where=text(IS_DELAYED), postgresql_where=text(IS_DELAYED)),
    Index(
        "jobs_leased",
        "lease_worker_id",
        "job_id",
        "org_id",
        sqlite_where=text(IS_LEASED),
        postgresql_where=text(IS_LEASED),
    ),
    Index(
        "jobs_with_results",
        "held",
        "ttl_requested",
        text(f"({RESULTS_CLOCK})"),
        sqlite_where=text(HAS_RESULTS),
        postgresql_where=text(HAS_RESULTS),
    ),
    Index(
        "jobs_with_events",
        "held",
        "finished_at",
        sqlite_where=text(HAS_EVENTS),
        postgresql_where=text(HAS_EVENTS),
    ),
    # A job enters it when cleanup has taken its last result or event, so submitting and running pay nothing for it.
    Index(
        "jobs_emptied",
        "held",
        "finished_at",
        sqlite_where=text(IS_EMPTIED),
        postgresql_where=text(IS_EMPTIED),
    ),
)


def _of_job(name: str = "job_id", primary_key: bool = False) -> Column[str]:
    return Column(
        name, Text, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False, primary_key=primary_key
    )


inputs = Table(
    "inputs",
    metadata,
    Column("input_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("media_type", Text),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Since when no job names it; NULL once one does.
    Column("unnamed_since", BigInteger),
    Index(
        "inputs_unnamed",
        "unnamed_since",
        sqlite_where=text("unnamed_since IS NOT NULL"),
        postgresql_where=text("unnamed_since IS NOT NULL"),
    ),
)

# A file on its way in: entered with its first chunk, gone when the file is entered.
uploads = Table(
    "uploads",
    metadata,
    Column("input_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Index("uploads_started", "started_at"),
    sqlite_with_rowid=False,
)

input_chunks = Table(
    "input_chunks",
    metadata,
    Column("input_id", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("org_id", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

job_requests = Table(
    "job_requests",
    metadata,
    _of_job(primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("query", Text),
    Column("params_json", LargeBinary, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("input_id", Text, ForeignKey("inputs.input_id")),
    Index(
        "job_requests_by_input",
        "input_id",
        sqlite_where=text("input_id IS NOT NULL"),
        postgresql_where=text("input_id IS NOT NULL"),
    ),
)

attempts = Table(
    "attempts",
    metadata,
    _of_job(primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("org_id", Text, nullable=False),
    Column("analysis", Text, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", Text),
    Column("error_code", Text),
    CheckConstraint(
        "outcome IS NULL OR outcome IN ('completed', 'failed', 'canceled', 'lost', 'released')",
        name="outcome",
    ),
    Index(
        "attempts_completed",
        "analysis",
        "ended_at",
        "started_at",
        sqlite_where=text("outcome = 'completed'"),
        postgresql_where=text("outcome = 'completed'"),
    ),
    sqlite_with_rowid=False,
)

attempt_logs = Table(
    "attempt_logs",
    metadata,
    _of_job(primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("org_id", Text, nullable=False),
    Column("text", Text, nullable=False),
)

events = Table(
    "events",
    metadata,
    _of_job(primary_key=True),
    Column("event_seq", Integer, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False),
    Column("org_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("occurred_at", BigInteger),
    Column("actor_type", Text, nullable=False),
    Column("payload", Text, nullable=False),
    CheckConstraint("event_seq >= 1", name="event_seq"),
    sqlite_with_rowid=False,
)

results = Table(
    "results",
    metadata,
    Column("result_key", RowKey, primary_key=True),
    Column("result_id", Text, nullable=False),
    Column("org_id", Text, nullable=False),
    _of_job(),
    Column("result_kind", Text, nullable=False),
    Column("result_seq", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("created_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("deleted_at", BigInteger),
    # Not by the id alone, for the same reason as in jobs.
    UniqueConstraint("org_id", "result_id"),
    UniqueConstraint("job_id", "result_seq"),
    CheckConstraint("result_kind IN ('partial', 'final')", name="kind"),
    CheckConstraint("result_seq >= 1", name="result_seq"),
    Index(
        "results_one_final",
        "job_id",
        unique=True,
        sqlite_where=text("result_kind = 'final'"),
        postgresql_where=text("result_kind = 'final'"),
    ),
)

result_bodies = Table(
    "result_bodies",
    metadata,
    Column(
        "result_key",
        RowKey,
        ForeignKey("results.result_key", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("data", LargeBinary, nullable=False),
)

notifications = Table(
    "notifications",
    metadata,
    Column("notification_id", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    _of_job(),
    Column("channel", Text, nullable=False),
    Column("template_key", Text, nullable=False),
    Column("delivery_status", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("last_error", Text),
    Column("dedupe_key", Text, nullable=False),
    Column("scheduled_at", BigInteger),
    Column("sent_at", BigInteger),
    Column("created_at", BigInteger),
    Column("payload", Text, nullable=False),
    UniqueConstraint("dedupe_key"),
    CheckConstraint("channel IN ('in_app', 'email', 'webhook')", name="channel"),
    CheckConstraint("delivery_status IN ('pending', 'sent', 'failed')", name="delivery_status"),
    Index("notifications_of_job", "job_id", "notification_id"),
    Index(
        "notifications_in_app",
        "channel",
        "template_key",
        sqlite_where=text(IS_IN_APP),
        postgresql_where=text(IS_IN_APP),
    ),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    _of_job(),
    Column("created_at", BigInteger, nullable=False),
    Index("idempotency_keys_by_age", "created_at"),
    Index("idempotency_keys_of_job", "job_id"),
    sqlite_with_rowid=False,
)

cleanup_runs = Table(
    "cleanup_runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("runner", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger, nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("results_deleted", BigInteger, nullable=False),
    Column("results_kept", BigInteger, nullable=False),
    Column("events_deleted", BigInteger, nullable=False),
    Column("events_kept", BigInteger, nullable=False),
    Column("skipped_missing_timestamp", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("results_ttl_seconds", BigInteger),
    Column("events_ttl_seconds", BigInteger),
    Column("report", Text, nullable=False),
    # With defaults, for servers of the version before that still write to the same database.
    Column("jobs_deleted", BigInteger, nullable=False, server_default=text("0")),
    Column("jobs_kept", BigInteger, nullable=False, server_default=text("0")),
    Column("jobs_ttl_seconds", BigInteger),
    CheckConstraint("exit_code BETWEEN 0 AND 3", name="exit_code"),
    Index("cleanup_runs_by_end", "finished_at", "run_id"),
)

# Facts about the store itself: store_id, created_at; a pause of its cleanups; the last probe.
meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Alembic's own: not among the tables that migrations are compared with.
alembic_version = Table("alembic_version", MetaData(), Column("version_num", PlainText))
