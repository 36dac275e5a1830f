"""docs/decisions/0006-dependencies.md gives a reason for each direct dependency of a base install."""

from __future__ import annotations

import tomllib

from packaging.requirements import Requirement

from tests.docs.pages import code, read, rows, section

PAGE = "docs/decisions/0006-dependencies.md"


def test_every_direct_dependency_has_its_reason() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]

    reasons = {code(row[0])[0]: row[2] for row in rows(section(read(PAGE), "Decision"))}

    assert set(reasons) == {Requirement(each).name for each in project["dependencies"]}
    assert all(reasons.values())


def test_every_extra_is_named() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    text = section(read(PAGE), "Decision")

    assert [extra for extra in project["optional-dependencies"] if f"`{extra}`" not in text] == []
