"""For ended jobs that go: the index they are found by, and what cleanups did to jobs.

What the columns mean is said in ``storage/tables.py``; this file says how a database of this revision looks and is
never changed once it has been released.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_IS_EMPTIED = "results_kept = 0 AND events_kept = 0 AND status NOT IN ('queued', 'running', 'partial')"


def upgrade() -> None:
    """Add to a database of revision 0002."""
    for name in ("jobs_deleted", "jobs_kept"):
        op.add_column(
            "cleanup_runs", sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
    op.add_column("cleanup_runs", sa.Column("jobs_ttl_seconds", sa.BigInteger(), nullable=True))
    where = sa.text(_IS_EMPTIED)
    op.create_index(
        "jobs_emptied", "jobs", ["held", "finished_at"], sqlite_where=where, postgresql_where=where
    )
