"""A document becomes a database: the steps around the moving of its jobs, in an order that any crash may interrupt.

    .store.v1.json.converting   a store file that names the new database, while that is filled
    store.v1.json.bak-<time>    a second name of the document
    store.v1.json               replaced in one step by the store file of the new database

Until the last step the document stands untouched under its name, and after it everything is done. The first file
tells a later run of one that was cut short: it goes on with the same document, and starts over with another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from async_delivery.domain.errors import StoreBusyError, StoreFileError
from async_delivery.storage.contract import Store
from async_delivery.storage.document import Document, Identity
from async_delivery.storage.locks import CleanupLock
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import create_store, open_store
from async_delivery.storage.replacing import Replacement, keep_rights
from async_delivery.storage.sqlite_files import lock_path
from async_delivery.storage.storefile import (
    DEFAULT_URL,
    StoreFile,
    check_url,
    read_store_file,
    same_database,
    sqlite_path,
    store_file_text,
    sync_folder,
)

_READ_WRITE = 0o666


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the one place for a conversion or cleanup of the document at ``path``. Raises StoreBusyError."""
    lock = CleanupLock(lock_path(path))
    try:
        lock.__enter__()
    except StoreBusyError as exc:
        raise StoreBusyError(
            f"{path}: another cleanup or conversion of this document is running; wait for it to end"
        ) from exc
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.converting")


def clear(file: StoreFile) -> None:
    """Take away what a conversion that was cut short after its last step has left."""
    journal = _journal(file.path)
    with suppress(StoreFileError):
        if read_store_file(journal).store_id == file.store_id:
            journal.unlink()


def begin(document: Document, url: str | None, *, store_id: str, now: datetime) -> StoreFile:
    """The store file of the new database, under a name of its own; the database is empty, or holds what a run before
    this one has moved of the same document. Raises StoreFileError.
    """
    path = document.path
    journal = _journal(path)
    if os.path.lexists(journal):
        file = read_store_file(journal)
        begun = _begun(journal)
        same_url = url is None or same_database(path, file.database, check_url(url))
        if begun is None:
            # Cut short before anything was moved; what it has made is taken over below, if that is empty.
            journal.unlink()
        elif begun[0] == document.identity and same_url:
            return file
        else:
            _discard(file, made=begun[1])
    database = check_url(url or DEFAULT_URL)
    made = not (database.startswith("sqlite:") and os.path.lexists(sqlite_path(path, database)))
    file = create_store(journal, database, store_id=store_id, now=now)
    try:
        _require_empty(file)
    except BaseException:
        journal.unlink()
        raise
    with Replacement(journal) as new:
        new.out.write(store_file_text(file, document=list(document.identity), made=made))
        new.commit()
    return file


def _begun(journal: Path) -> tuple[Identity, bool] | None:
    """Which document an earlier run was converting, and whether the database was made for it."""
    said = json.loads(journal.read_bytes())
    found = said.get("document")
    if not isinstance(found, list) or len(found) != len(Identity._fields):
        return None
    return Identity(*found), said.get("made") is True


def _require_empty(file: StoreFile) -> None:
    store = open_store(file.path, Mode.SERVE)
    try:
        count = store.info().counts["jobs"]
    finally:
        store.close()
    if count:
        raise StoreFileError(
            f"{file.database}: is the database of a store already, with {count} jobs; name another one with"
            " --store-url, or move the jobs into that store with: async-delivery store import"
        )


def _discard(file: StoreFile, *, made: bool) -> None:
    """Forget a database that an earlier run has begun to fill from a document that is no longer the same."""
    if not file.is_sqlite or not made:
        raise StoreFileError(
            f"{file.path}: an earlier conversion into {file.database} was cut short, and the document or the database"
            f" asked for has changed since: empty that database, remove {file.path}, and convert again"
        )
    database = file.database_path
    if database.exists():
        # Opened to be sure that it is the one that was begun, and that nobody serves it.
        open_store(file.path, Mode.SERVE).close()
        for suffix in ("-wal", "-shm", "-journal", ".lock", ""):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
    file.path.unlink()
    sync_folder(file.path.parent)


def open_begun(file: StoreFile) -> Store:
    """The database of ``begin``, for nobody else."""
    return open_store(file.path, Mode.SERVE)


def keep(document: Document, now: datetime) -> Path:
    """Give the document a second name, which is where it is found afterwards. Raises StoreFileError."""
    return _keep(document.path, now)


def publish(document: Document, file: StoreFile) -> None:
    """Put the store file of the new database in the place of the document, which has its second name by now.

    Raises StoreFileError with the document in its place."""
    path = document.path
    if file.is_sqlite:
        like = path.stat()
        for each in (file.database_path, lock_path(file.database_path)):
            keep_rights(each, like, mode=_READ_WRITE)
    with Replacement(path) as new:
        new.out.write(store_file_text(replace(file, path=path)))
        new.commit(lambda: require_unchanged(document))
    _journal(path).unlink(missing_ok=True)


def require_unchanged(document: Document) -> None:
    """Raises StoreFileError if somebody has written the document since it was opened."""
    if not document.unchanged():
        raise StoreFileError(
            f"{document.path}: another program has written it meanwhile; stop that program, and try again. The document"
            " is as that program left it"
        )


def _keep(path: Path, now: datetime) -> Path:
    """Give the document a second name, or find the one it has from a run that was cut short."""
    name = f"{path.name}.bak-"
    for each in sorted(path.parent.glob(f"{_escaped(name)}*")):
        if each.samefile(path):
            return each
    stem = f"{name}{now:%Y%m%dT%H%M%SZ}"
    number = 1
    while True:
        backup = path.with_name(stem if number == 1 else f"{stem}-{number}")
        try:
            os.link(path, backup)
        except FileExistsError:
            number += 1
            continue
        except OSError as exc:
            raise StoreFileError(f"{backup}: the original cannot be kept there: {exc.strerror}") from exc
        sync_folder(path.parent)
        return backup


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
