"""The artefacts in ``artifacts/async``: written whole under a name of their own, and read again as they are found.

What an artefact means is judged by those who read it. Imports the standard library and ``domain``.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from async_delivery.domain.instant import parse_instant

_LARGEST_BYTES = 16 * 1024 * 1024
_CLOCKS_DIFFER = timedelta(hours=1)
# To write an artefact takes milliseconds; a day is more than any clock of a shared folder is wrong.
_UNFINISHED_SECONDS = 86_400.0


def check_writable(folder: Path) -> None:
    """Make the folder, and see that a file can be written there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\n")


def write_new(folder: Path, stem: str, suffix: str, data: bytes, *, private: bool = False) -> Path:
    """Write a file that was not there: ``stem`` + ``suffix``, with a number between them if that is taken.

    It appears whole or not at all. ``private``: for its owner's eyes. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    handle, name = tempfile.mkstemp(prefix=f".{stem}.", suffix=".part", dir=folder)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not private:
            # mkstemp makes files for their owner's eyes; a report is for those who may see new files.
            part.chmod(0o666 & ~_umask())
        number = 1
        while True:
            target = folder / f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
            try:
                # A link, not a rename: a rename would replace what somebody else put there meanwhile.
                os.link(part, target)
            except FileExistsError:
                number += 1
            else:
                return target
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _sweep(folder: Path) -> None:
    """Take away what processes that were killed have left half-written long ago."""
    long_ago = time.time() - _UNFINISHED_SECONDS
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if part.is_file() and part.stat().st_mtime < long_ago:
                part.unlink()


def write_json(folder: Path, stem: str, value: Mapping[str, Any]) -> Path:
    """``write_new`` for a JSON document. Raises OSError."""
    return write_new(folder, stem, ".json", as_json(value))


def as_json(value: Any) -> bytes:
    """Indented JSON; a lone surrogate, as file names have them, is escaped."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file as it was found.

    at      when what it reports ended; the file's own time if it does not say, or says that it ended after that
    body    what it holds; None if that cannot be read as a JSON object
    fault   why it cannot
    """

    path: Path
    at: datetime
    body: Mapping[str, Any] | None
    fault: str | None = None


def read_artefacts(folder: Path, pattern: str) -> list[Artefact]:
    """The files of the folder that match, oldest first. A folder that is not there has none."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found.append(read_artefact(path))
    return sorted(found, key=lambda each: (each.at, each.path.name))


def read_artefact(path: Path) -> Artefact:
    """One file. Raises FileNotFoundError; what else is wrong with it is in ``fault``."""
    at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as exc:
        return Artefact(path, at, None, f"cannot be read: {exc.strerror}")
    if len(data) > _LARGEST_BYTES:
        return Artefact(path, at, None, "is too large for an artefact")
    try:
        body = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return Artefact(path, at, None, "is empty" if not data.strip() else "is damaged: it is not JSON")
    if not isinstance(body, dict):
        return Artefact(path, at, None, "is damaged: it is no JSON object")
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        ended_at = parse_instant(body["finished_at"])
        # One of a clock that ran ahead would be the last of its kind for as long, and hide every failure after it.
        if ended_at <= at + _CLOCKS_DIFFER:
            at = ended_at
    return Artefact(path, at, body)


def _no_number(text: str) -> float:
    """NaN and infinities are Python's, not JSON's; passed on, they would break the reports that quote them."""
    raise ValueError(f"{text} is not JSON")
