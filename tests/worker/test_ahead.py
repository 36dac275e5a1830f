"""Short attempts are claimed ahead of a busy slot and end together; what waits behind a long one goes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import Fence, Job, JobId, JobStatus
from async_delivery.engine import jobs, rescue, runs
from async_delivery.engine.runs import Claimer
from async_delivery.engine.runtime import Policy, new_id
from async_delivery.worker import ahead
from async_delivery.worker.attempt import Attempt, StopReason, Waker
from async_delivery.worker.bell import Bell
from async_delivery.worker.roster import Roster
from tests.worker.support import DEADLINE_SECONDS, ORG, World, eventually
from tests.worker.test_reuse import Watched

# Enough for a slot to know that its attempts are short, and to have asked for more than one since.
ENOUGH = 6


@pytest.fixture(autouse=True)
def any_attempt_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine nothing is short by the clock; nor is anything given back before a test wants that."""
    monkeypatch.setattr(ahead, "_AHEAD_SECONDS", DEADLINE_SECONDS)
    monkeypatch.setattr(ahead, "LONGEST_WAIT_SECONDS", DEADLINE_SECONDS)


@pytest.fixture
def one(make_world: Any) -> World:
    world: World = make_world(slots=1)
    return world.start()


def cancel(world: World, job: Job) -> None:
    jobs.cancel(world.rt, ORG, job.job_id, by="tests", reason=None)


def held_up(world: World) -> list[Job]:
    """A long attempt on each slot."""
    blockers = [world.submit("cooperates") for _ in range(world.settings.slots)]
    for blocker in blockers:
        world.first_partial(blocker)
    return blockers


def submitted_after(world: World, before: Job, analysis: str) -> Job:
    """A job whose turn comes later: ids of one millisecond are in no order."""
    eventually(lambda: new_id()[:13] > before.job_id[:13], "time stands still")
    return world.submit(analysis)


def lined_up(world: World, analysis: str = "cooperates") -> tuple[Job, list[Job]]:
    """A job that comes to the one slot, and three that are claimed with it and wait for it."""
    (blocker,) = held_up(world)
    last = [world.submit("fine") for _ in range(ENOUGH)][-1]
    long = submitted_after(world, last, analysis)
    waiting = [submitted_after(world, long, "fine") for _ in range(3)]
    cancel(world, blocker)
    if analysis == "cooperates":
        world.first_partial(long)
        eventually(lambda: all(world.job(job).attempt for job in waiting), "none was claimed ahead")
    return long, waiting


def reasons(world: World, job: Job) -> list[Any]:
    """Why the job went back to the queue, each time."""
    found = jobs.list_events(world.rt, ORG, job.job_id, 0, 100)
    return [event.payload["reason"] for event in found if event.event_type == "job.requeued"]


