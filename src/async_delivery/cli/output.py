"""What commands say: lines, tables and JSON for stdout, one-line messages for stderr. Knows no command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from async_delivery.cli.process import silence


class Failed(Exception):  # noqa: N818  carries an exit code out of a command; nothing is wrong with the program
    """A command could not do what was asked; told in one line on stderr."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def clean(text: object) -> str:
    """``text`` on one line, without what could steer a terminal: it may come from a tenant or a plug-in."""
    return "".join(char if char.isprintable() else "�" for char in " ".join(str(text).split()))


def say(message: object) -> None:
    """One line for a person, on stderr."""
    put(sys.stderr, f"{clean(message)}\n")


def put(stream: TextIO, text: str) -> None:
    """Write ``text`` at once. What cannot take it, such as a full disk, is written to no more: it only tells how
    things go. Raises BrokenPipeError."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError:
        silence(stream)


def emit_json(value: Any) -> None:
    """``value`` as indented JSON on stdout."""
    # A lone surrogate from a file name must not break the output it is shown in.
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def emit_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """``name  value`` lines; pairs without a value are left out."""
    rows = [(name, clean(value)) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def emit_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns under their heads; None is shown as a dash."""
    lines = [list(heads), *([("-" if cell is None else clean(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def write_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` whole or not at all. Raises Failed."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise Failed(f"cannot write {path}: {exc.strerror}") from exc
