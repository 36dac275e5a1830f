"""Writes what came of the planted bugs into docs/explanation/planted-bugs.md.

Run ``python -m tests.reliability.planted_page FILE.json...`` from the checkout, with what ``planted --json`` has
written: the table gets every bug with its newest result. What no file tells of stays as it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.reliability.figures import BY_KEY, say
from tests.reliability.page import BEGIN, END, STORES
from tests.reliability.planted_list import PLANTS
from tests.reliability.planted_plant import Plant

PAGE = Path(__file__).resolve().parents[2] / "docs/explanation/planted-bugs.md"
HEAD = (
    "| bug | what it breaks | tried on | figure that turned red | again with its seed | tried |",
    "|---" * 6 + "|",
)
NOTHING = "not yet"


def render(page: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """``page`` with its table made anew. Raises ValueError if it has no place for it."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"no {BEGIN} … {END} in the page")
    head, _, rest = page.partition(BEGIN)
    old, _, tail = rest.partition(END)
    results = known_in(old)
    for report in reports:
        for verdict in report["plants"]:
            results[verdict["name"]] = cells_of(verdict, report["measured_at"])
    lines = [line_of(plant, results.get(plant.name, (NOTHING, "", ""))) for plant in PLANTS]
    return f"{head}{BEGIN}\n\n" + "\n".join([*HEAD, *lines]) + f"\n\n{END}{tail}"


def line_of(plant: Plant, results: Sequence[str]) -> str:
    stores = " and ".join(STORES[store] for store in plant.stores if store != "-") or "neither"
    return f"| `{plant.name}` | {plant.fault} | {stores} | {' | '.join(results)} |"


def cells_of(verdict: Mapping[str, Any], day: str) -> tuple[str, str, str]:
    """``R9: 12 of 504 on SQLite``, whether it came again, and when it was tried."""
    if not verdict["red"]:
        return ("**none**", "", day)
    found = verdict["found"]
    said = {one["store"]: words(one) for one in reversed(found)}
    again = [one["again"] for one in found if one["again"] is not None]
    came = "" if not again else "yes" if all(again) else f"{sum(again)} of {len(again)}"
    return ("; ".join(said[store] for store in STORES if store in said), came, day)


def words(found: Mapping[str, Any]) -> str:
    figure = BY_KEY[found["figure"]]
    value = "no number" if found["measured"] is None else say(found["measured"], figure.unit)
    where = "" if found["store"] == "-" else f" on {STORES[found['store']]}"
    return f"{figure.key}: {value} in {found['cases']:,}{where}"


def known_in(table: str) -> dict[str, tuple[str, str, str]]:
    """The results of a table that was made before."""
    found = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if len(cells) == 6 and cells[0].startswith("`"):
            found[cells[0].strip("`")] = (cells[3], cells[4], cells[5])
    return found


def main(files: Sequence[str]) -> None:
    """Render the page with these reports."""
    PAGE.write_text(render(PAGE.read_text(), [json.loads(Path(file).read_text()) for file in files]))


if __name__ == "__main__":
    main(sys.argv[1:])
