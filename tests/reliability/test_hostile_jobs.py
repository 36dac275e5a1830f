"""R8, R26, R27: jobs that kill their process, ignore every signal or hold the interpreter, and their neighbours."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, alive, fleet_on
from tests.reliability.guests import OPTIONS
from tests.reliability.population import Population, p99

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
MAX_ATTEMPTS = 3
# Who is still there then is not going to end.
SURVIVAL_SECONDS = 10.0
CANCEL_GRACE_SECONDS = KILL_GRACE_SECONDS = 0.3
GRACES = (
    "--cancel-grace-seconds",
    f"{CANCEL_GRACE_SECONDS}",
    "--kill-grace-seconds",
    f"{KILL_GRACE_SECONDS}",
)
# Each ends in its own way: asked, by SIGTERM, by SIGKILL; alone, or with processes of its own.
HOLDERS: list[dict[str, Any]] = [
    {},
    {"stubborn": True},
    {"spin": True},
    {"offspring": 1},
    {"stubborn": True, "offspring": 2},
]


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_on(request.param, tmp_path, *OPTIONS, *GRACES, servers=1, workers=1, slots=5) as it:
        yield it


def cancels(fleet: Fleet, rounds: int, score: Score) -> None:
    """R27: every kind of stubborn job, all at once, is canceled."""
    people = Population(fleet)
    late: list[float] = []
    left: list[psutil.Process] = []

    def cancel(job_id: str) -> float:
        processes = [psutil.Process(pid) for pid in people.holding(job_id)]
        people.cancel(job_id)
        began = time.monotonic()
        until = began + SURVIVAL_SECONDS
        while alive(processes) and time.monotonic() < until:
            time.sleep(0.005)
        gone = time.monotonic() - began
        (job,) = people.ended([job_id])
        assert job["status"] == "canceled", job
        for survivor in alive(processes):
            left.append(survivor)
            survivor.kill()
        return gone

    for _ in range(rounds):
        job_ids = [people.submit("hold", seconds=120, **kind) for kind in HOLDERS]
        with ThreadPoolExecutor(len(job_ids)) as pool:
            late += list(pool.map(cancel, job_ids))
    beyond = p99(late) - CANCEL_GRACE_SECONDS - KILL_GRACE_SECONDS
    score("R27.survivors", fleet.store, len(left), cases=len(late))
    score("R27.gone", fleet.store, max(0.0, beyond), cases=len(late))


def poisoned(fleet: Fleet, good: int, poison: int, score: Score) -> float:
    """R26: jobs that kill their process among good ones; how many seconds all of them took."""
    people = Population(fleet)
    bad: list[str] = []
    fine: list[str] = []
    began = time.monotonic()
    for number in range(good):
        fine.append(people.submit("selftest", stages=0))
        if poison and number % (good // poison) == 0:
            bad.append(people.submit("poison"))
    ended = people.ended(fine)
    took = time.monotonic() - began
    assert {job["status"] for job in ended} == {"completed"}
    assert [job["attempt"] for job in ended] == [1] * good
    for job in people.ended(bad):
        assert (job["status"], job["error_code"]) == ("failed", "worker_crashed"), job
        score("R26.starts", fleet.store, max(0, job["attempt"] - MAX_ATTEMPTS), cases=1)
    return took


@pytest.mark.slow
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_a_canceled_job_leaves_no_process_and_one_that_kills_its_own_is_given_up(
    fleet: Fleet, score: Score
) -> None:
    cancels(fleet, 2, score)
    poisoned(fleet, 20, 4, score)


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_a_hundred_canceled_jobs_leave_no_process(fleet: Fleet, score: Score) -> None:
    cancels(fleet, 20, score)


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_one_poisoned_job_in_a_thousand_costs_its_neighbours_less_than_a_tenth(
    fleet: Fleet, score: Score
) -> None:
    poisoned(fleet, 200, 0, score)  # warm
    without, with_them = [], []
    # In turns, so that what else the machine does meets both alike.
    for _ in range(3):
        without.append(poisoned(fleet, 1_000, 0, score))
        with_them.append(poisoned(fleet, 1_000, 1, score))
    loss = 100 * (1 - median(without) / median(with_them))
    score("R26.loss", fleet.store, max(0.0, loss), cases=6_000)


@contextmanager
def starved(factor: int) -> Iterator[None]:
    """``factor`` busy processes for each core, while the block lasts."""
    cores = psutil.cpu_count() or 1
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(factor * cores)]
    try:
        yield
    finally:
        for one in burners:
            one.kill()
            one.wait()


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_jobs_longer_than_their_lease_run_once_while_processors_starve(
    store: str, tmp_path: Path, score: Score
) -> None:
    lease = ("--lease-seconds", "6", "--heartbeat-seconds", "2")
    with fleet_on(store, tmp_path, *OPTIONS, *lease, servers=1, workers=1, slots=3) as fleet:
        people = Population(fleet)

        with starved(1):
            job_ids = [people.submit("hold", seconds=7, spin=spin) for spin in (True, False, False)]
            jobs = people.ended(job_ids)

    again = [job for job in jobs if job["attempt"] != 1 or job["status"] != "completed"]
    score("R8", store, len(again), cases=len(jobs))


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_ten_minutes_of_starved_processors_make_no_healthy_job_run_again(fleet: Fleet, score: Score) -> None:
    people = Population(fleet)
    job_ids: list[str] = []
    until = time.monotonic() + 600

    with starved(8):
        while time.monotonic() < until:
            batch = [people.submit("hold", seconds=5, spin=True) for _ in range(2)]
            batch += [people.submit("selftest", stages=20, stage_seconds=0.2) for _ in range(3)]
            people.ended(batch, 600)
            job_ids += batch
    jobs = [people.job(job_id) for job_id in job_ids]

    again = [job for job in jobs if job["attempt"] != 1 or job["status"] != "completed"]
    score("R8", fleet.store, len(again), cases=len(jobs))
