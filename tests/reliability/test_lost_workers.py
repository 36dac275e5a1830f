"""R5, R6: how soon the death of a process is on record and its job runs again, and that the stopped do no harm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.guests import OPTIONS
from tests.reliability.journal import Operation, Outcome
from tests.reliability.nemesis import freeze, thaw
from tests.reliability.oracle import Rule, judge
from tests.reliability.population import Population, at, first, now, p99
from tests.system.live import eventually

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
LEASE_SECONDS = 2.1
LEASE = ("--lease-seconds", f"{LEASE_SECONDS:g}", "--heartbeat-seconds", "0.7", "--poll-seconds", "0.2")
SLOTS = 6


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with fleet_on(request.param, tmp_path, *LEASE, *OPTIONS, servers=1, slots=SLOTS) as it:
        yield it


def deaths(fleet: Fleet, wanted: int, score: Score) -> None:
    """R6: ``wanted`` processes of analyses are killed, one after the other."""
    people = Population(fleet)
    recorded, restarted = [], []
    for _ in range(wanted):
        job_id = people.submit("hold")
        pid = people.holding(job_id)[0]
        killed_at = now()
        os.kill(pid, signal.SIGKILL)
        (job,) = people.ended([job_id])
        events = people.events(job_id)
        noticed = first(events, "job.attempt_failed", 1) or first(events, "job.attempt_lost", 1)
        again = first(events, "job.running", 2)
        assert job["status"] == "completed", job
        assert noticed is not None
        assert again is not None
        # Events carry milliseconds, cut off.
        recorded.append(at(noticed) + 0.001 - killed_at)
        restarted.append(at(again) + 0.001 - killed_at)
    score("R6.recorded", fleet.store, p99(recorded), cases=wanted)
    score("R6.restarted", fleet.store, p99(restarted), cases=wanted)


def stops(fleet: Fleet, wanted: int, score: Score) -> None:
    """R5: a worker is stopped past its leases and goes on; what its attempts wrote after others had theirs."""
    people = Population(fleet, "stopped")
    history: list[Operation] = []
    frozen_attempts = 0
    while frozen_attempts < wanted:
        job_ids = []
        for _ in range(SLOTS * len(fleet.workers)):
            number = len(history) + 1
            job_ids.append(people.submit("selftest", {"op": str(number)}, stages=60, stage_seconds=0.05))
            facts = {"job_id": job_ids[-1]}
            history.append(Operation(number, "submit", people.org_id, facts, Outcome.ACKNOWLEDGED))
        eventually(partial(all_run, people, len(job_ids)), "not all run")
        frozen = freeze(fleet.workers[0])
        try:
            if fleet.store == "sqlite":
                # Nobody else can take over; this is a machine that slept.
                time.sleep(LEASE_SECONDS * 1.5)
            else:
                people.ended(job_ids)
        finally:
            thaw(frozen)
        people.ended(job_ids)
        frozen_attempts += SLOTS
    fleet.stop()
    breaches = [one for one in judge(history, fleet.image()) if one.rule is not Rule.INVENTED]
    stale = [str(breach) for breach in breaches if breach.rule in (Rule.STALE, Rule.ENDS, Rule.RESULTS)]
    score("R5", fleet.store, len(stale), cases=frozen_attempts)
    assert [str(breach) for breach in breaches] == []


def all_run(people: Population, number: int) -> bool:
    return len(people.in_state("partial")) == number


@pytest.mark.slow
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_a_killed_analysis_is_noticed_within_a_second_and_a_stopped_worker_does_no_harm(
    fleet: Fleet, score: Score
) -> None:
    deaths(fleet, 10, score)
    stops(fleet, 5, score)


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_a_hundred_killed_analyses_are_noticed_within_a_second(fleet: Fleet, score: Score) -> None:
    deaths(fleet, 100, score)


@pytest.mark.long
@pytest.mark.parametrize("fleet", STORES, indirect=True)
def test_two_hundred_stopped_attempts_write_nothing_once_others_have_begun(
    fleet: Fleet, score: Score
) -> None:
    stops(fleet, 200, score)
