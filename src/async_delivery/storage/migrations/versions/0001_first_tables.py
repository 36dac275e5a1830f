"""The first tables: jobs and what follows from them, uploaded files, idempotency keys, facts about the store.

What the columns mean is said in ``storage/tables.py``; this file says how a database of this revision looks and is
never changed once it has been released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ENDED = "status NOT IN ('queued', 'running', 'partial')"
_RESULTS_CLOCK = "finished_at + ttl_requested * results_ttl_seconds * 1000000"


def upgrade() -> None:
    """Create everything in an empty database."""
    _create_jobs()
    _index_jobs()
    _create_inputs()
    _create_requests_and_attempts()
    _create_events_and_results()
    _create_notifications()
    _create_keys_and_meta()


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=null)


def _int(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[int]:
    return sa.Column(
        name, sa.Integer(), nullable=null, server_default=None if default is None else sa.text(default)
    )


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)


def _float(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def _to_jobs(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=f"fk_{table}_job_id", ondelete="CASCADE")


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(f"ck_{name}"))


def _index(
    name: str,
    table: str,
    columns: list[str | sa.TextClause],
    where: str | None = None,
    *,
    unique: bool = False,
) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        _text("job_id"),
        _text("org_id"),
        _text("correlation_id"),
        _text("analysis"),
        _text("analysis_version"),
        _text("status"),
        _int("priority"),
        _text("labels"),
        _float("timeout_seconds"),
        _big("results_ttl_seconds"),
        _int("ttl_requested"),
        _int("max_attempts"),
        _big("submitted_at", null=True),
        _big("queued_at", null=True),
        _big("updated_at", null=True),
        _text("retry_of", null=True),
        _text("traceparent", null=True),
        _float("progress_percent"),
        _text("stage", null=True),
        _text("message", null=True),
        _int("partial_count"),
        _int("error_count"),
        _int("attempt"),
        _text("result_id", null=True),
        _int("event_seq"),
        _int("result_seq"),
        _text("error_code", null=True),
        _text("error_message", null=True),
        _int("error_retryable", null=True),
        _big("due_at", null=True),
        _big("started_at", null=True),
        _big("finished_at", null=True),
        _text("lease_worker_id", null=True),
        _text("lease_token", null=True),
        _big("lease_expires_at", null=True),
        _big("cancel_requested_at", null=True),
        _big("canceled_at", null=True),
        _text("canceled_by", null=True),
        _text("cancel_reason", null=True),
        _int("held", default="0"),
        _big("place", null=True),
        _int("results_kept", default="0"),
        _int("events_kept", default="0"),
        sa.PrimaryKeyConstraint("job_id", name="pk_jobs"),
        _check(
            "jobs_status", "status IN ('queued', 'running', 'partial', 'completed', 'failed', 'canceled')"
        ),
        _check("jobs_priority", "priority IN (0, 1)"),
        _check("jobs_progress", "progress_percent BETWEEN 0 AND 100"),
        _check("jobs_completed_has_result", "status <> 'completed' OR result_id IS NOT NULL"),
        _check(
            "jobs_lease_while_running", "(status IN ('running', 'partial')) = (lease_worker_id IS NOT NULL)"
        ),
        _check(
            "jobs_lease_whole",
            "(lease_worker_id IS NULL) = (lease_token IS NULL)"
            " AND (lease_worker_id IS NULL) = (lease_expires_at IS NULL)",
        ),
        _check("jobs_place_in_queue", "place IS NULL OR (status = 'queued' AND due_at IS NULL)"),
        _check("jobs_due_in_queue", "due_at IS NULL OR status = 'queued'"),
        _check(
            "jobs_counts",
            "attempt >= 0 AND event_seq >= 0 AND result_seq >= 0 AND partial_count >= 0 AND error_count >= 0",
        ),
        _check(
            "jobs_flags",
            "held IN (0, 1) AND ttl_requested IN (0, 1) AND results_kept IN (0, 1) AND events_kept IN (0, 1)",
        ),
    )


def _index_jobs() -> None:
    _index("jobs_by_tenant", "jobs", ["org_id", "job_id"], unique=True)
    _index("jobs_not_completed", "jobs", ["org_id", "job_id"], "status <> 'completed'")
    _index("jobs_in_line", "jobs", ["place", "job_id", "org_id"], "place IS NOT NULL")
    _index("jobs_queued_by_tenant", "jobs", ["org_id", "place"], "status = 'queued'")
    _index("jobs_next_of_tenant", "jobs", ["org_id", "analysis", "priority", "job_id"], "place IS NOT NULL")
    _index("jobs_delayed", "jobs", ["due_at"], "due_at IS NOT NULL")
    _index("jobs_leased", "jobs", ["lease_worker_id", "job_id", "org_id"], "lease_worker_id IS NOT NULL")
    _index(
        "jobs_with_results",
        "jobs",
        ["held", "ttl_requested", sa.text(f"({_RESULTS_CLOCK})")],
        f"results_kept = 1 AND {_ENDED}",
    )
    _index("jobs_with_events", "jobs", ["held", "finished_at"], f"events_kept = 1 AND {_ENDED}")


def _create_inputs() -> None:
    op.create_table(
        "inputs",
        _text("input_id"),
        _text("org_id"),
        _text("filename"),
        _text("media_type", null=True),
        _big("size_bytes"),
        _text("sha256"),
        _big("created_at"),
        _big("unnamed_since", null=True),
        sa.PrimaryKeyConstraint("input_id", name="pk_inputs"),
    )
    _index("inputs_unnamed", "inputs", ["unnamed_since"], "unnamed_since IS NOT NULL")
    op.create_table(
        "uploads",
        _text("input_id"),
        _text("org_id"),
        _big("started_at"),
        sa.PrimaryKeyConstraint("input_id", name="pk_uploads"),
        sqlite_with_rowid=False,
    )
    _index("uploads_started", "uploads", ["started_at"])
    op.create_table(
        "input_chunks",
        _text("input_id"),
        _int("seq"),
        _text("org_id"),
        _bytes("data"),
        sa.PrimaryKeyConstraint("input_id", "seq", name="pk_input_chunks"),
    )


def _create_requests_and_attempts() -> None:
    op.create_table(
        "job_requests",
        _text("job_id"),
        _text("org_id"),
        _text("query", null=True),
        _bytes("params_json"),
        _text("fingerprint"),
        _text("input_id", null=True),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_requests"),
        _to_jobs("job_requests"),
        sa.ForeignKeyConstraint(["input_id"], ["inputs.input_id"], name="fk_job_requests_input_id"),
    )
    _index("job_requests_by_input", "job_requests", ["input_id"], "input_id IS NOT NULL")
    op.create_table(
        "attempts",
        _text("job_id"),
        _int("attempt"),
        _text("org_id"),
        _text("analysis"),
        _text("worker_id"),
        _big("started_at", null=True),
        _big("ended_at", null=True),
        _text("outcome", null=True),
        _text("error_code", null=True),
        sa.PrimaryKeyConstraint("job_id", "attempt", name="pk_attempts"),
        _to_jobs("attempts"),
        _check(
            "attempts_outcome",
            "outcome IS NULL OR outcome IN ('completed', 'failed', 'canceled', 'lost', 'released')",
        ),
        sqlite_with_rowid=False,
    )
    _index("attempts_completed", "attempts", ["analysis", "ended_at", "started_at"], "outcome = 'completed'")
    op.create_table(
        "attempt_logs",
        _text("job_id"),
        _int("attempt"),
        _text("org_id"),
        _text("text"),
        sa.PrimaryKeyConstraint("job_id", "attempt", name="pk_attempt_logs"),
        _to_jobs("attempt_logs"),
    )


def _create_events_and_results() -> None:
    op.create_table(
        "events",
        _text("job_id"),
        _int("event_seq"),
        _text("event_id"),
        _text("org_id"),
        _text("event_type"),
        _big("occurred_at", null=True),
        _text("actor_type"),
        _text("payload"),
        sa.PrimaryKeyConstraint("job_id", "event_seq", name="pk_events"),
        _to_jobs("events"),
        _check("events_event_seq", "event_seq >= 1"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "results",
        sa.Column("result_key", _KEY, nullable=False),
        _text("result_id"),
        _text("org_id"),
        _text("job_id"),
        _text("result_kind"),
        _int("result_seq"),
        _int("attempt"),
        _big("created_at", null=True),
        _big("expires_at", null=True),
        _big("size_bytes"),
        _text("sha256"),
        _big("deleted_at", null=True),
        sa.PrimaryKeyConstraint("result_key", name="pk_results"),
        _to_jobs("results"),
        sa.UniqueConstraint("org_id", "result_id", name="uq_results_org_id_result_id"),
        sa.UniqueConstraint("job_id", "result_seq", name="uq_results_job_id_result_seq"),
        _check("results_kind", "result_kind IN ('partial', 'final')"),
        _check("results_result_seq", "result_seq >= 1"),
    )
    _index("results_one_final", "results", ["job_id"], "result_kind = 'final'", unique=True)
    op.create_table(
        "result_bodies",
        sa.Column("result_key", _KEY, nullable=False, autoincrement=False),
        _bytes("data"),
        sa.PrimaryKeyConstraint("result_key", name="pk_result_bodies"),
        sa.ForeignKeyConstraint(
            ["result_key"], ["results.result_key"], name="fk_result_bodies_result_key", ondelete="CASCADE"
        ),
    )


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        _text("notification_id"),
        _text("org_id"),
        _text("job_id"),
        _text("channel"),
        _text("template_key"),
        _text("delivery_status"),
        _int("attempt_count"),
        _text("last_error", null=True),
        _text("dedupe_key"),
        _big("scheduled_at", null=True),
        _big("sent_at", null=True),
        _big("created_at", null=True),
        _text("payload"),
        sa.PrimaryKeyConstraint("notification_id", name="pk_notifications"),
        _to_jobs("notifications"),
        sa.UniqueConstraint("dedupe_key", name="uq_notifications_dedupe_key"),
        _check("notifications_channel", "channel IN ('in_app', 'email', 'webhook')"),
        _check("notifications_delivery_status", "delivery_status IN ('pending', 'sent', 'failed')"),
    )
    _index("notifications_of_job", "notifications", ["job_id", "notification_id"])


def _create_keys_and_meta() -> None:
    op.create_table(
        "idempotency_keys",
        _text("org_id"),
        _text("key"),
        _text("fingerprint"),
        _text("job_id"),
        _big("created_at"),
        sa.PrimaryKeyConstraint("org_id", "key", name="pk_idempotency_keys"),
        _to_jobs("idempotency_keys"),
        sqlite_with_rowid=False,
    )
    _index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])
    _index("idempotency_keys_of_job", "idempotency_keys", ["job_id"])
    op.create_table(
        "meta",
        _text("name"),
        _text("value"),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
        sqlite_with_rowid=False,
    )
