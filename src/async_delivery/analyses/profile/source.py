"""Where the data set of a job is: uploaded, inline, or a path below the operator's data root.

Opens it safely and says what it is; reading it is ``load``'s business. Imports ``plugins``; knows no DuckDB.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from async_delivery.plugins import Context, InputNotFoundError, InvalidInputError


@dataclass(frozen=True, slots=True)
class Source:
    """An open data set.

    origin      ``upload``, ``inline`` or ``path``
    field       of the request, for error messages
    name        what the tenant calls it; its ending helps to guess the format
    sql_path    path under which DuckDB reads exactly the open file, whatever happens to its name
    size_bytes  its length
    head        its first bytes, at most 64 KiB
    """

    origin: str
    field: str
    name: str
    sql_path: str
    size_bytes: int
    head: bytes


@contextmanager
def open_source(
    context: Context, *, data: Sequence[dict[str, Any]] | None, csv: str | None, path: str | None
) -> Iterator[Source]:
    """The one data set of the job, open while the ``with`` block lasts.

    Raises InvalidInputError when there is none, more than one, or it may not be read; InputNotFoundError.
    """
    given = {"file": context.input, "params.data": data, "params.csv": csv, "params.path": path}
    fields = [field for field, value in given.items() if value is not None]
    if not fields:
        raise InvalidInputError(
            "params", "name a data set: upload a file, or give params.data, params.csv or params.path"
        )
    if len(fields) > 1:
        raise InvalidInputError(fields[1], f"only one data set per job, and {fields[0]} is given too")
    field = fields[0]
    if context.input is not None:
        descriptor = os.open(context.input.path, os.O_RDONLY | os.O_CLOEXEC)
        origin, name = "upload", context.input.filename
    elif path is not None:
        descriptor = _open_below(context.data_root, path)
        origin, name = "path", path
    else:
        file = _write_inline(context.workdir, data, csv)
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        origin, name = "inline", file.name
    try:
        head = os.pread(descriptor, 65536, 0)
        if not head.strip(b"\xef\xbb\xbf \t\r\n"):
            raise InvalidInputError(field, "is empty")
        # By descriptor, not by name: what was checked is what is read, and no name can act as a pattern.
        yield Source(origin, field, name, f"/proc/self/fd/{descriptor}", os.fstat(descriptor).st_size, head)
    finally:
        os.close(descriptor)


def _write_inline(workdir: Path, data: Sequence[dict[str, Any]] | None, csv: str | None) -> Path:
    if csv is not None:
        file = workdir / "inline.csv"
        try:
            file.write_bytes(csv.encode("utf-8"))
        except UnicodeEncodeError as exc:
            raise InvalidInputError("params.csv", "holds a lone surrogate, which is no text") from exc
        return file
    if not data:
        raise InvalidInputError("params.data", "is empty")
    file = workdir / "inline.json"
    try:
        file.write_text(json.dumps(data, allow_nan=False), encoding="ascii")
    except ValueError as exc:
        raise InvalidInputError("params.data", "holds a number that JSON cannot say") from exc
    return file


def _open_below(root: Path | None, path: str) -> int:
    """A descriptor of the regular file ``path`` below ``root``.

    Symbolic links are followed as long as they lead to a place below the root.
    """
    field = "params.path"
    if root is None:
        raise InvalidInputError(field, "this server has no data folder; upload the file instead")
    pure = PurePosixPath(path)
    if "\0" in path or not pure.parts:
        raise InvalidInputError(field, "is not a path")
    if pure.is_absolute() or ".." in pure.parts:
        raise InvalidInputError(field, "must be relative to the data folder, without '..'")
    base = root.resolve()
    try:
        target = (base / pure).resolve(strict=True)
        inside = target.relative_to(base)
    except ValueError as exc:
        raise InvalidInputError(field, "leads out of the data folder") from exc
    except (OSError, RuntimeError) as exc:  # RuntimeError: a circle of links
        raise _not_readable(exc, path) from exc
    try:
        return _open_parts(base, inside.parts)
    except OSError as exc:
        raise _not_readable(exc, path) from exc


def _open_parts(base: Path, parts: tuple[str, ...]) -> int:
    # One component at a time and never through a link: the path was resolved a moment ago, and whoever
    # writes below the root could have put a link in its way since.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    folder = os.open(base, flags | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        name = parts[-1] if parts else "."
        # Looked at before it is opened: opening a device can do something, opening a pipe waits.
        _check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
        descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _check_regular(os.fstat(descriptor))
    except InvalidInputError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InvalidInputError("params.path", "is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInputError("params.path", "is not a regular file")


def _not_readable(exc: OSError | RuntimeError, path: str) -> InvalidInputError | InputNotFoundError:
    code = exc.errno if isinstance(exc, OSError) else errno.ELOOP
    if code in (errno.ENOENT, errno.ENOTDIR):
        return InputNotFoundError(f"data file {path!r}")
    if code == errno.ENAMETOOLONG:
        return InvalidInputError("params.path", "is too long")
    if code == errno.ELOOP:
        return InvalidInputError("params.path", "leads through a link that cannot be followed")
    return InvalidInputError("params.path", "cannot be read by the service")
