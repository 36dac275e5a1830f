"""Clock jumps under a running server: nothing is deleted early, no lease is lost, nothing goes out of order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from async_delivery.storage.opening import Mode, open_store
from tests.postgres import OwnServer, own_server
from tests.reliability.clock import DAY, HOUR, Clock, jumps
from tests.reliability.conftest import Score
from tests.reliability.power import compiler
from tests.system.live import LiveServer, eventually

# The clock of the server's cleanups cannot be set; this is the shortest interval they may have.
CLEANUP = "10s"
KEPT = "6h"
LEASE_SECONDS = 3


STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture
def database(store: str) -> Iterator[OwnServer | None]:
    """A PostgreSQL of the test's own, whose clock may jump; None for SQLite."""
    if store == "sqlite":
        yield None
        return
    with own_server() as it:
        it.run("ALTER SYSTEM SET fsync = off")
        yield it


@pytest.fixture
def clock(tmp_path: Path, database: OwnServer | None) -> Clock:
    """The clock of the machine on which everything runs, PostgreSQL included."""
    if compiler() is None:
        pytest.skip("clock jumps need a C compiler")
    # PostgreSQL runs as a user who may not look into pytest's folders.
    return Clock(database.folder if database else tmp_path)


@pytest.fixture
def server(
    tmp_path: Path, clock: Clock, database: OwnServer | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveServer]:
    store_file = database.new_store_file(tmp_path).path if database else None
    live = LiveServer(
        tmp_path,
        *(() if store_file is None else ("--store-file", str(store_file))),
        *("--slots", "2", "--lease-seconds", f"{LEASE_SECONDS}", "--heartbeat-seconds", "1"),
        *("--results-ttl-seconds", KEPT, "--events-ttl-seconds", KEPT, "--cleanup-schedule", CLEANUP),
    )
    live.store_file = store_file or live.store_file
    for name, value in clock.environment().items():
        monkeypatch.setenv(name, value)
    if database is not None:
        database.control("restart")
    # Where summer time is kept; the service must not notice.
    monkeypatch.setenv("TZ", "Europe/Berlin")
    try:
        live.start()
        monkeypatch.undo()
        yield live
    finally:
        live.stop()


def shown(server: LiveServer) -> datetime:
    return datetime.fromisoformat(server.ask("GET", "/health").json()["ts"])


def shows(server: LiveServer, offset: float) -> bool:
    """Whether the service's clock is so many seconds from the true one."""
    return abs((shown(server) - datetime.now(UTC)).total_seconds() - offset) < 60


def cleanups(server: LiveServer) -> int:
    """How many live runs the store remembers."""
    store = open_store(server.store_file, Mode.READ_ONLY)
    try:
        return len(store.read(lambda reader: reader.cleanup_runs(None, 1000)))
    finally:
        store.close()


def deleted(server: LiveServer, job_ids: list[str]) -> list[str]:
    """What is gone of these jobs, now that the clock is right again."""
    gone = []
    for job_id in job_ids:
        job = server.job(job_id)
        if server.ask("GET", f"/analyze/results/{job['result_id']}").status != 200:
            gone.append(f"the result of {job_id}")
        if not server.ask("GET", f"/analyze/jobs/{job_id}/events").json()["events"]:
            gone.append(f"the events of {job_id}")
    return gone


def disorder(server: LiveServer, job_id: str) -> list[str]:
    """What is wrong with the order of a job that lived through the jumps."""
    events = server.ask("GET", f"/analyze/jobs/{job_id}/events?limit=200").json()["events"]
    wrong = []
    if [event["event_seq"] for event in events] != list(range(1, len(events) + 1)):
        wrong.append("events are missing or out of order")
    parts = [
        one["result_seq"] for one in server.ask("GET", f"/analyze/jobs/{job_id}/results").json()["results"]
    ]
    if parts != sorted(set(parts)):
        wrong.append(f"results are out of order: {parts}")
    return wrong


def lost_leases(server: LiveServer, job_ids: list[str]) -> int:
    """Attempts beyond the first: nothing but a lost lease could have begun one."""
    return sum(server.job(job_id)["attempt"] - 1 for job_id in job_ids)


def jump_through(server: LiveServer, clock: Clock, offsets: dict[str, float], seconds: float) -> None:
    for what, offset in offsets.items():
        clock.set(offset)
        # On PostgreSQL it is the database's clock that counts, which is looked at from time to time.
        eventually(partial(shows, server, offset), f"the service does not notice {what}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert server.ask("GET", "/health/ready").status == 200, what
            job_id = server.submit(stages=1, stage_seconds=0)
            assert server.ended(job_id)["status"] == "completed", what


@contextmanager
def leases_first(store: str, server: LiveServer, job_ids: list[str], score: Score) -> Iterator[None]:
    """Whatever breaks within the block: if leases were lost, that is what is told."""
    try:
        yield
    except AssertionError:
        lost = lost_leases(server, job_ids) + len(deserted(server))
        score("R25.leases", store, lost, cases=len(jumps()))
        raise


def deserted(server: LiveServer) -> list[str]:
    """Jobs that are said to run, of which nothing is heard for longer than a lease: whoever had them has given up."""

    def heard() -> dict[str, str]:
        found = server.ask("GET", "/analyze/jobs?limit=200&status=running&status=partial").json()["jobs"]
        return {job["job_id"]: job["updated_at"] for job in found}

    before = heard()
    time.sleep(2 * LEASE_SECONDS)
    after = heard()
    return [job_id for job_id, at in before.items() if after.get(job_id) == at]


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_no_jump_of_the_clock_deletes_early_or_loses_a_lease(
    store: str, server: LiveServer, clock: Clock, score: Score
) -> None:
    old = [server.submit(stages=2, stage_seconds=0) for _ in range(3)]
    for job_id in old:
        server.ended(job_id)
    running = server.submit(stages=60, stage_seconds=0.2)
    eventually(lambda: server.job(running)["status"] == "partial", "the long job has not begun")

    with leases_first(store, server, [*old, running], score):
        jump_through(server, clock, jumps(), 0.5)
        # A cleanup falls into this one, and deletes nothing.
        clock.set(DAY)
        eventually(lambda: '"reason":"clock"' in server.log(), "no cleanup has noticed the clock")
        clock.set(0)
        before = cleanups(server)
        assert server.ended(running)["status"] == "completed"
    assert disorder(server, running) == []
    # Once the clock is right, cleanups go on at their interval.
    eventually(lambda: cleanups(server) > before, "no cleanup since the clock is right again")
    score("R25.deletions", store, len(deleted(server, old)), cases=len(jumps()))
    score("R25.leases", store, lost_leases(server, [*old, running]), cases=len(jumps()))


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_a_cleanup_in_every_jump_deletes_nothing_early(
    store: str, server: LiveServer, clock: Clock, score: Score
) -> None:
    old = [server.submit(stages=2, stage_seconds=0) for _ in range(3)]
    for job_id in old:
        server.ended(job_id)
    running = server.submit(stages=900, stage_seconds=0.2)

    with leases_first(store, server, [*old, running], score):
        jump_through(server, clock, jumps(), 12)
        jump_through(server, clock, {"back and forth": -HOUR, "and again": HOUR, "and right": 0}, 12)
        assert server.ended(running)["status"] == "completed"
    assert disorder(server, running) == []
    score("R25.deletions", store, len(deleted(server, old)), cases=len(jumps()))
    score("R25.leases", store, lost_leases(server, [*old, running]), cases=len(jumps()))
