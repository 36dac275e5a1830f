"""Writes what scorecards have measured into docs/explanation/reliability.md.

Run ``python -m tests.reliability.page CARD.json...`` from the checkout: the table gets every figure with its target,
and for each store the measurement with the most cases among the cards. What no card has measured stays as it was, and
so does what was measured in more cases than a card has; but a figure that misses its target is always entered.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.reliability.figures import BY_KEY, FIGURES, say
from tests.reliability.scorecard import table_of

PAGE = Path(__file__).resolve().parents[2] / "docs/explanation/reliability.md"
BEGIN, END = "<!-- scorecard -->", "<!-- end -->"
STORES = {"sqlite": "SQLite", "postgres": "PostgreSQL", "-": "measured"}
NOTHING = "not yet"


def render(page: str, measurements: Sequence[dict[str, Any]]) -> str:
    """``page`` with its table made anew. Raises ValueError if it has no place for it."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"no {BEGIN} … {END} in the page")
    head, _, rest = page.partition(BEGIN)
    old, _, tail = rest.partition(END)
    known = measured_in(old)
    targets = dict(table_of(FIGURES))
    lines = ["| figure | what is counted | target | measured |", "|---|---|---|---|"]
    for figure in FIGURES:
        cells = known.get(figure.key, {})
        for store in figure.stores:
            best = most_cases(
                one for one in measurements if (one["key"], one["store"]) == (figure.key, store)
            )
            if best and (best["verdict"] == "MISSED" or best["cases"] >= cases_of(cells.get(store, ""))):
                cells[store] = cell_of(best)
        said = "; ".join(f"{STORES[store]} {cells[store]}" for store in STORES if store in cells)
        absent = f"waits for {figure.waits_for}" if figure.waits_for else NOTHING
        lines.append(f"| {figure.key} | {figure.what} | {targets[figure.key]} | {said or absent} |")
    return f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{tail}"


def most_cases(found: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return max(found, key=lambda one: int(one["cases"]), default=None)


def cell_of(one: dict[str, Any]) -> str:
    """``0 of 500, seed 7``"""
    figure = BY_KEY[one["key"]]
    value = "no number" if one["measured"] is None else say(one["measured"], figure.unit)
    words = [f"{value} in {one['cases']:,}"]
    if one["form"] == "short" and figure.long_cases:
        words.append("short form")
    if one["seed"] is not None:
        words.append(f"seed {one['seed']}")
    missed = "**missed** " if one["verdict"] == "MISSED" else ""
    return missed + ", ".join(words)


def cases_of(cell: str) -> int:
    """The number of cases that a cell speaks of; 0 for none."""
    found = re.search(r" in ([\d,]+)", cell)
    return int(found[1].replace(",", "")) if found else 0


def measured_in(table: str) -> dict[str, dict[str, str]]:
    """The cells of a table that was made before."""
    found: dict[str, dict[str, str]] = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) == 4 and cells[0] in BY_KEY:
            for part in cells[3].split("; "):
                for store, name in STORES.items():
                    if part.startswith(f"{name} "):
                        found.setdefault(cells[0], {})[store] = part.removeprefix(f"{name} ")
    return found


def main(cards: Sequence[str]) -> None:
    """Render the page with these cards."""
    measurements = [one for card in cards for one in json.loads(Path(card).read_text())["measurements"]]
    PAGE.write_text(render(PAGE.read_text(), measurements))


if __name__ == "__main__":
    main(sys.argv[1:])
