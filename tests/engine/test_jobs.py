from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from async_delivery.domain.errors import (
    ConflictError,
    IdempotencyKeyReusedError,
    LegalHoldError,
    NotFoundError,
    QuotaExceededError,
    ValidationError,
)
from async_delivery.domain.event import EventType
from async_delivery.domain.failure import failure
from async_delivery.domain.job import JobId, JobStatus, Priority
from async_delivery.domain.result import View
from async_delivery.engine import inputs, jobs, notifications, results, runs
from async_delivery.engine.runtime import Runtime
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import JobFilter
from async_delivery.testing import FakeClock
from tests.engine.support import (
    ALPHA,
    BETA,
    claimed,
    completed,
    published,
    quota,
    runtime,
    settled,
    submitted,
)


def fields(error: ValidationError) -> list[str]:
    return [issue.field for issue in error.details]


def test_what_was_accepted_is_there_with_everything_that_was_asked(rt: Runtime) -> None:
    job = submitted(
        rt,
        query="sales",
        params={"upto": 3},
        labels={"team": "ä"},
        priority="expedite",
        timeout_seconds=5,
        results_ttl_seconds=60,
    )

    view = jobs.status(rt, ALPHA, job.job_id, 10)

    assert view.job == job
    assert (job.status, job.analysis, job.priority) == (JobStatus.QUEUED, "count", Priority.EXPEDITE)
    assert (job.timeout_seconds, job.results_ttl_seconds, job.labels) == (5.0, 60, {"team": "ä"})
    assert [event.event_type for event in view.events] == [EventType.QUEUED]
    request = rt.store.read(lambda reader: reader.find_request(ALPHA, job.job_id))
    assert request is not None
    assert (request.query, request.params_json) == ("sales", b'{"upto":3}')


