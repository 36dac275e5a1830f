"""docs/explanation/reliability.md shows every figure with its target, and what reproduces a failure works."""

from __future__ import annotations

from typing import Any

import pytest

from tests.docs.pages import read
from tests.reliability import oracle, page
from tests.reliability.figures import FIGURES
from tests.reliability.scorecard import table_of

PAGE = "docs/explanation/reliability.md"


def rows_of(text: str) -> list[list[str]]:
    table = text.partition(page.BEGIN)[2].partition(page.END)[0]
    lines = [line for line in table.splitlines() if line.startswith("| R")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_the_page_has_every_figure_with_its_target_and_no_other() -> None:
    shown = [(row[0], row[2]) for row in rows_of(read(PAGE))]

    assert shown == table_of(FIGURES)


def test_the_page_is_what_its_program_makes_of_it() -> None:
    assert page.render(read(PAGE), []) == read(PAGE)


def test_each_figure_is_explained() -> None:
    told = read(PAGE).partition("## What is done to it")[2].partition("## The scorecard")[0]
    waiting = {figure.number for figure in FIGURES if figure.waits_for}

    missing = [number for number in {one.number for one in FIGURES} - waiting if number not in told]
    assert missing == []


def test_a_new_measurement_replaces_the_one_of_its_store_and_keeps_the_others() -> None:
    def measured(store: str, cases: int, form: str = "long") -> dict[str, Any]:
        value = {"key": "R1", "store": store, "form": form, "measured": 0, "cases": cases, "seed": 7}
        return {**value, "verdict": "reached"}

    first = page.render(read(PAGE), [measured("sqlite", 40, "short"), measured("postgres", 500)])
    second = page.render(first, [measured("sqlite", 500), measured("sqlite", 40, "short")])

    row = next(row for row in rows_of(second) if row[0] == "R1")
    assert row[3] == "SQLite 0 in 500, seed 7; PostgreSQL 0 in 500, seed 7"


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="scorecard"):
        page.render("# Reliability", [])


def test_the_oracle_has_the_rules_that_the_page_tells_of() -> None:
    told = read(PAGE).lower()

    for words in (
        "what was acknowledged is there",
        "nothing crosses tenants",
        "one request leads to one job",
    ):
        assert words in told
        assert words in {str(rule) for rule in oracle.Rule}
