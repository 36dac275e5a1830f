"""R31, as far as it can be known without asking anybody: what is installed is what is pinned, once and by hash.

Whether a pinned version has a known fault is asked of a service on the network, so it is not measured here: the
scorecard says so of R31.faults. ``pip-audit --require-hashes -r requirements/base.txt`` measures it where there is one.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.reliability.conftest import Score

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = sorted((CHECKOUT / "requirements").glob("*.txt"))
_PINNED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)")


def entries(path: Path) -> list[str]:
    """The entries of a requirements file, each with its continued lines."""
    text = path.read_text().replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def pinned(path: Path) -> list[tuple[str, str]]:
    found = [_PINNED.match(entry) for entry in entries(path)]
    assert all(found), [entry[:60] for entry, match in zip(entries(path), found, strict=True) if not match]
    return [(match[1].lower().replace("_", "-").replace(".", "-"), match[2]) for match in found if match]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_requirement_is_one_version_with_its_hashes(path: Path) -> None:
    for entry in entries(path):
        assert _PINNED.match(entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry[:80]
        assert "://" not in entry.partition("--hash")[0]
    assert [name for name, count in Counter(name for name, _ in pinned(path)).items() if count > 1] == []


def test_all_files_agree_on_every_version() -> None:
    versions: dict[str, set[str]] = {}
    for path in FILES:
        if path.name != "ray.txt":  # made for an environment of its own
            for name, one in pinned(path):
                versions.setdefault(name, set()).add(one)

    assert {name: some for name, some in versions.items() if len(some) > 1} == {}


def test_what_runs_here_is_what_is_pinned() -> None:
    differ = {}
    for name, wanted in pinned(CHECKOUT / "requirements/dev.txt"):
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # of another platform or Python
        if installed != wanted:
            differ[name] = (installed, wanted)

    assert differ == {}


def test_direct_dependencies_are_few(score: Score) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]

    score(
        "R31.count", "-", len(project["dependencies"]), cases=len(pinned(CHECKOUT / "requirements/base.txt"))
    )
