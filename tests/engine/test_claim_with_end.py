"""The end of one attempt and the start of the next in one transaction: both are kept, or the end alone."""

from __future__ import annotations

from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.errors import LeaseLostError
from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.result import seal
from async_delivery.engine import jobs, runs
from async_delivery.engine.rescue import rescue
from async_delivery.engine.runs import Claimer, Run
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.writing import SqlTransaction
from tests.engine.support import ALPHA, BETA, claimed, submitted


def completed_with_next(
    rt: Runtime, run: Run, analyses: list[str] | None = None, log: str | None = None
) -> tuple[Job, Run | None]:
    job = run.job
    assert job.fence is not None
    claimer = Claimer("worker-a", analyses)
    return runs.complete_and_claim(rt, job.org_id, job.job_id, job.fence, seal({"x": 1}), claimer, log)


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

    with pytest.raises(LeaseLostError):
        completed_with_next(rt, first)

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
