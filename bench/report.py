"""The figures as text: a Markdown table that also reads well in a terminal, and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.figures import DASH, TIMES, Figure, Sense, spread

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
    return ranged(figure.ratios, "%", 100) if figure.sense is Sense.RATE else ranged(figure.ratios, TIMES)


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
    rows = [_HEAD, *(_row(figure) for figure in figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def settings(groups: Mapping[str, Sequence[Figure]]) -> str:
    """How each figure was measured, and the command that measures it alone."""
    return "\n".join(
        f'- **{figure.name}** (`make bench ARGS="--only {group}"`): {figure.settings}.'
        for group, figures in groups.items()
        for figure in figures
    )


def document(
    groups: Mapping[str, Sequence[Figure]], facts: Mapping[str, str], run: Mapping[str, Any]
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
    }


def markdown(groups: Mapping[str, Sequence[Figure]], facts: Mapping[str, str], run: Mapping[str, Any]) -> str:
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

## Machine

{machine}

The load generator runs on the same cores as what it measures.

## How

{settings(groups)}
"""
