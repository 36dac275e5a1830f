"""Shared by the tests of ``profile``: run it on some bytes, find a column in its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from async_delivery.analyses.profile import profile
from async_delivery.plugins import InvalidInputError
from async_delivery.testing import input_file, run_inline


def profiled(folder: Path, content: str | bytes, name: str = "data.csv", **params: Any) -> dict[str, Any]:
    """The report on an uploaded file with this content."""
    file = folder / "upload"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    report: dict[str, Any] = run_inline(profile, params, input=input_file(file, filename=name)).result
    return report


def refused(folder: Path, content: str | bytes, name: str = "data.csv", **params: Any) -> InvalidInputError:
    """The error that such a file meets."""
    with pytest.raises(InvalidInputError) as caught:
        profiled(folder, content, name, **params)
    return caught.value


def column(report: dict[str, Any], name: str) -> dict[str, Any]:
    """The column's entry in the report."""
    (found,) = [each for each in report["columns"] if each["name"] == name]
    entry: dict[str, Any] = found
    return entry
