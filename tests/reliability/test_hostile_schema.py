"""R14: no request that can be made from the published OpenAPI file gets an answer of 5xx that is not meant."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import fleet_on
from tests.reliability.hostile_schema import Fuzz
from tests.reliability.traffic import ask

pytestmark = pytest.mark.postgres

# On each store. The form of every answer is compared with the file in tests/api; here it is the number that counts.
SHORT_CASES, LONG_CASES = 1_000, 50_000


def fuzz(folder: Path, cases: int, seed: int, score: Score) -> None:
    with ExitStack() as stack:
        fleets = []
        for store in ("sqlite", "postgres"):
            (folder / store).mkdir()
            fleets.append(stack.enter_context(fleet_on(store, folder / store, servers=1, workers=1, slots=2)))
        it = Fuzz(fleets, seed)
        stack.callback(it.close)
        it.run(cases)
        document = ask(fleets[0].ports[0], "GET", "/openapi.json").json()
    routes = {f"{method.upper()} {path}" for path, some in document["paths"].items() for method in some}
    assert set(it.tried) == routes
    for target in it.targets:
        log = (target.fleet.servers[0].folder / "server.log").read_text(errors="replace")
        print(target.fleet.store, it.cases, dict(target.answered), *target.broken[:20], sep="\n")
        assert set(target.answered) >= {200, 202, 400, 404}
        assert "Traceback" not in log
        score("R14", target.fleet.store, len(target.broken), cases=it.cases, seed=seed)


@pytest.mark.slow
def test_two_thousand_generated_requests_break_nothing(tmp_path: Path, seed: int, score: Score) -> None:
    fuzz(tmp_path, SHORT_CASES, seed, score)


@pytest.mark.long
def test_a_hundred_thousand_generated_requests_break_nothing(tmp_path: Path, seed: int, score: Score) -> None:
    fuzz(tmp_path, LONG_CASES, seed, score)
