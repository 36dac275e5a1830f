"""A file replaced as a whole: the new one takes over mode and owner, and there is no moment without one of the two."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from async_delivery.domain.errors import StoreFileError
from async_delivery.storage.storefile import sync_folder
from async_delivery.storage.unfinished import sweep_unfinished


class Replacement:
    """Writes what is to stand at ``path`` (no symbolic link) beside it; a context manager that leaves nothing behind
    unless ``commit`` was called.

    out   the file to write to
    """

    def __init__(self, path: Path) -> None:
        """Raises StoreFileError."""
        self.path = path
        self._part = path.with_name(f".{path.name}.{os.getpid()}.new")
        # A copy as large as the document, which one that was killed has left.
        sweep_unfinished(path)
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise _cannot(path, exc) from exc
        self.out: IO[bytes] = os.fdopen(descriptor, "wb", buffering=1 << 20)

    def commit(self, last_look: Callable[[], None] | None = None) -> None:
        """Make it durable and put it in the place of the old one. Raises StoreFileError; the old one is there then.

        last_look   called when there is nothing left to do but that; may raise
        """
        try:
            self.out.flush()
            keep_rights(self.out.fileno(), self.path.stat())
            os.fsync(self.out.fileno())
            self.out.close()
            if last_look is not None:
                last_look()
            self._part.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            raise _cannot(self.path, exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What could not be written, as on a full disk, cannot be flushed either; the file goes anyway.
        with suppress(OSError):
            self.out.close()
        self._part.unlink(missing_ok=True)


def keep_rights(file: int | Path, like: os.stat_result, *, mode: int = 0o7777) -> None:
    """Give ``file`` the owner and the mode (as far as in ``mode``) of another. Raises OSError."""
    found = os.stat(file)
    if (found.st_uid, found.st_gid) != (like.st_uid, like.st_gid):
        os.chown(file, like.st_uid, like.st_gid)
    os.chmod(file, like.st_mode & mode)


def _cannot(path: Path, exc: OSError) -> StoreFileError:
    return StoreFileError(f"{path}: cannot be rewritten: {exc.strerror}; it is as it was")
