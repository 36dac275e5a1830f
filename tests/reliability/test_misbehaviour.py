"""R26 and the corpus of misbehaving analyses, on a live fleet: each job ends as it should, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.misbehaviour_table import (
    HARMFUL,
    LASTING,
    QUICK,
    WRITTEN,
    Neighbours,
    faults_of,
    left_over,
    memory,
    options,
    run,
    submitted,
)
from tests.reliability.population import Population
from tests.system.live import eventually

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
SLOTS = 4
MAX_GROWTH_BYTES = 32 * 2**20


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp(f"misbehaviour-{request.param}")
    with fleet_on(request.param, folder, *options(), servers=1, workers=1, slots=SLOTS) as it:
        yield it


@pytest.mark.slow
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_whatever_analyses_do_their_jobs_end_as_they_should_and_nobody_else_notices(
    fleet: Fleet, score: Score
) -> None:
    Neighbours(Population(fleet, "warm-up")).one()
    before = memory(fleet)

    misdeeds = QUICK if fleet.store == "sqlite" else WRITTEN
    wrong = run(fleet, misdeeds)
    print(*wrong, sep="\n")

    score("R26.corpus", fleet.store, len(wrong), cases=len(misdeeds))
    assert wrong == []
    assert memory(fleet) - before < MAX_GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_a_warm_child_begins_each_attempt_as_it_began_its_first(fleet: Fleet) -> None:
    people = Population(fleet, "warm")

    def looked(act: bool, seconds: float = 0.0) -> dict[str, object]:
        job_id = people.submit("acts-or-looks", act=act, seconds=seconds)
        (job,) = people.ended([job_id])
        assert (job["status"], job["attempt"]) == ("completed", 1), job
        found: dict[str, object] = people.get(f"/analyze/results/{job['result_id']}")["result"]
        return found

    # Whichever slot takes a job: each has been acted in, and looked at, or nearly.
    first = looked(act=False)
    for _ in range(2 * SLOTS):
        looked(act=True)
        now = looked(act=False, seconds=0.4)
        assert {**now, "pid": 0} == {**first, "pid": 0}


@pytest.mark.slow
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_an_analysis_that_kills_the_forkserver_costs_others_an_attempt_and_no_job(fleet: Fleet) -> None:
    bad, good = Population(fleet, "killer"), Population(fleet, "bystander")
    for misdeed in HARMFUL:
        # given a neighbour that runs
        ids = [good.submit("fine", value=n, seconds=0.5) for n in range(SLOTS - 1)]
        killer = submitted(bad, misdeed)

        (job,) = bad.ended([killer])
        assert faults_of(misdeed, job) == []
        assert [one["status"] for one in good.ended(ids)] == ["completed"] * len(ids)
    eventually(lambda: not left_over(fleet), "processes are left over")


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_misbehaviour_that_lasts_ends_as_it_should_and_nobody_else_notices(
    fleet: Fleet, score: Score
) -> None:
    before = memory(fleet)

    wrong = run(fleet, (*LASTING, *QUICK, *QUICK), seconds=1_200.0)
    print(*wrong, sep="\n")

    score("R26.corpus", fleet.store, len(wrong), cases=2 * len(QUICK) + len(LASTING))
    assert wrong == []
    assert memory(fleet) - before < MAX_GROWTH_BYTES
