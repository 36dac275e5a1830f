"""The store file: a small JSON document that names a store's database and says what it is.

Read and written here, with every refusal in words that say what to do. Opening the database is in ``opening``.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.instant import format_instant, parse_instant

KIND = "async-delivery-store"
SCHEMA_VERSION = 1
DEFAULT_URL = "sqlite:store.v1.sqlite3"
# The document form: schema versions of it, and the keys it is known by.
_DOCUMENT_VERSIONS = range(1, 6)
_DOCUMENT_KEYS = frozenset({"jobs", "results", "events", "notifications"})
# A pointer is a few hundred bytes; what is larger is something else and need not be parsed to say so.
_MAX_BYTES = 65_536
_DOCUMENT_HEAD = 4096


class DocumentFormError(StoreFileError):
    """The file is the older form of a store, a document with all data in it."""


@dataclass(frozen=True, slots=True)
class StoreFile:
    """What a store file says. ``database`` is a URL; a relative path in it is relative to the file's folder."""

    path: Path
    store_id: str
    database: str
    created_at: datetime

    @property
    def is_sqlite(self) -> bool:
        """True if the database is an SQLite file."""
        return self.database.startswith("sqlite:")

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return sqlite_path(self.path, self.database)


def sqlite_path(store_file: Path, url: str) -> Path:
    """The file that ``sqlite:PATH`` names, seen from ``store_file``. ``sqlite:///PATH`` is understood as well."""
    name = url.removeprefix("sqlite:")
    if name.startswith("//"):
        # As SQLAlchemy writes it: three slashes and a relative path, four and an absolute one.
        name = name.removeprefix("//").removeprefix("/")
    if not name or name == ":memory:" or "\0" in name or "?" in name:
        raise StoreFileError(
            f"{url!r} names no file: write sqlite: and the path of the database, e.g. {DEFAULT_URL}"
        )
    return store_file.parent / name


# What libpq itself hides when it shows a connection string.
_SECRETS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)


def check_url(url: str) -> str:
    """``url`` as it may stand in a store file. Raises StoreFileError."""
    if url.startswith("sqlite:"):
        sqlite_path(Path(), url)
        return url
    if not url.startswith(("postgresql://", "postgres://")):
        raise StoreFileError(
            f"the database {_scheme(url)} is not known: use sqlite:PATH (such as {DEFAULT_URL}) or postgresql://..."
        )
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or any(key in _SECRETS for key, _ in parse_qsl(parts.query))
    except ValueError as exc:
        raise StoreFileError(
            "the database URL cannot be read; write postgresql://user@host/database"
        ) from exc
    if secret:
        raise StoreFileError(
            "a password does not belong in a store URL, which is written to the store file: name it in a file that"
            " PGPASSFILE points to (or use PGPASSWORD or a service file) and leave it out of the URL"
        )
    return url


def _scheme(url: str) -> str:
    # Only up to the colon: what follows may hold a secret.
    return repr(url.partition(":")[0][:40]) if ":" in url else "without a scheme"


def same_database(path: Path, one: str, other: str) -> bool:
    """True if both URLs name the same database, seen from the store file ``path``."""
    if one.startswith("sqlite:") and other.startswith("sqlite:"):
        return os.path.realpath(sqlite_path(path, one)) == os.path.realpath(sqlite_path(path, other))
    return one == other


# ---------------------------------------------------------------- reading
def read_store_file(path: Path) -> StoreFile:
    """What the store file at ``path`` says. Raises StoreFileError, saying what is wrong and what to do."""
    return _parse(path, _load(path))


def _load(path: Path) -> dict[str, Any]:
    data = _read(path)
    if not data.strip():
        raise StoreFileError(
            f"{path}: the store file is empty; restore it from a backup, or name another file"
        )
    if len(data) > _MAX_BYTES:
        _refuse_large(path, data)
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise StoreFileError(
            f"{path}: the store file is damaged or truncated (not JSON: {str(exc)[:120]}); restore it from a backup"
        ) from exc
    if not isinstance(value, dict):
        raise StoreFileError(f"{path}: not a store file (a JSON {type(value).__name__}); name the right file")
    return value


