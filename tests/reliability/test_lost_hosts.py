"""R7 and R29: a host that is cut off, and a PostgreSQL that is restarted without warning."""

from __future__ import annotations

import json
import random
import time
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.postgres import own_server, shared_server
from tests.reliability.conftest import Score
from tests.reliability.figures import Form
from tests.reliability.fleet import Fleet, fleet_on, kill
from tests.reliability.guests import OPTIONS
from tests.reliability.journal import Journal, Outcome, read_journal
from tests.reliability.network import FarHost, FarWorker
from tests.reliability.oracle import LOSSES, judge
from tests.reliability.population import Population, at, first, now, p99
from tests.reliability.traffic import TENANTS, Answer, NoAnswerError, Traffic, ask, drained
from tests.system.live import eventually

pytestmark = pytest.mark.postgres
SLOTS = 2
ORG = TENANTS[0]


def lease(seconds: float) -> tuple[str, ...]:
    return ("--lease-seconds", f"{seconds:g}", "--heartbeat-seconds", f"{seconds / 3:g}")


# ---------------------------------------------------------------- R7
def hosts_lost(
    folder: Path, lease_seconds: float, wanted: int, score: Score, *, one_way: bool = False
) -> None:
    """A worker's host is cut off again and again; its jobs run on another one."""
    options = (*OPTIONS, *lease(lease_seconds))
    took: list[float] = []
    with fleet_on(
        "postgres", folder, *options, servers=1, workers=1, slots=SLOTS, database=shared_server()
    ) as fleet:
        with FarHost(fleet.url) as host:
            far = far_worker(fleet, host, folder, options)
            try:
                far.start()
                while len(took) < wanted:
                    took += lose(fleet, host, lease_seconds, one_way)
            finally:
                kill([far])
        breaches = [one for one in judge([], fleet.image()) if "names operation" not in one.where]
    print(f"by {host.how}: {[round(one, 1) for one in took]}")
    # The target is that of the lease, whichever form the test belongs to.
    form: Form = "long" if lease_seconds == 30 else "short"
    score("R7", "postgres", p99(took), cases=len(took), form=form)
    assert [str(breach) for breach in breaches] == []


def far_worker(fleet: Fleet, host: FarHost, folder: Path, options: tuple[str, ...]) -> FarWorker:
    place = folder / "far"
    place.mkdir()
    # The same store by another way: a store file of its own that names the relay.
    store_file = place / "store.v1.json"
    said = json.loads(fleet.store_file.read_text())
    store_file.write_text(json.dumps({**said, "database": host.url}))
    far = FarWorker(
        place, "--store-file", str(store_file), "--log-level", "warning", "--slots", f"{SLOTS}", *options
    )
    far.far = host
    return far


def lose(fleet: Fleet, host: FarHost, lease_seconds: float, one_way: bool) -> list[float]:
    """Jobs on both hosts, one of which is cut off; for each of its jobs, how long until it runs on the other."""
    people = Population(fleet, "far")
    # Those at home are done before the lease of the others ends.
    job_ids = [people.submit("hold", seconds=lease_seconds / 2) for _ in range(2 * SLOTS)]
    eventually(partial(all_run, people, len(job_ids)), "not all run")
    host.cut_off(one_way=one_way)
    cut_at = now()
    try:
        jobs = people.ended(job_ids, 10 * lease_seconds)
    finally:
        host.connect()
    lost = [job["job_id"] for job in jobs if job["attempt"] == 2]
    assert len(lost) == SLOTS, jobs
    again = [first(people.events(job_id), "job.running", 2) for job_id in lost]
    return [at(event) - cut_at for event in again if event is not None]


def all_run(people: Population, number: int) -> bool:
    return len(people.in_state("partial")) == number


@pytest.mark.slow
def test_the_jobs_of_a_host_that_is_cut_off_run_elsewhere_within_ten_seconds_of_a_lease_of_six(
    tmp_path: Path, score: Score
) -> None:
    hosts_lost(tmp_path, 6, 1, score)


