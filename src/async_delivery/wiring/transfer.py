"""``store convert``, ``import`` and ``export`` put together: a store, a document, and the account of what moved.

Imports ``storage`` and ``engine``; nothing of HTTP or workers.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from async_delivery.domain.account import Account, Entry
from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.instant import format_instant
from async_delivery.engine.runtime import SystemClock, new_id
from async_delivery.engine.transfer import ALONE, BESIDE_A_SERVER, Batches, export_jobs, import_jobs
from async_delivery.settings import Settings
from async_delivery.storage import conversion
from async_delivery.storage.account_file import SUFFIX, AccountFile
from async_delivery.storage.contract import Store
from async_delivery.storage.document import Document
from async_delivery.storage.document_jobs import Defaults
from async_delivery.storage.document_source import DocumentSource
from async_delivery.storage.document_writing import DocumentWriter
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import open_store
from async_delivery.storage.storefile import StoreFile, is_document, read_store_file, sync_folder
from async_delivery.storage.unfinished import sweep_unfinished

_MOST_VIOLATIONS = 10
# To the microsecond: two imports that begin in the same second have an account each.
_STAMP = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move did.

    file           the store it was about
    account        the sums
    account_file   where every named record stands; None where none was written
    backup         where the document is that was converted
    already        the file named a database before: there was nothing to do
    """

    file: StoreFile
    account: Account
    account_file: Path | None = None
    backup: Path | None = None
    already: bool = False


# ---------------------------------------------------------------- convert
def convert(settings: Settings, account_path: Path | None) -> Moved:
    """Turn the document at the settings' store file into a database, and keep it as a backup.

    Raises StoreFileError, UnavailableError, with the document untouched in its place.
    """
    path = settings.store_file
    if path.is_symlink():
        raise StoreFileError(
            f"{path}: a symbolic link; name the file it points to, {os.path.realpath(path)}, with --store-file"
        )
    if not is_document(path):
        return _already(read_store_file(path), path)
    with conversion.only_one(path):
        if not is_document(path):  # whoever had the place before has done it
            return _already(read_store_file(path), path)
        return _convert(settings, account_path)


def _already(file: StoreFile, path: Path) -> Moved:
    conversion.clear(file)
    return Moved(file, Account(), already=True)


def _convert(settings: Settings, account_path: Path | None) -> Moved:
    path, started_at = settings.store_file, _now()
    sweep_unfinished(path)
    with (
        _seldom_collected(),
        Document(path) as document,
        _account("convert", settings, path, account_path, started_at) as book,
    ):
        begun = conversion.begin(document, settings.store_url, store_id=new_id(), now=started_at)
        store = conversion.open_begun(begun)
        try:
            account = _take_over(store, document, settings, begun, book, ALONE)
            broken = store.read(lambda reader: reader.violations(_MOST_VIOLATIONS))
        finally:
            store.close()
        if broken:
            raise StoreFileError(
                f"{path}: is as it was: what came out of it would not keep what a store promises: {'; '.join(broken)}"
            )
        backup = conversion.keep(document, started_at)
        try:
            # Before the last step: a conversion without its account would be one that nobody can check.
            book.finish(account, store_id=begun.store_id, database=begun.database, backup=str(backup))
        except StoreFileError:
            backup.unlink()
            raise
        try:
            conversion.publish(document, begun)
        except StoreFileError:
            backup.unlink()
            book.path.unlink(missing_ok=True)
            raise
    return Moved(read_store_file(path), account, book.path, backup)


# ---------------------------------------------------------------- import
def import_document(settings: Settings, source: Path, account_path: Path | None) -> Moved:
    """Enter the jobs of the document ``source`` that the store does not have, beside a server or at rest.

    Raises StoreFileError with nothing entered, UnavailableError with whole batches entered.
    """
    file = read_store_file(settings.store_file)
    if not is_document(source):
        _refuse_store_file(source)
    started_at = _now()
    store = open_store(settings.store_file, Mode.TOOL)
    try:
        with (
            _seldom_collected(),
            Document(source) as document,
            _account("import", settings, source, account_path, started_at) as book,
        ):
            account = _take_over(store, document, settings, file, book, BESIDE_A_SERVER)
            book.finish(account, store_id=file.store_id, database=file.database)
    finally:
        store.close()
    return Moved(file, account, book.path)


