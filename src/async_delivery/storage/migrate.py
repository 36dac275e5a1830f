"""Brings a database to the current schema with Alembic, whole or not at all.

Imported only when there is something to migrate: Alembic costs half a second of start-up. The caller holds the
locks that keep every other writer away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from async_delivery.storage.dialects import POSTGRESQL_SCHEMA
from async_delivery.storage.schema import APPLICATION_ID, LOCK_SCHEMA, SCRIPT_LOCATION, USER_VERSION


def migrate_sqlite(
    connection: sqlite3.Connection, facts: Mapping[str, str], *, script_location: str = SCRIPT_LOCATION
) -> None:
    """Upgrade the database of ``connection`` to the newest revision in one transaction.

    connection   in autocommit mode, with nothing open and foreign keys off: a table that a migration rebuilds
                 would else take the rows that point to it along
    facts        entered into the new table ``meta``; what is there already stays
    """
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)

    @event.listens_for(engine, "begin")
    def _begin(opened: Connection) -> None:
        # SQLite's DDL takes part in a transaction; only Python's driver would commit before it by itself.
        opened.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as opened:
        _upgrade(opened, script_location)
        broken = opened.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise sqlite3.IntegrityError(f"the migration would break {len(broken)} foreign keys")
        for name, value in facts.items():
            opened.exec_driver_sql("INSERT OR IGNORE INTO meta (name, value) VALUES (?, ?)", (name, value))
        opened.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        opened.exec_driver_sql(f"PRAGMA user_version = {USER_VERSION}")


def migrate_postgres(
    conninfo: str, facts: Mapping[str, str], *, script_location: str = SCRIPT_LOCATION
) -> None:
    """Make or upgrade the tables in the database of ``conninfo`` in one transaction, one process at a time.

    facts   entered into the new table ``meta``; what is there already stays
    Raises psycopg.Error.
    """
    import psycopg  # noqa: PLC0415  an extra

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool
    )
    try:
        with engine.begin() as opened:
            _make_on_postgres(opened, facts, script_location)
    except DBAPIError as exc:
        if isinstance(exc.orig, psycopg.Error):
            raise exc.orig from exc
        raise


def _make_on_postgres(opened: Connection, facts: Mapping[str, str], script_location: str) -> None:
    # As every later write does: a role or database whose transactions are read-only by default is no obstacle.
    opened.exec_driver_sql("SET TRANSACTION READ WRITE")
    # Whoever comes second finds everything done: Alembic looks at the revision after this line.
    opened.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPLICATION_ID}, {LOCK_SCHEMA})")
    # Not IF NOT EXISTS, which asks for the right to make one even where an owner has made it.
    if opened.exec_driver_sql(f"SELECT to_regnamespace('{POSTGRESQL_SCHEMA}') IS NULL").scalar():
        opened.exec_driver_sql(f"CREATE SCHEMA {POSTGRESQL_SCHEMA}")
    opened.exec_driver_sql(f"SET LOCAL search_path TO {POSTGRESQL_SCHEMA}")
    opened.exec_driver_sql("SET LOCAL statement_timeout TO 0")
    _upgrade(opened, script_location)
    for name, value in facts.items():
        opened.exec_driver_sql(
            "INSERT INTO meta (name, value) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, value)
        )


def _upgrade(opened: Connection, script_location: str) -> None:
    config = Config()
    config.set_main_option("script_location", script_location)
    config.attributes["connection"] = opened
    command.upgrade(config, "head")
