"""From a store file to an open store: creating, checking, migrating, locking. Everything that is refused says why.

The order keeps every moment of a crash harmless: a database is built under another name and linked into place
whole, and the store file that names it is written last.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.instant import format_instant
from async_delivery.storage.contract import Store
from async_delivery.storage.locks import LockFile
from async_delivery.storage.mode import Mode
from async_delivery.storage.postgres_opening import create_database, open_database
from async_delivery.storage.schema import APPLICATION_ID, HEAD, REVISIONS, USER_VERSION
from async_delivery.storage.sqlite import SqliteStore
from async_delivery.storage.sqlite_files import BUSY_SECONDS, connect, lock_path, look
from async_delivery.storage.sqlite_trouble import DATABASE_FAULTS
from async_delivery.storage.storefile import (
    DEFAULT_URL,
    StoreFile,
    check_url,
    read_store_file,
    same_database,
    sqlite_path,
    sync_folder,
    write_store_file,
)
from async_delivery.storage.unfinished import sweep_unfinished

__all__ = ["Mode", "StoreFile", "create_store", "ensure_store", "open_store", "read_store_file"]


# ---------------------------------------------------------------- creating
def create_store(path: Path, url: str | None = None, *, store_id: str, now: datetime) -> StoreFile:
    """Create the database that ``url`` names (or take over one of ours that is there) and write the store file.

    path       of the store file; its folder is made
    store_id   a fresh id; not used if the database has one already
    Raises StoreFileError; if anything exists at ``path``, nothing is touched.
    """
    database = check_url(url or DEFAULT_URL)
    if os.path.lexists(path):
        raise StoreFileError(f"{path}: exists already; nothing is created over it")
    facts = {"store_id": store_id, "created_at": format_instant(now)}
    if database.startswith("sqlite:"):
        found = _create_sqlite(path, database, facts)
    else:
        _make_folder(path, path)
        found = create_database(path, database, facts)
    file = StoreFile(path, found, database, now)
    try:
        write_store_file(file)
    except FileExistsError:
        # Another process was first; if it named the same database, this is the same store.
        return _agreeing(path, database)
    return file


def _create_sqlite(path: Path, database: str, facts: dict[str, str]) -> str:
    """Make the database file, or take over the one that is there; its store_id."""
    target = sqlite_path(path, database)
    _refuse_one_for_both(path, target)
    _make_folder(path, path)
    _make_folder(path, target)
    for unfinished in (path, target):
        sweep_unfinished(unfinished)
    if not os.path.lexists(target):
        _build_database(target, facts)
    _require_file(path, target)
    return _identify(target).store_id


def _make_folder(path: Path, of: Path) -> None:
    """Make the folder of ``of``, durably: a power cut may not take a new folder with all that was synced in it."""
    missing = [folder for folder in (of.parent, *of.parent.parents) if not folder.exists()]
    try:
        of.parent.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as exc:
        raise StoreFileError(f"{path}: its folder cannot be made: {exc.strerror}") from exc


def ensure_store(path: Path, url: str | None = None, *, store_id: str, now: datetime) -> StoreFile:
    """The store file at ``path``, created if there is none. Raises StoreFileError, also if it names another
    database than ``url``."""
    if os.path.lexists(path):
        return _agreeing(path, None if url is None else check_url(url))
    return create_store(path, url, store_id=store_id, now=now)


def _agreeing(path: Path, url: str | None) -> StoreFile:
    file = read_store_file(path)
    if url is not None and not same_database(path, file.database, url):
        raise StoreFileError(
            f"{path}: names the database {file.database}, not {url}; leave out --store-url, or name another store file"
        )
    return file


def _refuse_one_for_both(path: Path, target: Path) -> None:
    """The store file may be neither the database it names nor one of the files SQLite and the locks keep beside it."""
    real = os.path.realpath(target)
    if os.path.realpath(path) in {real + suffix for suffix in ("", "-wal", "-shm", "-journal", ".lock")}:
        raise StoreFileError(
            f"{path}: the store file cannot be its own database {target} or a file beside that; name another database"
            f" with --store-url, e.g. {DEFAULT_URL}"
        )


def _build_database(target: Path, facts: dict[str, str]) -> None:
    from async_delivery.storage.migrate import migrate_sqlite  # noqa: PLC0415  Alembic is slow to import

    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        connection = connect(temporary, "rwc")
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = OFF")
            migrate_sqlite(connection, facts)
        finally:
            connection.close()
        os.link(temporary, target)
    except FileExistsError:
        return  # another process built it meanwhile
    except (sqlite3.Error, OSError) as exc:
        raise StoreFileError(f"{target}: the database cannot be created: {exc}") from exc
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)
    sync_folder(target.parent)


# ---------------------------------------------------------------- opening
def open_store(path: Path, mode: Mode, connections: int | None = None) -> Store:
    """Open the store that the store file at ``path`` names.

    SERVE         for a process that serves it (on SQLite the only one); brings the schema up to date
    TOOL          to write beside a server
    READ_ONLY     changes no byte of it
    connections   the most to have open at a time to PostgreSQL; None means as many as is usual
    Raises StoreFileError, StoreBusyError.
    """
    file = read_store_file(path)
    if file.is_sqlite:
        return _open_sqlite(path, file, mode)
    return open_database(path, file, mode, connections)


def _open_sqlite(path: Path, file: StoreFile, mode: Mode) -> Store:
    database = file.database_path
    _require_file(path, database)
    facts = _identify(database)
    if facts.store_id != file.store_id:
        raise StoreFileError(
            f"{path}: belongs to store {file.store_id}, but the database {database} is store {facts.store_id};"
            " put the right database back, or name its own store file"
        )
    if mode is Mode.READ_ONLY:
        _refuse_old(path, facts)
        return SqliteStore(database, None, facts.revision)
    lock = LockFile(lock_path(database))
    try:
        if mode is Mode.SERVE:
            lock.take_server(database)
            for unfinished in (path, database):
                sweep_unfinished(unfinished)
            if facts.revision != HEAD:
                _migrate(database, lock)
        else:
            _refuse_old(path, facts)
        return SqliteStore(database, lock, HEAD)
    except BaseException:
        lock.close()
        raise


def _require_file(path: Path, database: Path) -> None:
    try:
        regular = stat.S_ISREG(database.stat().st_mode)
    except FileNotFoundError as exc:
        raise StoreFileError(
            f"{path}: its database {database} is missing; put it back (from a backup, or where it was moved to)."
            " No new one is made, because that would hide the loss"
        ) from exc
    except OSError as exc:
        raise StoreFileError(f"{path}: its database {database} cannot be reached: {exc.strerror}") from exc
    if not regular:
        raise StoreFileError(f"{path}: its database {database} is not a file; name the right one")


@dataclass(frozen=True, slots=True)
class _Facts:
    store_id: str
    revision: str


def _identify(database: Path) -> _Facts:
    """Which store a database file is. Reads only. Raises StoreFileError if it is not ours or not readable."""
    try:
        return look(database, lambda connection: _facts(connection, database))
    except (*DATABASE_FAULTS, OSError) as exc:
        # A damaged schema is quoted in a message that is no UTF-8, which the driver cannot even raise.
        raise StoreFileError(
            f"{database}: the database cannot be used ({exc}); restore it from a backup, or check the rights on it"
        ) from exc


def _facts(connection: sqlite3.Connection, database: Path) -> _Facts:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise StoreFileError(f"{database}: not a database of this program; name the right one")
    (user_version,) = connection.execute("PRAGMA user_version").fetchone()
    revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if user_version > USER_VERSION or revision is None or revision[0] not in REVISIONS:
        raise StoreFileError(
            f"{database}: made by a newer version of the program (schema {revision and revision[0]}, this one knows"
            f" {HEAD}); upgrade the program"
        )
    store_id = connection.execute("SELECT value FROM meta WHERE name = 'store_id'").fetchone()
    if store_id is None:
        raise StoreFileError(
            f"{database}: the database is damaged (it has no store_id); restore it from a backup"
        )
    return _Facts(store_id[0], revision[0])


def _refuse_old(path: Path, facts: _Facts) -> None:
    if facts.revision != HEAD:
        raise StoreFileError(
            f"{path}: the database has the older schema {facts.revision} (this version wants {HEAD}); start the server"
            " once, which brings it up to date"
        )


def _migrate(database: Path, lock: LockFile) -> None:
    from async_delivery.storage.migrate import migrate_sqlite  # noqa: PLC0415  Alembic is slow to import

    lock.take_writer(BUSY_SECONDS)
    try:
        connection = connect(database, "rw")
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = OFF")
            migrate_sqlite(connection, {})
        finally:
            connection.close()
    except DATABASE_FAULTS as exc:
        raise StoreFileError(f"{database}: the schema cannot be brought up to date: {exc}") from exc
    finally:
        lock.release_writer()
