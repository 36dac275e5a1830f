"""R17: a stranger cannot tell by time whether an id is somebody else's or nobody's."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import fleet_on
from tests.reliability.population import Population
from tests.reliability.secrets_timing import Asker, compare, sample

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
OWNER, STRANGER = "owner", "stranger"
RESULT_BYTES, JOBS = 1_000_000, 12
SHORT_SAMPLES, LONG_SAMPLES = 2_000, 50_000
ROUTES = ("/analyze/results/", "/analyze/jobs/")


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: service\r\nX-Org-Id: {STRANGER}\r\nX-Request-Id: r\r\n\r\n".encode()


def told_apart(store: str, folder: Path, wanted: int, seed: int, score: Score) -> None:
    chance = random.Random(seed)

    def nobodys(like: str) -> str:
        """An id of the same moment as ``like``, so that it stands at the same place in every index."""
        return str(uuid.UUID(int=(uuid.UUID(like).int >> 62 << 62) | chance.getrandbits(62)))

    def kinds(route: str, known: Sequence[str]) -> tuple[Callable[[], bytes], Callable[[], bytes]]:
        # As many of each, so that both are asked for equally often: what is asked for again may come sooner.
        unknown = [nobodys(one) for one in known]
        return lambda: request(route + chance.choice(known)), lambda: request(route + chance.choice(unknown))

    with fleet_on(store, folder, servers=1, workers=1, slots=2) as fleet:
        people = Population(fleet, OWNER)
        ids = [people.submit("selftest", stages=0, payload_bytes=RESULT_BYTES) for _ in range(JOBS)]
        known = ([job["result_id"] for job in people.ended(ids)], ids)
        asker = Asker(fleet.ports[0])
        try:
            for route, some in zip(ROUTES, known, strict=True):
                foreign_and_unknown = kinds(route, some)
                sample(asker, foreign_and_unknown, 100, chance)  # whatever is slower the first time
                told = compare(*sample(asker, foreign_and_unknown, wanted, chance))
                print(f"{store} {route} AUC {told.auc:.4f}, standard error {told.error:.4f}")
                score("R17", store, told.distance, cases=wanted, seed=seed)
        finally:
            asker.close()


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_a_foreign_id_and_nobodys_take_the_same_time(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    told_apart(store, tmp_path, SHORT_SAMPLES // 2, seed, score)


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_fifty_thousand_of_each_take_the_same_time(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    told_apart(store, tmp_path, LONG_SAMPLES, seed, score)


@pytest.mark.parametrize(("slower", "auc"), [(0.0, 0.5), (0.1, 0.53), (3.0, 0.98)])
def test_a_difference_in_time_is_found(slower: float, auc: float, seed: int) -> None:
    chance = random.Random(seed)
    one = [chance.gauss(slower, 1) for _ in range(4_000)]
    other = [chance.gauss(0, 1) for _ in range(4_000)]

    told = compare(one, other)

    assert abs(told.auc - auc) < 5 * told.error
    assert told.error < 0.01
