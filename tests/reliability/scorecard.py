"""The scorecard of one run: measured values, judged by the figures' targets, as a table and as JSON.

Nothing of the product is imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.reliability.figures import BY_KEY, FIGURES, Figure, Form, say

__all__ = ["BY_KEY", "FIGURES", "Figure", "Form", "Measurement", "Scorecard"]

HEAD = ("figure", "what", "store", "form", "target", "measured", "cases", "verdict")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measured value of one figure on one store.

    cases  how many were tried
    test   the test that measured, as pytest names it
    seed   what makes the same run again; None where nothing is left to chance
    """

    key: str
    store: str
    form: Form
    measured: float
    cases: int
    seed: int | None
    test: str

    @property
    def figure(self) -> Figure:
        return BY_KEY[self.key]

    def require_known(self) -> None:
        """Raises KeyError for an unknown figure, ValueError for a store it is not measured on."""
        if self.store not in self.figure.stores:
            raise ValueError(
                f"{self.key} is measured on {', '.join(self.figure.stores)}, not on {self.store}"
            )

    @property
    def reached(self) -> bool:
        """Whether the target is reached, however few were tried."""
        return self.figure.reached(self.measured, self.form)

    @property
    def verdict(self) -> str:
        """``missed``, ``reached``, or how many of the cases are there."""
        if not self.reached:
            return "MISSED"
        needed = self.figure.cases_of(self.form)
        return "reached" if self.cases >= needed else f"so far ({self.cases} of {needed})"

    def words(self) -> str:
        """One line for a person, with what reproduces it."""
        figure = self.figure
        line = (
            f"{self.key} on {self.store}: {figure.what}: {say(self.measured, figure.unit)}"
            f" in {self.cases} cases, target {figure.say_target(self.form)}"
        )
        return line if self.seed is None else f"{line}; RELIABILITY_SEED={self.seed}"


class Scorecard:
    """What one run has measured so far."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, Form], Measurement] = {}

    def record(self, one: Measurement) -> None:
        """Add a measurement; several of the same figure, store and form become one row.

        Raises KeyError for an unknown figure, ValueError for a store it is not measured on.
        """
        one.require_known()
        place = (one.key, one.store, one.form)
        before = self._found.get(place)
        if before is not None:
            worse = (
                math.nan
                if math.isnan(before.measured) or math.isnan(one.measured)
                else one.figure.worse(before.measured, one.measured)
            )
            # The test to be named is the one that missed, or else the last.
            named = before if not before.reached else one
            one = replace(named, measured=worse, cases=before.cases + one.cases)
        self._found[place] = one

    def measurements(self) -> list[Measurement]:
        """One for each figure, store and form, in the order of the figures."""
        order = {figure.key: number for number, figure in enumerate(FIGURES)}
        return sorted(self._found.values(), key=lambda one: (one.form, order[one.key], one.store))

    def __bool__(self) -> bool:
        return bool(self._found)

    def lines(self) -> list[str]:
        """The table: each figure on each of its stores, measured or not."""
        rows = [HEAD, *self._rows()]
        widths = [max(len(row[n]) for row in rows) for n in range(len(HEAD))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for figure in FIGURES:
            found = [one for one in self.measurements() if one.key == figure.key]
            for one in found:
                target, measured = figure.say_target(one.form), say(one.measured, figure.unit)
                rest = (one.form, target, measured, f"{one.cases:,}", one.verdict)
                yield figure.key, figure.what, one.store, *rest
            for store in figure.stores:
                if store not in {one.store for one in found}:
                    target = both_targets(figure)
                    yield figure.key, figure.what, store, "", target, "", "", absent(figure)

    def as_json(self, form: Form | None = None) -> dict[str, Any]:
        """The same for programs; of one form only if ``form`` is given."""
        found = [one for one in self.measurements() if form in (None, one.form)]
        return {
            "figures": [{**asdict(figure), "number": figure.number} for figure in FIGURES],
            "measurements": [
                {
                    **asdict(one),
                    # NaN is no JSON.
                    "measured": None if math.isnan(one.measured) else one.measured,
                    "unit": one.figure.unit,
                    "comparison": one.figure.comparison,
                    "target": one.figure.target_of(one.form),
                    "cases_needed": one.figure.cases_of(one.form),
                    "verdict": one.verdict,
                }
                for one in found
            ],
            "not_measured": [
                {"key": figure.key, "store": store, "reason": absent(figure)}
                for figure in FIGURES
                for store in figure.stores
                if (figure.key, store) not in {(one.key, one.store) for one in found}
            ],
        }

    def write(self, folder: Path) -> list[Path]:
        """One file for each form that was measured."""
        paths = []
        for form in sorted({one.form for one in self._found.values()}):
            paths.append(folder / f"scorecard-{form}.json")
            write_json(paths[-1], self.as_json(form))
        return paths


def write_json(path: Path, value: Any) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def absent(figure: Figure) -> str:
    """Why a run has no measurement of it."""
    return f"waits for {figure.waits_for}" if figure.waits_for else "not measured in this run"


def both_targets(figure: Figure) -> str:
    """The target as documents show it: both forms where they differ."""
    target = figure.say_target("long")
    return target if figure.short_target is None else f"{target} (short: {figure.say_target('short')})"


def table_of(figures: Iterable[Figure]) -> list[tuple[str, str]]:
    """Key and target of each, as documents show them."""
    return [(figure.key, both_targets(figure)) for figure in figures]
