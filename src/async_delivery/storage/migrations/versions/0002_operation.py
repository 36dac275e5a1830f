"""For operation: what cleanups have done, and the indexes that metrics are counted from.

What the columns mean is said in ``storage/tables.py``; this file says how a database of this revision looks and is
never changed once it has been released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INDEXES = (
    ("jobs_waiting", "jobs", ["analysis", "queued_at", "place"], "place IS NOT NULL"),
    ("jobs_ended", "jobs", ["analysis", "status"], "status IN ('completed', 'failed', 'canceled')"),
    ("notifications_in_app", "notifications", ["channel", "template_key"], "channel = 'in_app'"),
)


def upgrade() -> None:
    """Add to a database of revision 0001."""
    op.create_table(
        "cleanup_runs",
        _text("run_id"),
        _text("runner"),
        _big("started_at"),
        _big("finished_at"),
        sa.Column("exit_code", sa.Integer(), nullable=False),
        _big("results_deleted"),
        _big("results_kept"),
        _big("events_deleted"),
        _big("events_kept"),
        _big("skipped_missing_timestamp"),
        _big("bytes"),
        _big("results_ttl_seconds", null=True),
        _big("events_ttl_seconds", null=True),
        _text("report"),
        sa.PrimaryKeyConstraint("run_id", name="pk_cleanup_runs"),
        sa.CheckConstraint("exit_code BETWEEN 0 AND 3", name=op.f("ck_cleanup_runs_exit_code")),
    )
    op.create_index("cleanup_runs_by_end", "cleanup_runs", ["finished_at", "run_id"])
    for name, table, columns, where in _INDEXES:
        op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, nullable=False)


def _big(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=null)
