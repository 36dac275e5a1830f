"""What the service is to reach, line by line, and which figure of which group judges it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.figures import TIMES, Figure, Measure, Target, Verdict


@dataclass(frozen=True, slots=True)
class Goal:
    """One bound: the name of the figure, and the group that measures it."""

    figure: str
    group: str
    target: Target


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table of targets, in words, with all that it asks for."""

    about: str
    goals: tuple[Goal, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run says about one goal. ``figure`` is None where it has not measured it."""

    line: Line
    goal: Goal
    figure: Figure | None

    @property
    def verdict(self) -> Verdict:
        """UNKNOWN where it has not been measured."""
        return self.figure.verdict if self.figure else Verdict.UNKNOWN


def _least(group: str, figure: str, percent: float) -> Goal:
    return Goal(figure, group, Target(f"≥ {percent:g} % of the limit", bound=percent / 100))


def _ahead(figure: str, times: float) -> Goal:
    return Goal(figure, "peers", Target(f"≥ {times:g} {TIMES} the peer", bound=times))


def _at_most(group: str, figure: str, times: float, what: str) -> Goal:
    return Goal(figure, group, Target(f"≤ {times:g} {TIMES} {what}", bound=times))


def _value(group: str, figure: str, most: float, unit: str) -> Goal:
    return Goal(figure, group, Target(f"≤ {most:g} {unit}", Measure.VALUE, most))


def _grown(operation: str, dialect: str) -> Goal:
    return _at_most("growth", f"{operation} at 1,000,000 jobs, {dialect}", 1.2, "at 1,000")


TABLE = (
    Line(
        "submits per second over HTTP, 202 durable",
        (
            _ahead("submits, beside FastAPI + Celery", 3),
            _least("submits", "submits, durable before the 202", 50),
        ),
    ),
    Line(
        "jobs per second end to end over HTTP, 16 concurrent submitters",
        (
            _ahead("jobs end to end, beside Celery", 4),
            _ahead("jobs end to end, beside DBOS", 3),
            _ahead("jobs end to end, beside Procrastinate", 3),
            _ahead("jobs end to end, beside huey", 1),
            _ahead("jobs end to end, beside taskiq", 1),
        ),
    ),
    Line(
        "submit → completed, one at a time",
        (
            _at_most("peers", "submit → completed p50, beside Celery", 1, "the peer"),
            _value("latency", "submit → completed, p99", 20, "ms"),
        ),
    ),
    Line(
        "permalink, 4 KiB and 5 MiB",
        (_least("reads", "permalink, 4 KiB", 50), _least("payloads", "permalink, 5 MiB", 35)),
    ),
    Line("job status", (_least("reads", "job status", 45),)),
    Line("304 on permalink", (_least("reads", "permalink, 304", 55),)),
    Line(
        "on PostgreSQL: end to end under concurrent submits; permalink",
        (
            _ahead("jobs end to end on PostgreSQL, beside Procrastinate", 4),
            _ahead("jobs end to end on PostgreSQL, beside DBOS", 2.5),
            _least("postgres", "permalink, 4 KiB, PostgreSQL", 15),
        ),
    ),
    Line(
        "claim, submit, status at 1,000,000 jobs; random permalink reads of 4 KiB",
        (
            *(_grown(operation, "SQLite") for operation in ("claim", "submit", "status")),
            _least("growth", "random permalinks at 1,000,000 jobs, SQLite", 45),
        ),
    ),
    Line(
        "status and permalink p99 beside two CPU-bound attempts",
        (
            _at_most("busy", "job status p99 beside two busy attempts", 2, "idle"),
            _at_most("busy", "permalink p99 beside two busy attempts", 2, "idle"),
        ),
    ),
    Line(
        "cleanup of half of 200,000 results and 1,000,000 events",
        (
            _least("cleanup", "cleanup, SQLite", 45),
            _value("cleanup", "writes beside a cleanup p99, SQLite", 30, "ms"),
            _value("cleanup", "writes beside a cleanup, longest, SQLite", 50, "ms"),
            _at_most("cleanup", "reads beside a cleanup p99, SQLite", 2, "without"),
            _least("cleanup", "cleanup, PostgreSQL", 40),
            _value("cleanup", "writes beside a cleanup p99, PostgreSQL", 30, "ms"),
            _value("cleanup", "writes beside a cleanup, longest, PostgreSQL", 50, "ms"),
            _at_most("cleanup", "reads beside a cleanup p99, PostgreSQL", 2, "without"),
        ),
    ),
    Line(
        "idle server, 2 slots",
        (
            _value("idle", "idle memory, all processes (PSS)", 150, "MB"),
            _value("idle", "idle CPU, all processes", 1, "%"),
        ),
    ),
    Line(
        "cold start to ready, empty and with 1,000,000 jobs",
        (
            _value("idle", "cold start to ready, no store yet", 1.5, "s"),
            _value("growth", "cold start to ready at 1,000,000 jobs, SQLite", 2, "s"),
        ),
    ),
    Line(
        "profile of a CSV of 1,000,000 rows and 20 columns",
        (
            _at_most("child", "profile of a CSV, time", 1.3, "the limit"),
            _value("child", "profile of a CSV, peak RSS", 400, "MB"),
        ),
    ),
)


def goals() -> list[Goal]:
    """All of them, in the order of the table."""
    return [goal for line in TABLE for goal in line.goals]


def of(figure: str) -> Target | None:
    """The target of a figure, if there is one."""
    return next((goal.target for goal in goals() if goal.figure == figure), None)


def outcomes(figures: Iterable[Figure]) -> Sequence[Outcome]:
    """One for every goal, whether it was measured or not."""
    by_name = {figure.name: figure for figure in figures}
    return [Outcome(line, goal, by_name.get(goal.figure)) for line in TABLE for goal in line.goals]
