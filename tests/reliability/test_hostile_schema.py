"""R14: no request that can be made from the published OpenAPI file gets an answer of 5xx that is not meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import fleet_on
from tests.reliability.hostile_schema import Fuzz
from tests.reliability.traffic import ask

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
# The form of every answer is compared with the file in tests/api; here it is the number that counts.
SHORT_CASES, LONG_CASES = 1_000, 50_000


def fuzz(store: str, folder: Path, cases: int, seed: int, score: Score) -> None:
    with fleet_on(store, folder, servers=1, workers=1, slots=2) as fleet:
        it = Fuzz(fleet, seed)
        try:
            it.run(cases)
        finally:
            it.close()
        log = (fleet.servers[0].folder / "server.log").read_text(errors="replace")
        routes = {
            f"{method.upper()} {path}"
            for path, operations in ask(fleet.ports[0], "GET", "/openapi.json").json()["paths"].items()
            for method in operations
        }
    print(it.cases, dict(it.answered), *it.broken[:20], sep="\n")
    assert set(it.tried) == routes
    assert set(it.answered) >= {200, 202, 400, 404}
    assert "Traceback" not in log
    score("R14", store, len(it.broken), cases=it.cases, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_a_thousand_generated_requests_break_nothing(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    fuzz(store, tmp_path, SHORT_CASES, seed, score)


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_fifty_thousand_generated_requests_break_nothing(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    fuzz(store, tmp_path, LONG_CASES, seed, score)
