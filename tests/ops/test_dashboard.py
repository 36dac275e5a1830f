"""deploy/grafana: the dashboard is what its generator makes, and Prometheus takes every expression of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from async_delivery.domain.signal import SPECS
from scripts import generate_dashboard
from scripts.dashboard_panels import ROWS
from tests.ops.promtool import metrics, promtool, recordings, words, write

# From the client library, about the process itself.
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(generate_dashboard.TARGET.read_text())
    return found


def targets(board: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(title of the panel, query)"""
    for panel in board["panels"]:
        yield from ((panel["title"], target) for target in panel.get("targets", []))


def expressions(board: dict[str, Any]) -> list[str]:
    """Every expression, with Grafana's variables filled in."""
    return [
        target["expr"].replace("$job", "async-delivery").replace("$__rate_interval", "1m")
        for _, target in targets(board)
    ]


def checked(tmp_path: Path, found: list[str]) -> bool:
    """Whether promtool takes the expressions, as rules."""
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(found)]
    path = write(tmp_path / "panels.rules.yml", {"groups": [{"name": "dashboard", "rules": rules}]})
    return promtool("check", "rules", str(path)).ok


def test_the_dashboard_is_what_the_generator_makes() -> None:
    assert generate_dashboard.main(["--check"]) == 0


def test_the_generator_notices_a_dashboard_that_was_changed_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "dashboard.json"
    changed.write_text(generate_dashboard.TARGET.read_text().replace("now-6h", "now-1h"))
    monkeypatch.setattr(generate_dashboard, "TARGET", changed)

    assert generate_dashboard.main(["--check"]) == 1
    assert generate_dashboard.main([]) == 0
    assert generate_dashboard.main(["--check"]) == 0


def test_every_expression_is_valid(board: dict[str, Any], tmp_path: Path) -> None:
    found = expressions(board)

    assert len(found) > 30
    assert checked(tmp_path, found)


def test_an_expression_with_a_typo_would_be_noticed(board: dict[str, Any], tmp_path: Path) -> None:
    assert not checked(tmp_path, [*expressions(board), "sum by (job (up))"])


def test_every_expression_asks_for_what_there_is(board: dict[str, Any]) -> None:
    known = metrics() | set(recordings()) | PROCESS

    assert {word for expr in expressions(board) for word in words(expr)} - known == set()


def test_every_expression_is_about_the_chosen_deployment(board: dict[str, Any]) -> None:
    for title, target in targets(board):
        selectors = re.findall(r"\{([^}]*)\}", target["expr"])
        assert selectors, title
        assert all('job="$job"' in each for each in selectors), title
        assert len(selectors) == len(words(target["expr"])), title


def test_every_signal_is_there_with_its_thresholds_and_its_hint(board: dict[str, Any]) -> None:
    for spec in SPECS:
        (panel,) = [
            each for each in board["panels"] if each.get("description", "").startswith(f"{spec.name}.")
        ]
        assert any(spec.name in target["expr"] for target in panel["targets"])
        assert panel["description"] == f"{spec.name}. {spec.hint}"
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        whole = 0 if spec.unit in {"ratio", "ms"} else 1
        wanted = {"orange": spec.warning, "red": spec.critical}
        assert {step["color"]: step["value"] for step in steps if step["value"] is not None} == {
            color: value + whole for color, value in wanted.items() if value is not None
        }


def test_the_panels_stand_in_their_rows_and_not_on_each_other(board: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    ids = [panel["id"] for panel in board["panels"]]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert titles == list(ROWS) == ["Traffic", "Jobs", "Workers", "Retention", "Store"]
    assert len(ids) == len(set(ids)) == len(ROWS) + sum(map(len, ROWS.values()))
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert all(one["gridPos"]["y"] <= other["gridPos"]["y"] for one, other in pairwise(board["panels"]))


def test_every_query_of_a_panel_has_a_letter_of_its_own(board: dict[str, Any]) -> None:
    letters = [(title, target["refId"]) for title, target in targets(board)]

    assert all(letter for _, letter in letters)
    assert len(letters) == len(set(letters))