def watched_commits(world: World) -> list[list[str]]:
    """For each transaction from now on, in which states it saves jobs."""
    commits: list[list[str]] = []

    def watched(write: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watching(fn: Any) -> Any:
            saved: list[str] = []
            commits.append(saved)
            return write(lambda tx: fn(Watched(tx, saved)))

        return watching

    for name in ("write", "write_soon"):
        setattr(world.store._store, name, watched(getattr(world.store._store, name)))
    return commits


def test_short_attempts_end_together_and_the_next_are_claimed_with_their_ends(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_HELD_SECONDS", DEADLINE_SECONDS)
    (blocker,) = held_up(one)
    submitted = [one.submit("fine", value=value) for value in range(30)]
    commits = watched_commits(one)

    cancel(one, blocker)
    ended = [one.ended(job) for job in submitted]

    assert [one.result(job)["value"] for job in ended] == list(range(30))
    assert {(job.status, job.attempt, job.event_seq) for job in ended} == {(JobStatus.COMPLETED, 1, 3)}
    ends = [saved for saved in commits if "completed" in saved]
    assert max(saved.count("completed") for saved in ends) == 4
    assert max(saved.count("running") for saved in ends) > 4
    assert len(ends) < 20
    eventually(lambda: not one.supervisor._roster.running(), "an attempt is still looked after")


def test_nothing_is_claimed_ahead_while_attempts_take_their_time(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_AHEAD_SECONDS", 0.0)
    (blocker,) = held_up(one)
    submitted = [one.submit("fine") for _ in range(12)]
    commits = watched_commits(one)

    cancel(one, blocker)
    assert {one.ended(job).status for job in submitted} == {JobStatus.COMPLETED}

    ends = [saved for saved in commits if "completed" in saved]
    assert ends == [["completed", "running"]] * 11 + [["completed"]]


def test_nothing_is_claimed_ahead_under_a_cap_of_a_tenants_attempts(make_world: Any) -> None:
    policy = Policy(default_analysis="fine", fault_injection=True, max_running_per_tenant=1)
    world: World = make_world(slots=1, policy=policy).start()
    (blocker,) = held_up(world)
    submitted = [world.submit("fine") for _ in range(12)]
    commits = watched_commits(world)

    cancel(world, blocker)
    assert {world.ended(job).status for job in submitted} == {JobStatus.COMPLETED}

    assert max(saved.count("running") for saved in commits) == 1


def test_what_waits_behind_a_long_attempt_goes_back_to_the_queue(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LONGEST_WAIT_SECONDS", 0.3)

    long, waiting = lined_up(one)
    eventually(lambda: {one.job(job).status for job in waiting} == {JobStatus.QUEUED}, "they still wait")

    assert one.job(long).status is JobStatus.PARTIAL
    cancel(one, long)
    for job in waiting:
        ended = one.ended(job)
        assert (ended.status, ended.attempt, ended.error_count) == (JobStatus.COMPLETED, 2, 0)
        assert reasons(one, job) == ["not_begun"]


def test_what_waits_for_a_slot_is_run_by_another_that_is_free(make_world: Any) -> None:
    world: World = make_world(slots=2).start()
    blockers = held_up(world)
    last = [world.submit("fine") for _ in range(2 * ENOUGH)][-1]
    long = submitted_after(world, last, "cooperates")
    waiting = [submitted_after(world, long, "fine") for _ in range(6)]

    for blocker in blockers:
        cancel(world, blocker)
    world.first_partial(long)

    assert {(world.ended(job).status, world.job(job).attempt) for job in waiting} == {
        (JobStatus.COMPLETED, 1)
    }
    assert not world.job(long).status.terminal


def test_a_job_that_is_canceled_while_it_waits_for_its_slot_never_begins(one: World) -> None:
    long, (first, second, third) = lined_up(one)

    cancel(one, second)
    cancel(one, long)

    canceled = one.ended(second)
    assert (canceled.status, canceled.attempt, canceled.result_id) == (JobStatus.CANCELED, 1, None)
    assert one.events(second)[-2:] == ["job.cancel_requested", "job.canceled"]
    assert [one.ended(job).attempt for job in (first, third)] == [1, 1]
    eventually(lambda: not one.supervisor._roster.running(), "an attempt is still looked after")


def test_a_drain_gives_back_what_waits_at_no_cost(make_world: Any) -> None:
    world: World = make_world(slots=1, drain_grace_seconds=0.05).start()
    long, waiting = lined_up(world)

    world.supervisor.drain()

    assert {world.job(job).status for job in (long, *waiting)} == {JobStatus.QUEUED}
    assert [reasons(world, job) for job in waiting] == [["not_begun"]] * 3
    world.supervisor.close()
    world.restarted()
    cancel(world, long)
    assert {(world.ended(job).status, world.job(job).error_count) for job in waiting} == {
        (JobStatus.COMPLETED, 0)
    }


def test_an_attempt_whose_lease_is_lost_while_it_waits_is_dropped(one: World) -> None:
    long, (first, second, third) = lined_up(one)
    (lost,) = [attempt for attempt in one.supervisor._roster.running() if attempt.job_id == second.job_id]

    runs.release(one.rt, ORG, lost.job_id, lost.fence)
    lost.ask(StopReason.LOST)
    cancel(one, long)

    ended = one.ended(second)
    assert (ended.status, ended.attempt) == (JobStatus.COMPLETED, 2)
    assert [one.ended(job).attempt for job in (first, third)] == [1, 1]
    assert one.events(second).count("job.completed") == 1
    assert len(one.told("lease.lost")) == 1
    assert one.told("write.refused") == []


def test_a_crash_hits_only_the_attempt_that_ran(one: World) -> None:
    crashed, waiting = lined_up(one, "segfault")

    assert {(one.ended(job).status, one.job(job).attempt) for job in waiting} == {(JobStatus.COMPLETED, 1)}
    ended = one.ended(crashed)
    assert ended.error is not None
    assert ended.error.code == "worker_crashed"


def refused(world: World, error: Exception) -> list[int]:
    """Every transaction with more than one end is undone; how many ends each had."""
    seen: list[int] = []
    write_soon = world.store._store.write_soon

    def refusing(fn: Any) -> Any:
        def run(tx: Any) -> Any:
            saved: list[str] = []
            value = fn(Watched(tx, saved))
            if saved.count("completed") > 1:
                seen.append(saved.count("completed"))
                raise error
            return value

        return write_soon(run)

    world.store._store.write_soon = refusing  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("error", [UnavailableError("the disk is full"), ValueError("a fault of ours")])
def test_ends_that_could_not_be_written_together_are_written_one_by_one(
    one: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ahead, "_HELD_SECONDS", DEADLINE_SECONDS)
    (blocker,) = held_up(one)
    submitted = [one.submit("fine") for _ in range(20)]
    seen = refused(one, error)

    cancel(one, blocker)
    ended = [one.ended(job) for job in submitted]

    assert {(job.status, job.attempt, job.event_seq) for job in ended} == {(JobStatus.COMPLETED, 1, 3)}
    assert seen
    assert one.told("slot.failed") == []
    eventually(lambda: not one.supervisor._roster.running(), "an attempt is still looked after")


def test_an_end_that_the_store_refused_is_written_while_the_next_attempt_runs(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_AGAIN_SECONDS", 0.01)
    (blocker,) = held_up(one)
    before = [one.submit("fine") for _ in range(ENOUGH - 1)][-1]
    last = submitted_after(one, before, "fine")
    long = submitted_after(one, last, "cooperates")
    refusals = iter(range(3))
    write_soon = one.store._store.write_soon

    def refusing(fn: Any) -> Any:
        def run(tx: Any) -> Any:
            value = fn(tx)
            if one.told("child.started") and tx.lock_job(ORG, last.job_id).status is JobStatus.COMPLETED:
                for _ in refusals:
                    raise UnavailableError("the disk is full")
            return value

        return write_soon(run)

    one.store._store.write_soon = refusing  # type: ignore[method-assign]

    cancel(one, blocker)

    assert one.ended(last).attempt == 1
    assert next(refusals, None) is None
    assert not one.job(long).status.terminal


def test_jobs_that_were_claimed_and_not_begun_when_a_server_dies_cost_nothing(make_world: Any) -> None:
    world: World = make_world(slots=1)
    submitted = [world.submit("fine") for _ in range(8)]

    # As a server leaves them that is killed: nobody renews or gives back.
    runs.claim(world.rt, "w-dead", 8)
    assert len(rescue.rescue(world.rt, [])) == 8
    world.start()

    for job in submitted:
        ended = world.ended(job)
        assert (ended.status, ended.attempt, ended.error_count) == (JobStatus.COMPLETED, 2, 0)


@pytest.fixture
def waker() -> Iterator[Waker]:
    made = Waker()
    yield made
    made.close()


def test_a_slot_claims_ahead_after_short_attempts_in_a_row_and_while_no_other_is_idle(
    make_world: Any, waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_AHEAD_SECONDS", 0.010)
    monkeypatch.setattr(ahead, "LONGEST_WAIT_SECONDS", 0.050)
    world: World = make_world(slots=1)
    bell = Bell(poll_seconds=DEADLINE_SECONDS)
    one = ahead.Ahead(world.rt, Claimer("w-a"), ahead.Line(), bell, Roster(bell), waker)

    def wanted_after(*seconds: float | None) -> int:
        for each in seconds:
            one.lasted(each)
        return one._wanted()

    assert wanted_after(0.002, 0.002, 0.002) == 1
    assert wanted_after(0.002) == 5
    assert wanted_after(*[0.0001] * 8) == 8
    assert wanted_after(*[0.020] * 8) == 1
    # Stopped, or failed: that says nothing of how long the others take.
    assert wanted_after(None, 0.001, 0.001, 0.001) == 1
    assert wanted_after(0.001) == 8
    # Where one was long, another may be.
    assert wanted_after(0.060, *[0.001] * 31) == 1
    assert wanted_after(0.001) == 8
    # Who is idle claims by itself.
    bell.waiting = 1
    assert one._wanted() == 1


def test_a_job_that_was_given_back_often_waits_for_a_slot_instead(
    make_world: Any, waker: Waker, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: World = make_world(slots=1)
    monkeypatch.setattr(ahead, "LONGEST_WAIT_SECONDS", 0.0)
    world.submit("fine")
    line = ahead.Line()
    starts = 0
    while True:
        (run,) = runs.claim(world.rt, "w-a", 1)
        starts += 1
        line.put([Attempt(run, float("inf"), waker)])
        overdue = line.take_overdue(float("inf"))
        if not overdue:
            break
        runs.release(world.rt, ORG, overdue[0].job_id, overdue[0].fence, begun=False)

    assert starts == 6
    kept = line.take()
    assert kept is not None
    assert (kept.job_id, kept.fence) == (JobId(run.job.job_id), run.job.fence)
    assert isinstance(kept.fence, Fence)
    assert len(line) == 0
