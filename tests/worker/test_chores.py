"""Chores: one function each, run at intervals, and no fault ends the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.engine import inputs, runs
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.chores import (
    Chore,
    Chores,
    PruneReport,
    RescueReport,
    _Timer,
    prune,
    prune_chore,
    rescue_chore,
)
from tests.worker.support import ORG, World, eventually

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def still(make_world: Any) -> World:
    """A world whose worker was not started."""
    world: World = make_world()
    return world


@pytest.fixture
def facts() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    heard: list[tuple[str, dict[str, Any]]] = []
    detach = telemetry.attach(lambda name, values: heard.append((name, values)))
    yield heard
    detach()


def test_rescue_takes_back_what_a_lost_worker_held_and_spares_the_living(still: World) -> None:
    lost, held = still.submit("fine"), still.submit("fine")
    runs.claim(still.rt, "w-dead", 1)
    runs.claim(still.rt, "w-living", 1)
    chore = rescue_chore(still.rt, lambda: ["w-living"])

    report = chore.run_once(still.rt, still.rt.clock.now())

    assert report == RescueReport(1)
    statuses = sorted(str(still.job(job).status) for job in (lost, held))
    assert statuses == ["queued", "running"]
    assert chore.interval_seconds == still.rt.policy.lease_seconds / 2


def test_a_job_that_a_living_worker_does_not_know_it_has_is_taken_back_at_the_second_look(
    still: World,
) -> None:
    job = still.submit("fine")
    runs.claim(still.rt, "w-living", 1)
    chore = rescue_chore(still.rt, lambda: ["w-living"])

    first = chore.run_once(still.rt, still.rt.clock.now())
    status = still.job(job).status
    second = chore.run_once(still.rt, still.rt.clock.now())

    assert (first, str(status)) == (RescueReport(0), "running")
    assert (second, str(still.job(job).status)) == (RescueReport(1), "queued")
    assert chore.run_once(still.rt, still.rt.clock.now()) == RescueReport(0)


def test_what_a_living_worker_has_is_never_taken_from_it(still: World) -> None:
    job = still.submit("fine")
    runs.claim(still.rt, "w-living", 1)
    chore = rescue_chore(still.rt, lambda: ["w-living"], lambda: {job.job_id})

    reports = [chore.run_once(still.rt, still.rt.clock.now()) for _ in range(3)]

    assert reports == [RescueReport(0)] * 3
    assert str(still.job(job).status) == "running"


def test_another_attempt_that_was_claimed_since_the_first_look_is_not_taken_at_the_second(
    still: World,
) -> None:
    job = still.submit("fine")
    (run,) = runs.claim(still.rt, "w-living", 1)
    assert run.job.fence is not None
    chore = rescue_chore(still.rt, lambda: ["w-living"])
    chore.run_once(still.rt, still.rt.clock.now())

    runs.release(still.rt, ORG, job.job_id, run.job.fence)
    runs.claim(still.rt, "w-living", 1)

    assert chore.run_once(still.rt, still.rt.clock.now()) == RescueReport(0)
    assert still.job(job).attempt == 2


def test_prune_deletes_uploads_that_no_job_names_after_a_day(still: World) -> None:
    now = still.rt.clock.now()
    inputs.keep_input(still.rt, ORG, "data.csv", None, [b"a,b\n"], 1000)

    early = prune(still.rt, now + timedelta(hours=23))
    late = prune(still.rt, now + timedelta(hours=25))
    again = prune(still.rt, now + timedelta(hours=25))

    assert sum(early.pruned.values()) == 0
    assert sum(late.pruned.values()) > 0
    assert sum(again.pruned.values()) == 0
    assert prune_chore().run_once(still.rt, now) == early


def test_a_chore_that_fails_runs_again_and_does_not_hold_up_the_others(
    still: World, facts: list[tuple[str, dict[str, Any]]]
) -> None:
    ran: list[str] = []

    def breaks(rt: Runtime, now: datetime) -> None:
        ran.append("breaks")
        raise ValueError("as asked")

    def works(rt: Runtime, now: datetime) -> int:
        ran.append("works")
        return 1

    chores = Chores(still.rt, [Chore("breaks", 0.02, breaks), Chore("works", 0.02, works)])

    chores.start()
    eventually(lambda: ran.count("breaks") >= 3 and ran.count("works") >= 3, "the loop stands still")
    chores.close()
    chores.close()

    assert ("chore.failed", "breaks") in [(name, values.get("chore")) for name, values in facts]
    assert ("chore.finished", 1) in [(name, values.get("report")) for name, values in facts]
    assert "chores" not in {thread.name for thread in threading.enumerate()}


# ---------------------------------------------------------------- when a chore is due
def due_in(chore: Chore, now: datetime) -> float:
    return _Timer(chore, now).seconds_left(now)


def nothing(rt: Runtime, now: datetime) -> None:
    return None


def test_without_a_past_the_first_run_is_somewhere_in_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("async_delivery.worker.chores.random.random", lambda: 0.25)

    assert due_in(Chore("c", 3600.0, nothing), NOW) == pytest.approx(900, abs=5)


@pytest.mark.parametrize(
    ("ago", "left"),
    [
        (600, 3000),  # a restart does not put it off
        (3599, 15),
        (7200, 15),  # overdue: soon, and at another moment than everybody who was started with it
        (-500, 3600),  # the clock was set back meanwhile
    ],
)
def test_a_restarted_server_counts_from_the_last_run(
    monkeypatch: pytest.MonkeyPatch, ago: float, left: float
) -> None:
    monkeypatch.setattr("async_delivery.worker.chores.random.random", lambda: 15 / 3600)
    chore = Chore("c", 3600.0, nothing, last_at=NOW - timedelta(seconds=ago))

    assert due_in(chore, NOW) == pytest.approx(left, abs=5)


def test_an_overdue_chore_of_a_long_interval_waits_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("async_delivery.worker.chores.random.random", lambda: 0.999)
    chore = Chore("c", 604_800.0, nothing, last_at=NOW - timedelta(days=30))

    assert due_in(chore, NOW) == pytest.approx(60, abs=5)


def test_a_chore_with_times_of_its_own_follows_the_wall_clock() -> None:
    chore = Chore("c", None, nothing, next_after=lambda at: at + timedelta(hours=1))
    timer = _Timer(chore, NOW)

    assert timer.seconds_left(NOW) == 3600
    # The clock is set forward past the time: it is due, once.
    later = NOW + timedelta(hours=5)
    assert timer.seconds_left(later) < 0
    timer.begun(later)
    assert timer.seconds_left(later) == 3600


def test_a_clock_that_was_put_back_does_not_hold_up_what_comes_next() -> None:
    chore = Chore("c", None, nothing, next_after=lambda at: at + timedelta(hours=1))
    timer = _Timer(chore, NOW)

    assert timer.seconds_left(NOW - timedelta(days=1)) == 3600


def test_nothing_is_pruned_while_the_clock_has_been_put_forward(still: World) -> None:
    now = still.rt.clock.now()
    inputs.keep_input(still.rt, ORG, "data.csv", None, [b"a,b\n"], 1000)
    later = now + timedelta(days=2)

    assert prune_chore(lambda: 2 * 86_400.0).run_once(still.rt, later) == PruneReport({})

    assert sum(prune(still.rt, later).pruned.values()) > 0


def test_a_chore_with_times_of_its_own_runs_when_its_time_has_come(still: World) -> None:
    ran: list[datetime] = []
    chores = Chores(
        still.rt,
        [
            Chore(
                "c", None, lambda rt, now: ran.append(now), next_after=lambda at: at + timedelta(seconds=0.05)
            )
        ],
        "timed",
    )

    chores.start()
    eventually(lambda: len(ran) >= 3, "it does not run")
    chores.close()

    assert "timed" not in {thread.name for thread in threading.enumerate()}
