from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.scorecard import BY_KEY, FIGURES, Form, Measurement, Scorecard

CHECKOUT = Path(__file__).resolve().parents[2]


def measurement(
    key: str = "R6.recorded",
    measured: float = 0.4,
    cases: int = 100,
    *,
    form: Form = "long",
    store: str = "sqlite",
    seed: int | None = None,
) -> Measurement:
    return Measurement(key, store, form, measured, cases, seed, "test_it")


def test_every_figure_from_r1_to_r33_is_there_and_no_key_twice() -> None:
    numbers = list(dict.fromkeys(figure.number for figure in FIGURES))

    assert numbers == [f"R{number}" for number in range(1, 34)]
    assert len(BY_KEY) == len(FIGURES)


@pytest.mark.parametrize(
    ("key", "measured", "form", "reached"),
    [
        ("R1", 0, "long", True),
        ("R1", 1, "long", False),
        ("R6.recorded", 1.0, "long", True),
        ("R6.recorded", 1.001, "long", False),
        ("R7", 44, "long", True),
        ("R7", 44, "short", False),  # the short form has a shorter lease and a shorter target
        ("R13.reads", 2.0, "long", False),  # must be under two, not two
        ("R33", 95, "long", True),
        ("R33", 94.9, "long", False),
        ("R6.recorded", math.nan, "long", False),
        ("R33", math.nan, "long", False),
    ],
)
def test_a_value_is_judged_by_the_comparison_of_its_figure(
    key: str, measured: float, form: Form, reached: bool
) -> None:
    assert BY_KEY[key].reached(measured, form) is reached


def test_of_two_measurements_of_one_figure_the_row_shows_the_worse_and_all_cases() -> None:
    card = Scorecard()
    for key, one, other in [("R1", 0, 2), ("R6.recorded", 0.9, 0.2), ("R33", 100, 96)]:
        store = BY_KEY[key].stores[0]
        card.record(measurement(key, one, 60, store=store))
        card.record(measurement(key, other, 40, store=store))

    rows = {one.key: (one.measured, one.cases) for one in card.measurements()}
    assert rows == {"R1": (2, 100), "R6.recorded": (0.9, 100), "R33": (96, 100)}


def test_a_missed_target_stays_missed_and_named_whatever_comes_after() -> None:
    card = Scorecard()
    card.record(measurement("R1", 1, 5, seed=41))
    card.record(measurement("R1", 0, 500, seed=42))

    (row,) = card.measurements()
    assert (row.verdict, row.seed) == ("MISSED", 41)


def test_too_few_cases_are_not_called_reached() -> None:
    assert measurement("R1", 0, 499).verdict == "so far (499 of 500)"
    assert measurement("R1", 0, 500).verdict == "reached"
    assert measurement("R1", 0, 40, form="short").verdict == "reached"


def test_a_figure_is_refused_on_a_store_it_says_nothing_about() -> None:
    with pytest.raises(ValueError, match="R7 is measured on postgres, not on sqlite"):
        Scorecard().record(measurement("R7", 1))
    with pytest.raises(KeyError):
        Scorecard().record(measurement("R99", 1))


def test_the_table_has_every_figure_on_every_store_and_says_what_was_not_measured() -> None:
    card = Scorecard()
    card.record(measurement("R1", 0))

    lines = card.lines()
    places = [(figure.key, store) for figure in FIGURES for store in figure.stores]
    assert [line.split()[0] for line in lines[1:]] == [key for key, _ in places]
    assert re.match(r"R1 .* sqlite +long +0 +0 +100 +so far \(100 of 500\)$", lines[1])
    assert re.match(r"R1 .* postgres +0 +not measured in this run$", lines[2])
    assert any(re.match(r"R19 .* waits for webhooks$", line) for line in lines)
    absent = [(one["key"], one["store"]) for one in card.as_json()["not_measured"]]
    assert absent == [place for place in places if place != ("R1", "sqlite")]


PLANTED = """
import pytest

@pytest.fixture
def late(score):
    yield
    score("R24", "sqlite", 0, cases=100)

def test_good(score, seed, late):
    score("R1", "sqlite", 0, cases=40, seed=seed)

def test_bad(score, seed):
    score("R9", "postgres", 3, cases=500, seed=seed)

@pytest.mark.long
def test_long(score):
    score("R33", "-", 100, cases=20)
"""
DYING = """
import os
from pathlib import Path

MARK = Path(__file__).with_name("died")

def test_before(score):
    score("R5", "sqlite", 0, cases=5)

def test_dies_once(score):
    score("R6.recorded", "sqlite", 0.1, cases=10)
    if not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), 9)

def test_after(score):
    score("R26.loss", "sqlite", 4, cases=1)
"""


def run_planted(folder: Path, *options: str) -> tuple[list[str], dict[str, tuple[str, str, int | None]]]:
    """The lines of a run of the tests in ``folder``, and what its scorecard as JSON has measured."""
    # The folder is outside of the checkout, so the fixtures have to be brought along.
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest"),
            *("-p", "tests.conftest", "-p", "tests.reliability.conftest", "-p", "no:cacheprovider"),
            *(f"--rootdir={folder}", "-c", str(CHECKOUT / "pyproject.toml"), "-m", "long or not long"),
            *(f"--scorecard={folder / 'out' / 'card.json'}", *options, str(folder)),
        ],
        cwd=CHECKOUT,
        env={
            "RELIABILITY_SEED": "77",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(CHECKOUT),
            # What other plugins import costs a second in each process.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    card = json.loads((folder / "out" / "card.json").read_text())
    rows = {row["key"]: (row["form"], row["verdict"], row["seed"]) for row in card["measurements"]}
    return ran.stdout.strip().splitlines(), rows


def test_a_run_shows_the_table_before_its_last_line_and_writes_it_and_fails_for_a_missed_target(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)

    lines, rows = run_planted(tmp_path)

    assert re.fullmatch(r"=+ 1 failed, 2 passed in .*=+", lines[-1])
    assert any(re.match(r"R9 .* postgres +short +0 +3 +500 +MISSED", line) for line in lines)
    assert any("RELIABILITY_SEED=77" in line for line in lines)
    assert rows == {
        "R1": ("short", "reached", 77),
        "R9": ("short", "MISSED", 77),
        "R24": ("short", "reached", None),
        "R33": ("long", "reached", None),
    }


def test_what_several_workers_have_measured_is_summed_up_even_if_one_of_them_dies(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)
    (tmp_path / "test_dying.py").write_text(DYING)

    lines, rows = run_planted(tmp_path, "-p", "xdist", "-n", "2", "--dist", "loadfile")

    # The run fails for the dead worker and goes on with another one.
    assert any("crashed while running 'test_dying.py::test_dies_once'" in line for line in lines)
    assert re.fullmatch(r"=+ 2 failed, 5 passed in .*=+", lines[-1])
    assert rows.keys() == {"R1", "R5", "R6.recorded", "R9", "R24", "R26.loss", "R33"}
    assert rows["R9"] == ("short", "MISSED", 77)
    assert any(re.match(r"R5 .* sqlite +short +0 +0 +5 +reached$", line) for line in lines)
