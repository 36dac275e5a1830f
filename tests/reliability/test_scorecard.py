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


def test_what_was_not_measured_and_what_waits_is_said() -> None:
    card = Scorecard()
    card.record(measurement("R1", 0))

    text = "\n".join(card.lines())
    assert "not measured in this run: R2, R3" in text
    assert "wait for webhooks: R19, R21.lost, R21.ids" in text


PLANTED = """
import pytest

def test_good(score, seed):
    score("R1", "sqlite", 0, cases=40, seed=seed)

def test_bad(score, seed):
    score("R9", "postgres", 3, cases=500, seed=seed)

@pytest.mark.long
def test_long(score):
    score("R33", "-", 100, cases=20)
"""


def test_a_run_shows_the_table_before_its_last_line_and_writes_it_and_fails_for_a_missed_target(
    tmp_path: Path,
) -> None:
    # given
    (tmp_path / "test_planted.py").write_text(PLANTED)

    # when
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.conftest",
            "-p",
            "tests.reliability.conftest",
            f"--rootdir={tmp_path}",
            "-c",
            str(CHECKOUT / "pyproject.toml"),
            "-p",
            "no:cacheprovider",
            "-m",
            "long or not long",
            f"--scorecard={tmp_path / 'out' / 'card.json'}",
            str(tmp_path),
        ],
        cwd=CHECKOUT,
        env={"RELIABILITY_SEED": "77", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    # then
    assert ran.returncode == 1, ran.stdout + ran.stderr
    lines = ran.stdout.strip().splitlines()
    assert re.fullmatch(r"=+ 1 failed, 2 passed in .*=+", lines[-1])
    assert any(re.match(r"R9 .* postgres +0 +3 +500 +MISSED", line) for line in lines)
    assert "RELIABILITY_SEED=77" in ran.stdout
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    rows = {row["key"]: (row["form"], row["verdict"], row["seed"]) for row in card["measurements"]}
    assert rows == {
        "R1": ("short", "reached", 77),
        "R9": ("short", "MISSED", 77),
        "R33": ("long", "reached", None),
    }