@pytest.mark.long
def test_a_host_that_hears_nothing_any_more_but_is_heard_loses_its_jobs_all_the_same(
    tmp_path: Path, score: Score
) -> None:
    hosts_lost(tmp_path, 6, 1, score, one_way=True)


@pytest.mark.long
def test_the_jobs_of_a_host_that_is_cut_off_run_elsewhere_within_45_seconds(
    tmp_path: Path, score: Score
) -> None:
    hosts_lost(tmp_path, 30, 10, score)


# ---------------------------------------------------------------- R29
def restarts(folder: Path, wanted: int, seed: int, score: Score) -> None:
    """PostgreSQL is restarted as if it had crashed, under load; between, sessions are ended at random."""
    chance = random.Random(f"{seed} restarts")
    journal = Journal(folder / "journal")
    recovered: list[float] = []
    with (
        own_server() as server,
        fleet_on("postgres", folder, *lease(3), servers=2, workers=1, database=server) as fleet,
    ):
        with Traffic(journal, lambda: fleet.ports, seed) as traffic:
            traffic.reaches(5)
            while len(recovered) < wanted:
                time.sleep(chance.uniform(0.0, 0.5))
                end_sessions(fleet.url, chance.randint(1, 3))
                time.sleep(chance.uniform(0.0, 0.5))
                server.control("restart", "-m", "immediate")
                recovered.append(until_accepted(fleet, journal, traffic))
        drained(fleet.ports[0], traffic.jobs)
        fleet.stop()
        breaches = judge(read_journal(journal.path), fleet.image())
    journal.close()

    print(f"{len(traffic.jobs)} jobs accepted; {[str(breach) for breach in breaches][:10]}")
    lost = sum(breach.rule in LOSSES for breach in breaches)
    score("R29.lost", "postgres", lost, cases=len(recovered), seed=seed)
    score("R29.recovery", "postgres", p99(recovered), cases=len(recovered), seed=seed)
    assert [str(breach) for breach in breaches] == []
    assert traffic.faults == []


def end_sessions(url: str, number: int) -> None:
    """pg_terminate_backend for some sessions of the service."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            b"SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE datname ="
            b" current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT %s) AS chosen",
            (number,),
        )


def until_accepted(fleet: Fleet, journal: Journal, traffic: Traffic) -> float:
    """Seconds from now until each server has accepted a job."""
    began = time.monotonic()
    for port in fleet.ports:
        number = journal.sending("submit", ORG)
        answer = eventually(partial(accepted, port, number), f"the server at {port} accepts nothing", 60)
        job_id = answer.json()["job"]["job_id"]
        journal.answered(number, Outcome.ACKNOWLEDGED, job_id=job_id)
        traffic.jobs.append((ORG, job_id))
    return time.monotonic() - began


def accepted(port: int, number: int) -> Answer | None:
    """The answer to a submit, repeated with its key; None while there is none."""
    body = {
        "analysis": "selftest",
        "params": {"stages": 0},
        "labels": {"op": str(number)},
        "options": {"async_mode": {"requested": True}},
    }
    try:
        answer = ask(
            port, "POST", "/analyze", org_id=ORG, body=body, headers={"Idempotency-Key": f"restart-{number}"}
        )
    except NoAnswerError:
        return None
    return answer if answer.status == 202 else None


@pytest.mark.slow
def test_three_restarts_of_postgres_without_warning_lose_nothing_and_are_over_soon(
    tmp_path: Path, seed: int, score: Score
) -> None:
    restarts(tmp_path, 3, seed, score)


@pytest.mark.long
def test_fifty_restarts_of_postgres_without_warning_lose_nothing_and_are_over_soon(
    tmp_path: Path, seed: int, score: Score
) -> None:
    restarts(tmp_path, 50, seed, score)
