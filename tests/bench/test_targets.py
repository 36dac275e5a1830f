"""The table of targets: a line that nothing measures would be taken for reached."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from bench import targets
from bench.__main__ import _GROUPS
from bench.figures import Figure, Measure, Sense, Verdict
from bench.report import document, judged, missing, table

BENCH = Path(targets.__file__).parent
# What names are made of at run time, by group.
PARTS = {
    "peers": (
        ("jobs end to end", "submit → completed p50", "submits"),
        (" on PostgreSQL", ""),
        (", beside ",),
        ("Celery", "FastAPI + Celery", "DBOS", "Procrastinate", "huey", "taskiq"),
    ),
    "growth": (
        ("claim", "submit", "status", "cold start to ready", "random permalinks"),
        (" at ",),
        ("1,000,000",),
        (" jobs, ",),
        ("SQLite",),
    ),
    "busy": (("job status", "permalink"), (" ",), ("p99",), (" beside two busy attempts",)),
    "cleanup": (
        (
            "cleanup, ",
            "reads beside a cleanup p99, ",
            "writes beside a cleanup p99, ",
            "writes beside a cleanup, longest, ",
        ),
        ("SQLite", "PostgreSQL"),
    ),
    "payloads": (("permalink, ",), ("5 MiB",)),
    "postgres": (("permalink, 4 KiB",), (", PostgreSQL",)),
}


@cache
def texts() -> frozenset[str]:
    """Every string constant of the benchmarks but those of the table itself."""
    found: set[str] = set()
    for file in (*BENCH.glob("*.py"), *(BENCH / "peers").glob("*.py")):
        if file.name != "targets.py":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return frozenset(found)


def spelled(name: str, parts: tuple[tuple[str, ...], ...]) -> list[str] | None:
    """The parts that ``name`` is made of, in their order; None if it is not."""
    if not parts:
        return [] if not name else None
    for part in parts[0]:
        if name.startswith(part) and (rest := spelled(name[len(part) :], parts[1:])) is not None:
            return [part, *rest]
    return None


@pytest.mark.parametrize("goal", targets.goals(), ids=lambda goal: goal.figure)
def test_every_bound_of_the_table_is_judged_by_a_figure_of_its_group(goal: targets.Goal) -> None:
    known = texts()

    assert goal.group in _GROUPS
    if goal.figure not in known:
        parts = spelled(goal.figure, PARTS[goal.group])
        assert parts is not None, f"no figure of {goal.group} is called {goal.figure!r}"
        # Sizes are numbers in the code, not text.
        unknown = [
            part for part in parts if part and part != "1,000,000" and not any(part in text for text in known)
        ]
        assert unknown == []
    assert goal.target.bound is not None
    assert targets.of(goal.figure) is goal.target


def test_no_figure_stands_for_two_bounds() -> None:
    names = [goal.figure for goal in targets.goals()]

    assert len(names) == len(set(names))


def test_the_table_has_every_line_that_is_asked_for() -> None:
    assert len(targets.TABLE) == 13
    assert all(line.goals for line in targets.TABLE)


def test_a_bound_that_was_not_measured_is_named_with_what_measures_it() -> None:
    figure = Figure(
        "job status", "/s", Sense.RATE, (50.0,), "as stated", (100.0,), target=targets.of("job status")
    )

    outcomes = {outcome.goal.figure: outcome for outcome in targets.outcomes([figure])}
    text = judged([figure])

    assert outcomes["job status"].verdict is Verdict.YES
    assert outcomes["permalink, 304"].figure is None
    assert outcomes["permalink, 304"].verdict is Verdict.UNKNOWN
    assert len(text.splitlines()) == len(targets.goals()) + 2
    (line,) = [line for line in text.splitlines() if "permalink, 304" in line]
    assert "not measured: --only reads" in line
    (line,) = [line for line in text.splitlines() if "| job status " in line and "50.0 %" in line]
    assert line.rstrip(" |").endswith("yes")


def test_a_ratio_to_a_peer_is_told_as_a_multiple_and_judged() -> None:
    name = "jobs end to end, beside Celery"
    figure = Figure(
        name, "/s", Sense.RATE, (900.0, 800.0), "", (200.0, 200.0), "Celery", targets.of(name), multiple=True
    )

    assert figure.verdict is Verdict.YES
    assert "4.25 \u00d7 (4.00\u20134.50)" in table([figure])


def test_what_could_not_be_measured_stands_in_the_page_and_in_the_document() -> None:
    reasons = {"beside Celery": "redis-server is not\ninstalled"}

    kept = document({}, {}, {}, reasons)

    assert missing(reasons) == "- not measured: beside Celery: redis-server is not installed"
    assert kept["not_measured"] == reasons
    assert [entry["measured"] for entry in kept["targets"]] == [False] * len(targets.goals())


def test_bounds_on_values_and_ratios_have_the_unit_they_are_read_with() -> None:
    for goal in targets.goals():
        assert (goal.target.measure is Measure.VALUE) == (
            goal.target.text.rpartition(" ")[2] in ("ms", "MB", "%", "s")
        )
