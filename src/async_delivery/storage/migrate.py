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
from sqlalchemy.pool import StaticPool

from async_delivery.storage.schema import APPLICATION_ID, SCRIPT_LOCATION, USER_VERSION


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
        config = Config()
        config.set_main_option("script_location", script_location)
        config.attributes["connection"] = opened
        command.upgrade(config, "head")
        broken = opened.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise sqlite3.IntegrityError(f"the migration would break {len(broken)} foreign keys")
        for name, value in facts.items():
            opened.exec_driver_sql("INSERT OR IGNORE INTO meta (name, value) VALUES (?, ?)", (name, value))
        opened.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        opened.exec_driver_sql(f"PRAGMA user_version = {USER_VERSION}")
