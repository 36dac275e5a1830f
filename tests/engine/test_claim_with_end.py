"""The end of one attempt and the start of the next in one transaction: both are kept, or the end alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.result import seal
from async_delivery.engine import jobs, runs
from async_delivery.engine.rescue import rescue
from async_delivery.engine.runs import Claimer, Completed, Report, Run
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.writing import SqlTransaction
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, BETA, claimed, lent_runtime, published, runtime, submitted
from tests.postgres import shared_server


@pytest.fixture(params=["sqlite", "postgres"])
def rt(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Runtime]:
    """On both stores: what differs between them is who else may hold what."""
    if request.param == "sqlite":
        with lent_runtime(tmp_path, clock) as lent:
            yield lent
        return
    with shared_server().lent_store(tmp_path) as store:
        yield runtime(store, clock)


def completed_with_next(
    rt: Runtime,
    run: Run,
    analyses: list[str] | None = None,
    log: str | None = None,
) -> tuple[Job, Run | None]:
    (done,), following = completed_together(rt, [run], analyses, log)
    assert done is not None
    return done, following[0] if following else None


def completed_together(
    rt: Runtime, ended: list[Run], analyses: list[str] | None = None, log: str | None = None, limit: int = 1
) -> tuple[list[Job | None], list[Run]]:
    ends = []
    for run in ended:
        assert run.job.fence is not None
        ends.append(Completed(run.job, run.job.fence, seal({"x": 1}), log))
    return runs.complete_and_claim(rt, ends, Claimer("worker-a", analyses), limit).result()


def test_a_worker_that_ends_an_attempt_gets_the_next_job_with_it(rt: Runtime) -> None:
    submitted(rt)
    second = submitted(rt, params={"upto": 3})
    first = claimed(rt)
    heard: list[tuple[str, Any]] = []
    detach = telemetry.attach(lambda name, values: heard.append((name, values["job"].job_id)))

    done, following = completed_with_next(rt, first, log="printed")
    detach()

    assert (done.status, following and following.job.job_id) == (JobStatus.COMPLETED, second.job_id)
    assert following is not None
    assert (following.job.status, following.job.attempt) == (JobStatus.RUNNING, 1)
    assert following.request.params_json == b'{"upto":3}'
    assert jobs.find(rt, ALPHA, second.job_id) == following.job
    assert jobs.logs(rt, ALPHA, done.job_id) == [(1, "printed")]
    assert heard == [("job.completed", done.job_id), ("attempt.started", second.job_id)]


def test_nobody_gets_a_job_where_none_is_due_for_them(rt: Runtime) -> None:
    submitted(rt)
    first = claimed(rt)
    other = submitted(rt)

    done, following = completed_with_next(rt, first, analyses=["fileless"])

    assert (done.status, following) == (JobStatus.COMPLETED, None)
    assert jobs.find(rt, ALPHA, other.job_id).status is JobStatus.QUEUED


def test_the_next_turn_is_the_other_tenants_however_long_the_first_ones_line(rt: Runtime) -> None:
    for _ in range(5):
        submitted(rt)
    submitted(rt, BETA)

    first, following = completed_with_next(rt, claimed(rt))

    assert following is not None
    assert {first.org_id, following.job.org_id} == {ALPHA, BETA}


def test_a_worker_that_lost_its_lease_gets_no_job_either(rt: Runtime) -> None:
    submitted(rt)
    first = claimed(rt, "worker-b")
    rescue(rt, alive=[])

    assert completed_together(rt, [first]) == ([None], [])
    assert jobs.find(rt, ALPHA, first.job.job_id).status is JobStatus.QUEUED


def test_a_claim_that_fails_keeps_no_job_from_its_end(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(rt)
    second = submitted(rt)
    first = claimed(rt)
    # Half-way through the claim: the attempt is entered, and what it is to run is not there.
    monkeypatch.setattr(SqlTransaction, "find_request", lambda *_: None)

    done, following = completed_with_next(rt, first)

    assert (done.status, following) == (JobStatus.COMPLETED, None)
    assert jobs.find(rt, ALPHA, done.job_id).status is JobStatus.COMPLETED
    left = jobs.find(rt, ALPHA, second.job_id)
    assert (left.status, left.attempt, left.event_seq) == (JobStatus.QUEUED, 0, 1)


def test_a_job_that_has_not_moved_since_its_claim_ends_without_being_read(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(rt)
    run = claimed(rt)
    assert run.job.fence is not None
    # Neither is a move that no report of the attempt must be lost by.
    runs.heartbeat(rt, "worker-a", {run.job.job_id: run.job.fence})
    monkeypatch.delattr(SqlTransaction, "lock_job")

    done, _ = completed_with_next(rt, run, log="printed")

    assert jobs.find(rt, ALPHA, done.job_id) == done
    assert (done.status, done.lease, done.event_seq) == (JobStatus.COMPLETED, None, 3)
    assert jobs.logs(rt, ALPHA, done.job_id) == [(1, "printed")]


def reported(rt: Runtime, run: Run) -> None:
    job = run.job
    assert job.fence is not None
    runs.progress(rt, job.org_id, job.job_id, job.fence, Report(percent=40.0, stage="halfway"))


def published_twice(rt: Runtime, run: Run) -> None:
    published(rt, run, {"n": 1})
    published(rt, run, {"n": 2})


def asked_to_stop(rt: Runtime, run: Run) -> None:
    jobs.cancel(rt, run.job.org_id, run.job.job_id, "someone", None)


@pytest.mark.parametrize("meanwhile", [reported, published_twice, asked_to_stop])
def test_what_has_moved_a_job_since_its_claim_is_in_its_end(
    rt: Runtime, meanwhile: Callable[[Runtime, Run], None]
) -> None:
    submitted(rt)
    run = claimed(rt)
    meanwhile(rt, run)
    before = jobs.find(rt, ALPHA, run.job.job_id)

    done, _ = completed_with_next(rt, run)

    assert jobs.find(rt, ALPHA, done.job_id) == done
    assert done.status is JobStatus.COMPLETED
    assert (done.stage, done.partial_count, done.cancel_requested_at) == (
        before.stage,
        before.partial_count,
        before.cancel_requested_at,
    )
    assert done.result_seq == before.result_seq + 1
    events = jobs.list_events(rt, ALPHA, done.job_id, 0, 100)
    assert [event.event_seq for event in events] == list(range(1, before.event_seq + 2))


def test_a_job_that_was_taken_away_is_not_ended_by_who_still_knows_it(rt: Runtime) -> None:
    submitted(rt)
    first = claimed(rt, "worker-b")
    rescue(rt, alive=[])
    second = claimed(rt, "worker-c")

    assert completed_together(rt, [first]) == ([None], [])
    assert jobs.find(rt, ALPHA, second.job.job_id) == second.job
    assert jobs.list_events(rt, ALPHA, second.job.job_id, second.job.event_seq, 10) == []


def test_ends_that_are_written_together_are_each_written_or_refused_by_themselves(rt: Runtime) -> None:
    submitted(rt)
    lost = claimed(rt, "worker-b")
    rescue(rt, alive=[])
    again = claimed(rt, "worker-c")
    for _ in range(4):
        submitted(rt)
    ended = [claimed(rt), claimed(rt)]

    (first, refused, second), following = completed_together(rt, [ended[0], lost, ended[1]], limit=8)

    assert refused is None
    assert jobs.find(rt, ALPHA, lost.job.job_id) == again.job
    assert first is not None
    assert second is not None
    assert [jobs.find(rt, ALPHA, done.job_id) for done in (first, second)] == [first, second]
    assert {first.status, second.status} == {JobStatus.COMPLETED}
    # As many as wait, in the order of their turns.
    assert [run.job.attempt for run in following] == [1, 1]
    assert [jobs.find(rt, ALPHA, run.job.job_id) for run in following] == [run.job for run in following]
    assert sorted(run.job.job_id for run in following) == [run.job.job_id for run in following]