def _read(path: Path) -> bytes:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise StoreFileError(
                f"{path}: a folder, not a store file; name the file in it, e.g. {path}/store.v1.json"
            )
        if not stat.S_ISREG(path.stat().st_mode):
            raise StoreFileError(f"{path}: not a regular file; name a store file")
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except FileNotFoundError as exc:
        if path.is_symlink():
            raise StoreFileError(f"{path}: a symbolic link to nothing; restore what it points to") from exc
        raise StoreFileError(
            f"{path}: there is no store file; create one with: async-delivery store init --store-file {path}"
        ) from exc
    except OSError as exc:
        raise StoreFileError(f"{path}: the store file cannot be read: {exc.strerror}") from exc


def _refuse_large(path: Path, data: bytes) -> None:
    head = data[:_DOCUMENT_HEAD]
    words = ("schema_version", *_DOCUMENT_KEYS)
    if head.lstrip().startswith(b"{") and any(f'"{word}"'.encode() in head for word in words):
        raise _document_form(path)
    raise StoreFileError(f"{path}: not a store file (larger than {_MAX_BYTES} bytes); name the right file")


def _document_form(path: Path) -> StoreFileError:
    return DocumentFormError(
        f"{path}: the older form of a store, one JSON document with all data in it; this version cannot open it as"
        f" it is: convert it first with: async-delivery store convert --store-file {shlex.quote(str(path))}"
    )


def is_document(path: Path) -> bool:
    """True if the file at ``path`` is a document with all data in it, as far as its beginning tells."""
    try:
        read_store_file(path)
    except DocumentFormError:
        return True
    except StoreFileError:
        pass
    return False


def _is_newer_document(version: Any) -> bool:
    return type(version) is int and version > _DOCUMENT_VERSIONS[-1]


def _parse(path: Path, value: dict[str, Any]) -> StoreFile:
    version = value.get("schema_version")
    if value.get("kind") != KIND:
        if "kind" not in value and "jobs" in value and _is_newer_document(version):
            raise StoreFileError(
                f"{path}: the older form of a store, but written by a newer version of the program (schema_version"
                f" {version}, this one knows {_DOCUMENT_VERSIONS[-1]}); upgrade the program"
            )
        if "kind" not in value and (version in _DOCUMENT_VERSIONS or _DOCUMENT_KEYS & value.keys()):
            raise _document_form(path)
        raise StoreFileError(
            f"{path}: not a store file of this program (kind is {str(value.get('kind'))[:60]!r}, not {KIND!r});"
            " name the right file"
        )
    if type(version) is not int or version < 1:
        raise StoreFileError(
            f"{path}: the store file is damaged (schema_version {version!r:.60}); restore it"
        )
    if version > SCHEMA_VERSION:
        raise StoreFileError(
            f"{path}: written by a newer version of the program (schema_version {version}, this one knows"
            f" {SCHEMA_VERSION}); upgrade the program"
        )
    texts = {}
    for name in ("store_id", "database", "created_at"):
        text = value.get(name)
        if not isinstance(text, str) or not text:
            raise StoreFileError(
                f"{path}: the store file is damaged ({name} is missing); restore it from a backup"
            )
        texts[name] = text
    try:
        created_at = parse_instant(texts["created_at"])
    except ValueError as exc:
        raise StoreFileError(f"{path}: the store file is damaged (created_at: {exc}); restore it") from exc
    try:
        check_url(texts["database"])
    except StoreFileError as exc:
        raise StoreFileError(f"{path}: {exc.message}") from exc
    return StoreFile(path, texts["store_id"], texts["database"], created_at)


# ---------------------------------------------------------------- writing
def write_store_file(file: StoreFile) -> None:
    """Write ``file`` durably where nothing is yet. Raises StoreFileError, FileExistsError."""
    write_new(file.path, store_file_text(file))


def store_file_text(file: StoreFile, **more: Any) -> bytes:
    """What a store file says, as its bytes; ``more`` is for readers that know of it."""
    text = json.dumps(
        {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "store_id": file.store_id,
            "database": file.database,
            "created_at": format_instant(file.created_at),
            **more,
        },
        indent=2,
    )
    return (text + "\n").encode()


def write_new(path: Path, data: bytes) -> None:
    """Write a whole file that did not exist: it appears complete or not at all, and never over another.

    Raises FileExistsError, StoreFileError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        # A link, not a rename: a rename would replace what somebody else put there meanwhile.
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as exc:
        raise StoreFileError(f"{path}: cannot be written: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
