"""The file that ``--output-json`` names: refused before anything is done if it could not be written afterwards."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_SQLITE = b"SQLite format 3\0"


class ArtefactError(Exception):
    """The artefact cannot be written there; says why in one line."""


class Artefact:
    """Reserves the place on entering, makes the missing folders, and puts the whole text there at once.

    target      where to; None: nowhere
    store_file  what it must not be
    """

    def __init__(self, target: Path | None, store_file: Path) -> None:
        self._target = target
        self._store_file = store_file
        self._part: Path | None = None

    def __enter__(self) -> Self:
        """Raises ArtefactError."""
        if self._target is None:
            return self
        try:
            # Through a link: it is the file behind it that is to be replaced.
            self._target = self._target.resolve()
            self._refuse_what_it_must_not_be(self._target)
            self._target.parent.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(
                prefix=f".{self._target.name}.", suffix=".part", dir=self._target.parent
            )
            os.close(fd)
        except (OSError, ValueError, RuntimeError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise ArtefactError(f"--output-json: cannot write {self._target}: {why}") from exc
        self._part = Path(name)
        return self

    def _refuse_what_it_must_not_be(self, target: Path) -> None:
        if not target.exists():
            return
        if not target.is_file():
            raise ArtefactError(
                f"--output-json: {target} is {'a folder' if target.is_dir() else 'no plain file'}"
            )
        with target.open("rb") as file:
            database = file.read(len(_SQLITE)) == _SQLITE
        if database or (self._store_file.exists() and target.samefile(self._store_file)):
            raise ArtefactError(f"--output-json: {target} belongs to a store and is not written over")

    def write(self, text: str) -> None:
        """Raises ArtefactError; the file is then what it was before."""
        if self._target is None or self._part is None:
            return
        try:
            with self._part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files for their owner's eyes; a report is for those who may see new files.
            self._part.chmod(0o666 & ~_umask())
            self._part.replace(self._target)
        except OSError as exc:
            raise ArtefactError(f"--output-json: cannot write {self._target}: {exc.strerror}") from exc
        self._part = None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
