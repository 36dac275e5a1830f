"""The account of a move, as a JSON file: entries as they come, the sums at the end.

It appears under its name when it is whole. The originals of refused records are in it byte for byte, so it is for
its owner's eyes like the store itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

from async_delivery.domain.account import Entry
from async_delivery.domain.errors import StoreFileError
from async_delivery.storage.storefile import sync_folder

SUFFIX = ".account.json"
_UNFINISHED = re.compile(rf"\..+{re.escape(SUFFIX)}\.([0-9]+)\.new")
_HEAD = b'{"kind":"async-delivery-account"'


class AccountFile:
    """Written on the way; a context manager that leaves nothing behind unless ``finish`` was called."""

    def __init__(self, path: Path) -> None:
        """Raises StoreFileError, also if something else than an account is at ``path``."""
        self.path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.new")
        self._entries = 0
        self._require_own()
        _sweep(path.parent)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StoreFileError(f"{path}: the account cannot be written: {exc.strerror}") from exc
        self._out: IO[bytes] = os.fdopen(descriptor, "wb", buffering=1 << 16)
        self._out.write(_HEAD + b',"entries":[')

    def tell(self, entry: Entry) -> None:
        """Write an entry down. Raises OSError."""
        said: dict[str, Any] = entry.to_json()
        if entry.record is not None:
            said.update(_original(entry.record))
        self._out.write(b"\n" if self._entries == 0 else b",\n")
        self._out.write(orjson.dumps(said))
        self._entries += 1

    def finish(self, sums: Mapping[str, Any]) -> None:
        """Write the sums and put the file in its place. Raises StoreFileError."""
        # The move itself may have made something there: the database that it was asked to fill.
        self._require_own()
        try:
            self._out.write(b"\n]," + orjson.dumps(sums)[1:] + b"\n")
            self._out.flush()
            os.fsync(self._out.fileno())
            self._out.close()
            self._part.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            raise StoreFileError(f"{self.path}: the account cannot be written: {exc.strerror}") from exc

    def _require_own(self) -> None:
        if os.path.lexists(self.path) and not _is_account(self.path):
            raise StoreFileError(
                f"{self.path}: exists already and is no account; name another file with --account"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the file goes anyway
            self._out.close()
        self._part.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove the accounts of moves that were killed; each has a name of its own, so no later one would meet it."""
    with suppress(OSError):
        for entry in folder.iterdir():
            found = _UNFINISHED.fullmatch(entry.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                entry.unlink(missing_ok=True)


def _is_account(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(len(_HEAD)) == _HEAD
    except OSError:
        return False


def _original(record: bytes) -> dict[str, Any]:
    """A record as it was: as JSON where that is JSON for every reader, else its text."""
    try:
        orjson.loads(record)
    except orjson.JSONDecodeError:
        return {"record_text": record.decode("utf-8", "replace")}
    return {"record": orjson.Fragment(record)}
