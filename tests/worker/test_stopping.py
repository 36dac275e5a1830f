"""Cancel, deadline and drain: asked first, then told, then killed; and a result that is there wins."""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import Any

import pytest

from async_delivery.domain.job import Job, JobStatus
from async_delivery.engine import jobs
from tests.worker.support import ORG, World, alive, eventually


def cancel(world: World, job: Job) -> None:
    jobs.cancel(world.rt, ORG, job.job_id, by="tests", reason=None)


def gone(pid: int) -> bool:
    return not alive(pid)


def test_an_analysis_that_looks_at_the_flag_is_canceled_at_once(world: World) -> None:
    job = world.submit("cooperates")
    pid = world.first_partial(job)["pid"]

    cancel(world, job)

    done = world.ended(job)
    assert done.status is JobStatus.CANCELED
    assert world.events(job)[-2:] == ["job.cancel_requested", "job.canceled"]
    assert gone(pid)
    assert world.told("child.ended")[0]["reason"] == "canceled"


def test_an_analysis_that_only_reports_is_canceled_through_its_reports(world: World) -> None:
    job = world.submit("raises-through-progress")
    eventually(lambda: world.job(job).progress_percent, "no progress")

    cancel(world, job)

    assert world.ended(job).status is JobStatus.CANCELED


@pytest.mark.parametrize(
    ("analysis", "asked"), [("stubborn", {}), ("holds-gil", {}), ("eats", {"way": "swallow"})]
)
def test_an_analysis_that_listens_to_nothing_is_killed_after_the_graces(
    make_world: Any, analysis: str, asked: dict[str, Any]
) -> None:
    world: World = make_world(cancel_grace_seconds=0.3, kill_grace_seconds=0.3).start()
    job = world.submit(analysis, **asked)
    eventually(lambda: world.told("child.started"), "not started")
    if not asked:
        world.first_partial(job)
    pid = world.told("child.started")[0]["pid"]
    asked_at = time.monotonic()

    cancel(world, job)

    assert world.ended(job).status is JobStatus.CANCELED
    assert time.monotonic() - asked_at < 0.6 + 1.0
    assert gone(pid)


def test_sigterm_comes_before_sigkill(make_world: Any) -> None:
    world: World = make_world(cancel_grace_seconds=0.2, kill_grace_seconds=30.0).start()
    job = world.submit("stubborn", ignore=False)
    world.first_partial(job)

    cancel(world, job)

    assert world.ended(job, seconds=20).status is JobStatus.CANCELED


def test_a_result_given_in_answer_to_a_cancel_completes_the_job(world: World) -> None:
    job = world.submit("cooperates", result_on_cancel=True)
    world.first_partial(job)

    cancel(world, job)

    done = world.ended(job)
    assert done.status is JobStatus.COMPLETED
    assert "stopped_at" in world.result(done)


@pytest.mark.parametrize("analysis", ["cooperates", "stubborn", "holds-gil"])
def test_a_job_that_is_not_done_in_time_fails_with_timeout_and_is_not_retried(
    world: World, analysis: str
) -> None:
    job = world.run(analysis, timeout_seconds=0.5)

    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "timeout"
    assert job.error.retryable
    assert "0.5 s" in job.error.message
    assert job.attempt == 1


def test_a_cancel_whose_signal_is_lost_is_found_by_the_heartbeat(make_world: Any) -> None:
    world: World = make_world(policy=fast_policy())
    world.supervisor._roster.hear = lambda signal: None  # type: ignore[method-assign]
    world.start()
    job = world.submit("cooperates")
    world.first_partial(job)

    cancel(world, job)

    assert world.ended(job, seconds=20).status is JobStatus.CANCELED


def fast_policy(**changes: Any) -> Any:
    from async_delivery.engine.runtime import Policy

    return Policy(**{"lease_seconds": 1.5, "heartbeat_seconds": 0.3, "default_analysis": "fine", **changes})


def test_cancel_is_quick_at_the_ninety_ninth_percentile(world: World) -> None:
    seconds = []
    for _ in range(30):
        job = world.submit("cooperates")
        world.first_partial(job)
        asked_at = time.monotonic()
        cancel(world, job)
        world.ended(job)
        seconds.append(time.monotonic() - asked_at)

    slowest = max(seconds)
    print(
        f"cancel: median {1000 * statistics.median(seconds):.1f} ms, slowest {1000 * slowest:.1f} ms of {len(seconds)}"
    )
    # The promise: the grace and one second, for analyses that do not even look.
    assert slowest < world.settings.cancel_grace_seconds + 1.0


def test_a_drain_lets_running_attempts_end_and_takes_no_more(make_world: Any) -> None:
    world: World = make_world(slots=1, drain_grace_seconds=30.0).start()
    running = world.submit("fine", seconds=0.5)
    waiting = world.submit("fine")
    eventually(lambda: world.job(running).status is JobStatus.RUNNING, "not started")

    world.supervisor.drain()

    assert world.job(running).status is JobStatus.COMPLETED
    assert world.job(waiting).status is JobStatus.QUEUED
    assert world.supervisor.snapshot().draining
    assert world.supervisor.snapshot().busy == 0


def test_what_a_drain_interrupts_costs_its_job_nothing(make_world: Any) -> None:
    world: World = make_world(drain_grace_seconds=0.1, kill_grace_seconds=0.1).start()
    soft, hard = world.submit("cooperates", steps=700), world.submit("stubborn")
    pids = [world.first_partial(job)["pid"] for job in (soft, hard)]

    world.supervisor.drain()

    for job in (soft, hard):
        assert world.job(job).status is JobStatus.QUEUED
        assert world.job(job).error_count == 0
        assert world.job(job).error is None
        assert "job.requeued" in world.events(job)
    assert all(gone(pid) for pid in pids)
    world.supervisor.close()
    world.restarted()
    assert world.ended(soft).status is JobStatus.COMPLETED


def test_children_ended_by_a_service_managers_signal_cost_nothing_during_the_drain(make_world: Any) -> None:
    world: World = make_world(drain_grace_seconds=5.0).start()
    job = world.submit("stubborn", ignore=False)
    pid = world.first_partial(job)["pid"]

    # As systemd does by default: the child hears of it no later than the server.
    os.kill(pid, 15)
    drain = threading.Thread(target=world.supervisor.drain)
    drain.start()
    drain.join()

    assert world.job(job).status is JobStatus.QUEUED
    assert world.job(job).error_count == 0


def test_closing_without_a_drain_gives_everything_back(world: World) -> None:
    job = world.submit("stubborn")
    pid = world.first_partial(job)["pid"]

    world.supervisor.close()

    assert world.job(job).status is JobStatus.QUEUED
    assert gone(pid)
    assert list(world.settings.work_root.iterdir()) == []
    world.supervisor.close()


def test_a_cancel_that_comes_in_the_moment_of_the_claim_is_not_missed(make_world: Any) -> None:
    world: World = make_world()
    added = world.supervisor._roster.add

    def cancel_first(attempt: Any) -> None:
        # The claim is committed and the store's signal comes before the attempt is known here.
        jobs.cancel(world.rt, ORG, attempt.job_id, by="tests", reason=None)
        added(attempt)

    world.supervisor._roster.add = cancel_first  # type: ignore[method-assign]
    world.start()

    job = world.run("cooperates")

    assert job.status is JobStatus.CANCELED
