"""R33: each of the bugs that are planted in a scratch copy of the service turns a figure red."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import read
from tests.reliability import planted_page
from tests.reliability.conftest import Score
from tests.reliability.figures import BY_KEY
from tests.reliability.fleet import fleet_on
from tests.reliability.planted import Found, Report, Verdict, judge, run, try_plant
from tests.reliability.planted_guest import WHERE
from tests.reliability.planted_list import BY_NAME, PLANTS
from tests.reliability.planted_plant import Plant
from tests.reliability.planted_scratch import CHECKOUT, Edit, PlantError, Ran, scratch
from tests.reliability.population import Population
from tests.reliability.summary import FOLDER

PAGE = "docs/explanation/planted-bugs.md"


# ---------------------------------------------------------------- the list
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_the_text_that_a_bug_replaces_is_there_once_and_what_comes_of_it_can_run(plant: Plant) -> None:
    texts = {edit.file: (CHECKOUT / edit.file).read_text() for edit in plant.edits}

    for edit in plant.edits:
        texts[edit.file] = edit.apply(texts[edit.file])

    for file, text in texts.items():
        assert text != (CHECKOUT / file).read_text()
        if file.endswith(".py"):
            compile(text, file, "exec")


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_bug_names_tests_that_there_are_and_figures_of_its_stores(plant: Plant) -> None:
    for test in plant.tests:
        file, name = test.split("::")
        assert f"def {name.partition('[')[0]}(" in (CHECKOUT / file).read_text()
    for store in plant.stores:
        assert any(store in BY_KEY[key].stores for key in plant.figures), store
    assert len(plant.fault) > 20


def test_there_are_bugs_enough_on_both_stores_and_none_has_two_names() -> None:
    assert len(BY_NAME) == len(PLANTS) >= max(24, BY_KEY["R33"].long_cases)
    assert sum("sqlite" in plant.stores for plant in PLANTS) >= 20
    assert sum("postgres" in plant.stores for plant in PLANTS) >= 12
    assert len({key for plant in PLANTS for key in plant.figures}) >= 15


def test_a_text_that_is_not_there_or_twice_is_no_bug() -> None:
    assert Edit("f", "b", "x").apply("abc") == "axc"
    for old in ("d", "a"):
        with pytest.raises(PlantError, match="not once"):
            Edit("f", old, "x").apply("abca")


# ---------------------------------------------------------------- the judgement
def row(key: str, store: str, verdict: str = "MISSED", seed: int | None = 7) -> dict[str, Any]:
    return {
        "key": key,
        "store": store,
        "verdict": verdict,
        "seed": seed,
        "measured": 3,
        "cases": 500,
        "test": "t",
    }


BUG = Plant("bug", "a bug", (), ("R9", "R2"), ("sqlite", "postgres"), ("t",))


@pytest.mark.parametrize(
    ("code", "rows", "red"),
    [
        (1, [row("R9", "sqlite"), row("R9", "postgres")], True),
        (1, [row("R2", "sqlite"), row("R9", "postgres")], True),
        (1, [row("R9", "sqlite")], False),  # unseen on the other store
        (1, [row("R9", "sqlite"), row("R9", "postgres", "reached")], False),
        (1, [row("R1", "sqlite"), row("R1", "postgres")], False),  # by accident
        (1, [], False),  # the test broke
        (0, [row("R9", "sqlite", "reached"), row("R9", "postgres", "reached")], False),
        (2, [], False),  # nothing could be imported
    ],
)
def test_a_bug_is_found_by_its_figures_on_each_of_its_stores_and_not_by_a_crash(
    code: int, rows: list[dict[str, Any]], red: bool
) -> None:
    verdict = judge(BUG, Ran(code, "E   ImportError\n1 failed", rows))

    assert verdict.red is red
    assert bool(verdict.why) is not red


def test_the_shares_count_bugs_and_a_seed_that_did_not_bring_its_bug_back() -> None:
    def found(again: bool | None) -> Found:
        return Found("R9", "sqlite", 1, 5, 7, "t", again)

    report = Report(
        [
            Verdict("a", True, found=[found(True)]),
            Verdict("b", True, found=[found(True), found(False)]),
            Verdict("c", True, found=[found(None)]),
            Verdict("d", False),
        ]
    )

    assert report.red_percent == 75
    assert len(report.retried) == 2
    assert report.again_percent == 50


# ---------------------------------------------------------------- the copy
@pytest.mark.slow
def test_every_process_of_a_server_runs_the_code_of_its_own_checkout(tmp_path: Path) -> None:
    with fleet_on("sqlite", tmp_path, "--analysis", WHERE, slots=1) as fleet:
        people = Population(fleet)
        (job,) = people.ended([people.submit("where")])
        files = people.get(f"/analyze/results/{job['result_id']}")["result"]
        commands = [one.cmdline() for one in fleet.servers[0].processes()]

    # In a scratch copy this test runs as well: see below.
    assert len(files) >= 3
    assert [file for file in files.values() if not Path(file).is_relative_to(CHECKOUT)] == []
    assert len(commands) >= 3
    assert [words for words in commands if not words[0].startswith(sys.prefix)] == []


@pytest.mark.slow
def test_a_bug_is_planted_in_a_copy_that_runs_nothing_else_is_found_there_and_is_gone_afterwards() -> None:
    plant = BY_NAME["deep-json-is-a-fault"]
    (file,) = {edit.file for edit in plant.edits}
    before = (CHECKOUT / file).read_bytes()

    with scratch() as copy:
        whole = copy.run([f"{Path(__file__).relative_to(CHECKOUT)}::{PROCESSES.__name__}"], 120)
        verdict = try_plant(copy, plant)
        left = (copy.root / file).read_bytes()

    assert whole.code == 0, whole.output
    assert verdict.red, verdict
    assert [(one.figure, one.store, one.again) for one in verdict.found] == [("R15", "-", True)]
    assert left == (CHECKOUT / file).read_bytes() == before
    assert not copy.root.exists()


PROCESSES: Callable[..., None] = test_every_process_of_a_server_runs_the_code_of_its_own_checkout


# ---------------------------------------------------------------- the page
def test_the_page_has_every_bug_with_what_it_breaks_and_no_other() -> None:
    shown = re.findall(
        r"^\| `([\w-]+)` \| ([^|]+) \| [^|]+ \| [^|]+ \|[^|]*\|[^|]*\|$", read(PAGE), re.MULTILINE
    )

    assert shown == [(plant.name, plant.fault) for plant in PLANTS]


def test_the_page_is_what_its_program_makes_of_it_and_keeps_what_is_not_measured_anew() -> None:
    found = {"figure": "R9", "store": "sqlite", "measured": 12, "cases": 504, "seed": 7, "again": True}
    verdict = {"name": PLANTS[0].name, "red": True, "found": [found]}

    assert planted_page.render(read(PAGE), []) == read(PAGE)
    page = planted_page.render(read(PAGE), [{"measured_at": "2026-02-03", "plants": [verdict]}])
    assert "| R9: 12 in 504 on SQLite | yes | 2026-02-03 |" in page
    assert planted_page.render(page, []) == page
    lost = planted_page.render(
        page, [{"measured_at": "2026-02-04", "plants": [{**verdict, "red": False, "found": []}]}]
    )
    assert "| **none** |  | 2026-02-04 |" in lost


# ---------------------------------------------------------------- all of them
@pytest.mark.long
@pytest.mark.postgres
def test_every_planted_bug_turns_a_figure_red(score: Score) -> None:
    report = run(PLANTS, lambda line: print(line, flush=True), FOLDER / "planted.json")

    missing = [(one.name, one.why) for one in report.verdicts if not one.red]
    print(json.dumps(missing, indent=1))
    score("R33.again", "-", report.again_percent, cases=len(report.retried))
    score("R33", "-", report.red_percent, cases=len(report.verdicts))
    assert missing == []