def _refuse_store_file(path: Path) -> None:
    """Say so where somebody names a store file instead of a document."""
    try:
        named = read_store_file(path)
    except StoreFileError:
        return  # opened as a document, it is told what is wrong with it
    raise StoreFileError(
        f"{path}: names a database ({named.database}) and holds no jobs itself; write a document of it first with:"
        f" async-delivery store export --store-file {path} FILE"
    )


def _take_over(
    store: Store, document: Document, settings: Settings, file: StoreFile, book: _Book, batches: Batches
) -> Account:
    """Enter the jobs of the document in the store that ``file`` names."""
    source = DocumentSource(document, Defaults(settings.default_analysis, settings.results_ttl_seconds))
    return import_jobs(store, source, book.tell, _now, ahead=not file.is_sqlite, batches=batches)


# ---------------------------------------------------------------- export
def export_document(settings: Settings, target: Path, account_path: Path | None) -> Moved:
    """Write every job of the store, as it is in one moment, to a new file. Raises StoreFileError, UnavailableError."""
    if os.path.lexists(target):
        raise StoreFileError(f"{target}: exists already; nothing is written over it")
    if account_path is not None and os.path.realpath(account_path) == os.path.realpath(target):
        raise StoreFileError(f"{target}: cannot be both the document and its account; name another --account")
    part = target.with_name(f".{target.name}.{os.getpid()}.new")
    sweep_unfinished(target)
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreFileError(f"{target}: cannot be written: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "w+b", buffering=1 << 20) as out:
            moved = export_to(settings, out, target.parent, account_path, str(target))
            os.fsync(out.fileno())
        os.link(part, target)
        sync_folder(target.parent)
    except OSError as exc:
        raise StoreFileError(f"{target}: cannot be written: {exc.strerror}") from exc
    finally:
        part.unlink(missing_ok=True)
    return moved


def export_to(
    settings: Settings, out: IO[bytes], folder: Path, account_path: Path | None, target: str
) -> Moved:
    """``export_document`` to an open file, whose sections are kept in ``folder`` meanwhile. Raises OSError too."""
    file = read_store_file(settings.store_file)
    started_at = _now()
    named: list[Entry] = []
    store = open_store(settings.store_file, Mode.READ_ONLY)
    writer = DocumentWriter(out, folder)
    try:
        account = export_jobs(store, writer, named.append)
        writer.finish()
    finally:
        writer.close()
        store.close()
    if account_path is None and not named:
        return Moved(file, account)
    with _account("export", settings, Path(target), account_path, started_at) as book:
        for entry in named:
            book.tell(entry)
        book.finish(account, store_id=file.store_id, database=file.database)
    return Moved(file, account, book.path)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for cycles a hundred times less often: there are none in records, and of a large document each look goes
    through the places of all of them."""
    before = gc.get_threshold()
    gc.set_threshold(before[0] * 100, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


# ---------------------------------------------------------------- the account
@dataclass(slots=True)
class _Book:
    """The account file of one move."""

    path: Path
    tell: Callable[[Entry], None]
    _file: AccountFile
    _facts: dict[str, Any]

    def finish(self, account: Account, **facts: str) -> None:
        """Write down the sums."""
        self._file.finish({**self._facts, **facts, "finished_at": format_instant(_now()), **sums(account)})


@contextmanager
def _account(
    command: str, settings: Settings, document: Path, path: Path | None, started_at: datetime
) -> Iterator[_Book]:
    store_file = settings.store_file
    target = path or store_file.with_name(f"{store_file.name}.{command}-{started_at:{_STAMP}}{SUFFIX}")
    facts = {
        "command": command,
        "store_file": str(store_file),
        "document": str(document),
        "started_at": format_instant(started_at),
    }
    with AccountFile(target) as file:

        def tell(entry: Entry) -> None:
            try:
                file.tell(entry)
            except OSError as exc:
                raise StoreFileError(f"{target}: the account cannot be written: {exc.strerror}") from exc

        yield _Book(target, tell, file, facts)


def sums(account: Account) -> Mapping[str, Any]:
    """The counts of a move, as the account file and --json have them."""
    return {**account.to_json(), "named": {str(verdict): number for verdict, number in account.named.items()}}


def _now() -> datetime:
    return SystemClock().now()
