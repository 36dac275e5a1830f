"""The figures as text: a Markdown table that also reads well in a terminal, and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench import targets
from bench.figures import DASH, TIMES, Figure, Measure, Sense, spread

_HEAD = ("figure", "service", "CPU/op", "limit in the same round", "ratio", "target", "reached")


def number(value: float) -> str:
    """Three significant digits, whole from a hundred on, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def ranged(values: Sequence[float], unit: str = "", scale: float = 1.0) -> str:
    """``median unit (least to greatest)``, all times ``scale``."""
    found = spread([value * scale for value in values])
    median = f"{number(found.median)} {unit}".rstrip()
    return median if found.low == found.high else f"{median} ({number(found.low)}{DASH}{number(found.high)})"


def _ratio(figure: Figure) -> str:
    if not figure.ratios:
        return DASH
    if figure.sense is Sense.RATE and not figure.multiple:
        return ranged(figure.ratios, "%", 100)
    return ranged(figure.ratios, TIMES)


def _limit(figure: Figure) -> str:
    if not figure.limits:
        return DASH
    cpu = f", {number(spread(figure.limit_cpu_us).median)} µs" if figure.limit_cpu_us else ""
    return f"{figure.limit_name}: {ranged(figure.limits)}{cpu}"


def _row(figure: Figure) -> tuple[str, ...]:
    return (
        figure.name,
        ranged(figure.ours, figure.unit),
        f"{number(spread(figure.cpu_us).median)} µs" if figure.cpu_us else DASH,
        _limit(figure),
        _ratio(figure),
        figure.target.text if figure.target else DASH,
        str(figure.verdict),
    )


def table(figures: Sequence[Figure]) -> str:
    """One line per figure: median (least to greatest round)."""
    return lines([_HEAD, *(_row(figure) for figure in figures)])


def lines(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of which the first row is the head."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    table_rows = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    table_rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(table_rows)


def judged(figures: Sequence[Figure]) -> str:
    """The table of targets, one line per bound, measured or not."""
    rows = [("target", "figure", "bound", "measured", "reached")]
    for outcome in targets.outcomes(figures):
        goal, figure = outcome.goal, outcome.figure
        measured = f"not measured: --only {goal.group}"
        if figure is not None:
            measured = (
                _ratio(figure) if goal.target.measure is Measure.RATIO else ranged(figure.ours, figure.unit)
            )
        about = outcome.line.about if goal is outcome.line.goals[0] else ""
        rows.append((about, goal.figure, goal.target.text, measured, str(outcome.verdict)))
    return lines(rows)


def missing(reasons: Mapping[str, str]) -> str:
    """What could not be measured, and why; empty if there is nothing."""
    return "\n".join(f"- not measured: {what}: {' '.join(why.split())}" for what, why in reasons.items())


def settings(groups: Mapping[str, Sequence[Figure]]) -> str:
    """How each figure was measured, and the command that measures it alone."""
    return "\n".join(
        f'- **{figure.name}** (`make bench ARGS="--only {group}"`): {figure.settings}.'
        for group, figures in groups.items()
        for figure in figures
    )


def document(
    groups: Mapping[str, Sequence[Figure]],
    facts: Mapping[str, str],
    run: Mapping[str, Any],
    reasons: Mapping[str, str],
) -> dict[str, Any]:
    """Everything, with every round's values, for machines."""
    return {
        "machine": dict(facts),
        "run": dict(run),
        "figures": [
            {
                "group": group,
                **dataclasses.asdict(figure),
                "ratios": figure.ratios,
                "verdict": str(figure.verdict),
            }
            for group, figures in groups.items()
            for figure in figures
        ],
        "not_measured": dict(reasons),
        "targets": [
            {
                "target": outcome.line.about,
                "figure": outcome.goal.figure,
                "group": outcome.goal.group,
                "bound": outcome.goal.target.text,
                "measured": outcome.figure is not None,
                "verdict": str(outcome.verdict),
            }
            for outcome in targets.outcomes(figure for figures in groups.values() for figure in figures)
        ],
    }


def markdown(
    groups: Mapping[str, Sequence[Figure]],
    facts: Mapping[str, str],
    run: Mapping[str, Any],
    reasons: Mapping[str, str],
) -> str:
    """The page that is kept beside the code as bench/RESULTS.md."""
    machine = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    every = [figure for figures in groups.values() for figure in figures]
    return f"""# Results

Written by `{run["command"]}`: {run["rounds"]} rounds, {run["took_seconds"]} s in all.
Each cell is the median of the rounds, with the least and the greatest in parentheses.
A ratio is formed within a round, service over limit, before the median is taken.
Rates of different runs are not comparable.
CPU/op is the CPU time of all server processes for one operation; the limit's own stands after the comma in its cell.
"{DASH}" under *reached* means that this run does not measure what the target speaks of.

{table(every)}

## Targets

{judged(every)}

{missing(reasons)}

## Machine

{machine}

The load generator runs on the same cores as what it measures.

## How

{settings(groups)}
"""
