"""Alembic's entry: runs the revisions on the connection it is handed, inside the caller's transaction."""

from __future__ import annotations

from alembic import context

from async_delivery.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
    # Without these, autogenerate and check stay silent about a changed default or type.
    compare_server_default=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
