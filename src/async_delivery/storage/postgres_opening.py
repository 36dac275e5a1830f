"""A store's tables on PostgreSQL: made, recognised, brought up to date. Every refusal says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from async_delivery.domain.errors import StoreFileError
from async_delivery.storage import postgres_connect
from async_delivery.storage.dialects import POSTGRESQL_SCHEMA
from async_delivery.storage.mode import Mode
from async_delivery.storage.schema import HEAD, REVISIONS

if TYPE_CHECKING:
    from async_delivery.storage.contract import Store
    from async_delivery.storage.postgres_connect import Connection
    from async_delivery.storage.storefile import StoreFile

_TABLES = f"""
SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm')
AND c.relnamespace = to_regnamespace('{POSTGRESQL_SCHEMA}') ORDER BY 1
""".encode()  # noqa: S608  a constant
_REVISION = f"SELECT version_num FROM {POSTGRESQL_SCHEMA}.alembic_version".encode()  # noqa: S608


@dataclass(frozen=True, slots=True)
class Found:
    """Which store a database holds."""

    store_id: str
    revision: str


def create_database(path: Path, url: str, facts: Mapping[str, str]) -> str:
    """Make the tables in the database that ``url`` names, or take over a store that is there; its store_id.

    facts   of the new store: store_id, created_at
    Raises StoreFileError.
    """
    import psycopg  # noqa: PLC0415  an extra, and slow to import

    conninfo = postgres_connect.conninfo_of(url)
    try:
        with postgres_connect.connect(conninfo) as connection:
            found = identify(connection)
        if found is None:
            from async_delivery.storage.migrate import migrate_postgres  # noqa: PLC0415  Alembic is slow to import

            migrate_postgres(conninfo, facts)
            with postgres_connect.connect(conninfo) as connection:
                found = identify(connection)
    except psycopg.Error as exc:
        raise _unusable(path, exc) from exc
    if found is None:
        raise StoreFileError(f"{path}: the database was made and is gone again; try once more")
    return found.store_id


def open_database(path: Path, file: StoreFile, mode: Mode, connections: int | None) -> Store:
    """Open the store that ``file`` names. Raises StoreFileError."""
    import psycopg  # noqa: PLC0415  an extra, and slow to import

    conninfo = postgres_connect.conninfo_of(file.database)
    from async_delivery.storage import postgres, postgres_info  # noqa: PLC0415  needs the driver
    from async_delivery.storage.postgres_pool import DEFAULT_CONNECTIONS  # noqa: PLC0415

    try:
        with postgres_connect.connect(conninfo) as connection:
            found, facts = identify(connection), postgres_info.ask(connection)
        _require(path, file, found)
        if found is not None and found.revision != HEAD:
            _bring_up_to_date(path, conninfo, mode, found)
    except psycopg.Error as exc:
        raise _unusable(path, exc) from exc
    return postgres.PostgresStore(
        conninfo, file.store_id, HEAD, mode, facts, connections or DEFAULT_CONNECTIONS
    )


def identify(connection: Connection) -> Found | None:
    """The store in the database, or None if there is none. Raises StoreFileError if something else is in its place
    or the database cannot hold every text, psycopg.Error."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise StoreFileError(
            f"the database {connection.info.dbname} has the encoding {encoding}, which cannot hold every text; name one"
            f" that was made with: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
        )
    tables = {name for (name,) in connection.execute(_TABLES)}
    if not tables:
        return None
    if not {"meta", "alembic_version", "jobs"} <= tables:
        raise StoreFileError(
            f"the schema {POSTGRESQL_SCHEMA} of the database holds other tables ({', '.join(sorted(tables))[:200]});"
            " name another database"
        )
    revision = connection.execute(_REVISION).fetchone()
    store_id = postgres_connect.store_id_of(connection)
    if revision is None or store_id is None:
        raise StoreFileError(
            f"the schema {POSTGRESQL_SCHEMA} of the database is damaged (no store_id or revision); restore it from a"
            " backup"
        )
    return Found(store_id, revision[0])


def _require(path: Path, file: StoreFile, found: Found | None) -> None:
    if found is None:
        raise StoreFileError(
            f"{path}: its database {file.database} holds no store (no tables in the schema {POSTGRESQL_SCHEMA});"
            " restore it from a backup. No new one is made, because that would hide the loss"
        )
    if found.store_id != file.store_id:
        raise StoreFileError(
            f"{path}: belongs to store {file.store_id}, but the database {file.database} is store {found.store_id};"
            " put the right database back, or name its own store file"
        )
    if found.revision not in REVISIONS:
        raise StoreFileError(
            f"{path}: its database was made by a newer version of the program (schema {found.revision}, this one knows"
            f" {HEAD}); upgrade the program"
        )


def _bring_up_to_date(path: Path, conninfo: str, mode: Mode, found: Found) -> None:
    if mode is not Mode.SERVE:
        raise StoreFileError(
            f"{path}: the database has the older schema {found.revision} (this version wants {HEAD}); start the server"
            " once, which brings it up to date"
        )
    from async_delivery.storage.migrate import migrate_postgres  # noqa: PLC0415  Alembic is slow to import

    migrate_postgres(conninfo, {})


def _unusable(path: Path, exc: Exception) -> StoreFileError:
    from psycopg.errors import InsufficientPrivilege  # noqa: PLC0415  an extra

    said = postgres_connect.first_line(exc)
    if isinstance(exc, InsufficientPrivilege):
        return StoreFileError(
            f"{path}: the role has not the rights it needs ({said}); let the database's owner run: CREATE SCHEMA"
            f" {POSTGRESQL_SCHEMA} AUTHORIZATION the_role; where the schema is there already, name the role that owns"
            " it"
        )
    return StoreFileError(
        f"{path}: the database cannot be used: {said}; is PostgreSQL running, and do host, user and password"
        " (PGPASSFILE, PGPASSWORD) fit?"
    )