def test_three_faults_in_params_are_all_named_and_nothing_is_kept(rt: Runtime) -> None:
    with pytest.raises(ValidationError) as caught:
        submitted(rt, params={"upto": -1, "step": "two", "colour": "red"})

    assert {"params", "params.step", "params.upto"} == set(fields(caught.value))
    assert jobs.list_jobs(rt, ALPHA, JobFilter(), 10, None) == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"analysis": "nope"}, "analysis"),
        ({"analysis": 7}, "analysis"),
        ({"analysis": "broken"}, "analysis"),
        ({"query": 7}, "query"),
        ({"query": "x" * 10_001}, "query"),
        ({"params": [1]}, "params"),
        ({"params": {"upto": float("nan")}}, "params.upto"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": {str(n): "" for n in range(17)}}, "labels"),
        ({"priority": "urgent"}, "options.priority"),
        ({"priority": ["default"]}, "options.priority"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": 601}, "timeout_seconds"),
        ({"timeout_seconds": True}, "timeout_seconds"),
        ({"results_ttl_seconds": -1}, "options.results_ttl_seconds"),
        ({"results_ttl_seconds": 1.5}, "options.results_ttl_seconds"),
        ({"analysis": "file-only"}, "file"),
    ],
)
def test_each_fault_is_named_by_its_field(rt: Runtime, asked: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        submitted(rt, **asked)

    assert field in fields(caught.value)


def test_faults_of_different_kinds_are_told_together(rt: Runtime) -> None:
    with pytest.raises(ValidationError) as caught:
        submitted(rt, query=7, labels=[], params={"upto": -1}, timeout_seconds="soon")

    assert set(fields(caught.value)) == {"query", "labels", "params.upto", "timeout_seconds"}


def test_the_same_key_and_body_lead_to_the_same_job_in_its_present_state(rt: Runtime) -> None:
    job = submitted(rt, params={"upto": 1}, idempotency_key="k")
    claimed(rt)

    again = settled(jobs.submit(rt, quota(rt), ALPHA, Submission(params={"upto": 1}, idempotency_key="k")))

    assert again.replayed
    assert (again.job.job_id, again.job.status) == (job.job_id, JobStatus.RUNNING)


def test_the_same_key_with_another_body_is_refused_and_keeps_nothing(rt: Runtime) -> None:
    submitted(rt, params={"upto": 1}, idempotency_key="k")

    with pytest.raises(IdempotencyKeyReusedError):
        submitted(rt, params={"upto": 2}, idempotency_key="k")
    assert len(jobs.list_jobs(rt, ALPHA, JobFilter(), 10, None)) == 1


def test_a_key_belongs_to_its_tenant_and_lasts_a_day(rt: Runtime, clock: FakeClock) -> None:
    first = submitted(rt, idempotency_key="k")
    assert submitted(rt, BETA, idempotency_key="k").job_id != first.job_id

    clock.advance(seconds=rt.policy.idempotency_ttl_seconds - 1)
    assert submitted(rt, idempotency_key="k").job_id == first.job_id
    clock.advance(seconds=1)
    assert submitted(rt, idempotency_key="k", params={"upto": 9}).job_id != first.job_id


def test_a_clock_that_was_put_forward_ends_no_key(rt: Runtime, clock: FakeClock) -> None:
    first = submitted(rt, idempotency_key="k")
    ahead = replace(rt, clock_leads_by=lambda: 90_000.0)
    clock.advance(seconds=rt.policy.idempotency_ttl_seconds + 3_600)

    assert submitted(ahead, idempotency_key="k").job_id == first.job_id
    with pytest.raises(IdempotencyKeyReusedError):
        submitted(ahead, idempotency_key="k", params={"upto": 9})


def test_the_queue_quota_is_exact_and_another_tenant_is_not_touched(rt: Runtime, clock: FakeClock) -> None:
    small = runtime(rt.store, clock, max_queued_per_tenant=3)
    shared = quota(small)
    for _ in range(3):
        settled(jobs.submit(small, shared, ALPHA, Submission()))

    with pytest.raises(QuotaExceededError) as caught:
        settled(jobs.submit(small, shared, ALPHA, Submission()))
    assert caught.value.details[0].field == "quota.queued"
    settled(jobs.submit(small, shared, BETA, Submission()))

    completed(small, claimed(small))
    settled(jobs.submit(small, shared, ALPHA, Submission()))


def test_a_replay_is_not_refused_by_a_full_queue(rt: Runtime, clock: FakeClock) -> None:
    small = runtime(rt.store, clock, max_queued_per_tenant=1)
    job = submitted(small, idempotency_key="k")

    assert submitted(small, idempotency_key="k").job_id == job.job_id


def test_a_retry_is_a_new_job_with_the_same_request(rt: Runtime) -> None:
    job = submitted(rt, query="q", params={"upto": 4}, labels={"a": "b"})
    jobs.cancel(rt, ALPHA, job.job_id, "tenant", None)

    again = jobs.retry(rt, quota(rt), ALPHA, job.job_id)

    run = claimed(rt)
    assert run.job.job_id == again.job_id != job.job_id
    assert (again.retry_of, again.labels) == (job.job_id, {"a": "b"})
    assert (run.request.query, run.request.params_json) == ("q", b'{"upto":4}')


def test_only_what_failed_or_was_canceled_can_be_retried(rt: Runtime) -> None:
    job = submitted(rt)
    for _ in range(2):
        with pytest.raises(ConflictError):
            jobs.retry(rt, quota(rt), ALPHA, job.job_id)
        if jobs.find(rt, ALPHA, job.job_id).status is JobStatus.QUEUED:
            completed(rt, claimed(rt))


def test_cancel_is_idempotent_and_told_once(rt: Runtime) -> None:
    job = submitted(rt)

    first = jobs.cancel(rt, ALPHA, job.job_id, "tenant", "typo")
    second = jobs.cancel(rt, ALPHA, job.job_id, "tenant", "again")

    assert first == second
    told = notifications.list_notifications(rt, ALPHA, job.job_id, None, 10)
    assert [one.template_key for one in told] == ["async.job.canceled"]


def test_erase_takes_everything_of_an_ended_job(rt: Runtime) -> None:
    file = inputs.keep_input(rt, ALPHA, "a.csv", "text/csv", [b"a,b\n", b"1,2\n"], 1000)
    job = submitted(rt, input=file)
    run = claimed(rt)
    published(rt, run, {"n": 1})
    done = completed(rt, run, {"n": 2})
    assert done.result_id is not None

    jobs.erase(rt, ALPHA, job.job_id)

    for look in (
        lambda: jobs.find(rt, ALPHA, job.job_id),
        lambda: results.permalink(rt, ALPHA, done.result_id, View.LATEST),
        lambda: notifications.list_notifications(rt, ALPHA, job.job_id, None, 10),
    ):
        with pytest.raises(NotFoundError):
            look()
    assert rt.store.read(lambda reader: reader.find_input(ALPHA, file.input_id)) is None


def test_erase_refuses_what_still_runs_and_what_is_held(rt: Runtime) -> None:
    job = submitted(rt)
    with pytest.raises(ConflictError):
        jobs.erase(rt, ALPHA, job.job_id)
    completed(rt, claimed(rt))

    jobs.hold(rt, ALPHA, job.job_id, True)
    with pytest.raises(LegalHoldError):
        jobs.erase(rt, ALPHA, job.job_id)

    jobs.hold(rt, ALPHA, job.job_id, False)
    jobs.erase(rt, ALPHA, job.job_id)


def test_another_tenants_job_is_not_found_by_any_use_case(rt: Runtime) -> None:
    job = submitted(rt)
    run = claimed(rt)
    fence = run.job.fence
    done = completed(rt, run)
    assert done.result_id is not None
    assert fence is not None
    ident, result_id = job.job_id, done.result_id

    for use in (
        lambda: jobs.find(rt, BETA, ident),
        lambda: jobs.status(rt, BETA, ident, 5),
        lambda: jobs.list_events(rt, BETA, ident, 0, 5),
        lambda: jobs.logs(rt, BETA, ident),
        lambda: jobs.cancel(rt, BETA, ident, "tenant", None),
        lambda: jobs.retry(rt, quota(rt), BETA, ident),
        lambda: jobs.hold(rt, BETA, ident, True),
        lambda: jobs.erase(rt, BETA, ident),
        lambda: results.list_results(rt, BETA, ident),
        lambda: results.permalink(rt, BETA, result_id, View.REQUESTED),
        lambda: notifications.list_notifications(rt, BETA, ident, None, 5),
        lambda: runs.fail(rt, BETA, ident, fence, failure("x", "y"), again=False),
    ):
        with pytest.raises(NotFoundError):
            use()
    assert jobs.list_jobs(rt, BETA, JobFilter(), 10, None) == []
    assert jobs.find(rt, ALPHA, JobId(ident)) == done
