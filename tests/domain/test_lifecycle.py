from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import ConflictError, LeaseLostError
from async_delivery.domain.event import EventType
from async_delivery.domain.failure import RetryHint, failure
from async_delivery.domain.job import TERMINAL, AttemptOutcome, Fence, Job, JobStatus
from async_delivery.domain.lifecycle import MAX_STARTS, TRANSITIONS, Change
from async_delivery.domain.result import ResultKind, seal
from tests.domain.support import NOON, REQUEST, RULE, fresh_job, ids, running_job

LATER = NOON + timedelta(seconds=5)
BROKEN = failure("analysis_error", "it broke")
BODY = seal({"rows": 3})


def types(change: Change) -> list[EventType]:
    return [event.event_type for event in change.events]


def test_a_submitted_job_is_queued_with_its_first_event_and_its_request() -> None:
    change = lifecycle.submit(fresh_job(), REQUEST, ids())

    assert change.job.status is JobStatus.QUEUED
    assert (change.job.event_seq, types(change)) == (1, [EventType.QUEUED])
    assert change.request is REQUEST
    assert change.notifications == ()


def test_a_retry_names_the_job_it_repeats_in_its_first_event() -> None:
    change = lifecycle.submit(fresh_job(retry_of="job-0"), REQUEST, ids())

    assert change.events[0].payload == {"retry_of": "job-0"}


def test_a_claim_starts_the_next_attempt_under_a_lease() -> None:
    change = lifecycle.claim(fresh_job(), "worker-a", "token-1", 30.0, LATER, ids())

    assert change.job.status is JobStatus.RUNNING
    assert change.job.fence == Fence(1, "token-1")
    assert change.job.lease is not None
    assert change.job.lease.expires_at == LATER + timedelta(seconds=30)
    assert change.attempt is not None
    assert (change.attempt.attempt, change.attempt.outcome) == (1, None)


def test_started_at_stays_the_start_of_the_first_attempt() -> None:
    job, fence = running_job()
    back = lifecycle.release(job, fence, LATER, ids()).job

    again = lifecycle.claim(back, "worker-b", "token-2", 30.0, LATER + timedelta(hours=1), ids()).job

    assert again.started_at == NOON


def test_completion_writes_the_final_result_and_one_notification_in_the_same_change() -> None:
    job, fence = running_job()

    change = lifecycle.complete(job, fence, BODY, LATER, ids())

    (kept,), (told,) = change.results, change.notifications
    assert change.job.status is JobStatus.COMPLETED
    assert change.job.progress_percent == 100.0
    assert change.job.result_id == kept.result.result_id
    assert kept.result.result_kind is ResultKind.FINAL
    assert kept.result.expires_at == LATER + timedelta(seconds=job.results_ttl_seconds)
    assert kept.body.data == b'{"rows":3}'
    assert told.template_key == "async.job.completed"
    assert told.dedupe_key == "job-1:in_app:async.job.completed"
    assert told.payload["result_id"] == kept.result.result_id
    assert told.payload["finished_at"] == "2026-03-01T12:00:05.000Z"
    assert change.attempt is not None
    assert change.attempt.outcome is AttemptOutcome.COMPLETED


def test_partials_keep_their_own_ids_and_a_rising_result_seq() -> None:
    job, fence = running_job()
    new_id = ids("r")
    first = lifecycle.publish_partial(job, fence, BODY, LATER, new_id, percent=30, stage="load")

    second = lifecycle.publish_partial(first.job, fence, BODY, LATER, new_id, percent=20)

    assert [c.results[0].result.result_seq for c in (first, second)] == [1, 2]
    assert first.results[0].result.result_id != second.results[0].result.result_id
    assert second.job.result_id == second.results[0].result.result_id
    assert (second.job.partial_count, second.job.progress_percent, second.job.stage) == (2, 30.0, "load")


@pytest.mark.parametrize(
    ("percent", "shown"), [(-5.0, 40.0), (39.9, 40.0), (55.55, 55.5), (250.0, 100.0), (float("nan"), 40.0)]
)
def test_progress_never_falls_and_stays_within_bounds(percent: float, shown: float) -> None:
    job, fence = running_job()
    job = replace(job, progress_percent=40.0)

    change = lifecycle.progress(job, fence, percent, "stage", None, LATER, ids())

    assert change is not None
    assert change.job.progress_percent == pytest.approx(shown, abs=0.06)


def test_a_report_that_says_nothing_new_changes_nothing() -> None:
    job, fence = running_job()

    assert lifecycle.progress(job, fence, 0.0, None, None, LATER, ids()) is None


def test_a_message_belongs_to_its_stage_and_goes_with_it() -> None:
    job, fence = running_job()
    reading = lifecycle.progress(job, fence, 10, "load", "reading", LATER, ids())
    assert reading is not None

    same = lifecycle.progress(reading.job, fence, 20, "load", None, LATER, ids())
    next_stage = lifecycle.progress(reading.job, fence, 20, "count", None, LATER, ids())

    assert same is not None
    assert same.job.message == "reading"
    assert next_stage is not None
    assert (next_stage.job.stage, next_stage.job.message) == ("count", None)


def test_a_retryable_failure_goes_back_to_the_queue_with_full_jitter() -> None:
    job, fence = running_job()

    change = lifecycle.fail(job, fence, BROKEN, LATER, ids(), rule=RULE, again=True)

    assert change.job.status is JobStatus.QUEUED
    assert change.job.due_at == LATER + timedelta(seconds=1.0)  # 0.5 of 2 s
    assert types(change) == [EventType.ATTEMPT_FAILED, EventType.REQUEUED]
    assert change.notifications == ()
    assert (change.job.error_count, change.job.lease) == (1, None)


def test_the_analysis_may_say_itself_when_it_is_worth_trying_again() -> None:
    job, fence = running_job()

    change = lifecycle.fail(job, fence, BROKEN, LATER, ids(), rule=RULE, again=True, retry_after_seconds=42.0)

    assert change.job.due_at == LATER + timedelta(seconds=42)


def test_the_first_death_of_a_child_is_answered_at_once_and_the_third_ends_the_job() -> None:
    job, fence = running_job()
    died = failure("worker_crashed", "signal SIGSEGV", retryable=True)

    first = lifecycle.fail(job, fence, died, LATER, ids(), rule=RULE, again=True, crashed=True).job
    assert (first.status, first.due_at) == (JobStatus.QUEUED, None)
    second_run = lifecycle.claim(first, "w", "t2", 30.0, LATER, ids()).job
    second = lifecycle.fail(
        second_run, Fence(2, "t2"), died, LATER, ids(), rule=RULE, again=True, crashed=True
    ).job
    assert second.due_at is not None
    third_run = lifecycle.claim(second, "w", "t3", 30.0, LATER, ids()).job
    third = lifecycle.fail(third_run, Fence(3, "t3"), died, LATER, ids(), rule=RULE, again=True, crashed=True)

    assert third.job.status is JobStatus.FAILED
    assert third.job.error_count == 3
    assert [told.template_key for told in third.notifications] == ["async.job.failed"]


def test_a_failure_tells_the_tenant_what_to_do_next() -> None:
    job, fence = running_job()

    change = lifecycle.fail(job, fence, BROKEN, LATER, ids(), rule=RULE, again=False)

    assert change.job.status is JobStatus.FAILED
    assert change.job.error is not None
    assert change.job.error.retry_hint is RetryHint.CHECK_INPUT_AND_RETRY
    assert change.notifications[0].payload["error_code"] == "analysis_error"


def test_a_drained_attempt_costs_nothing() -> None:
    job, fence = running_job()

    change = lifecycle.release(job, fence, LATER, ids())

    assert (change.job.status, change.job.error_count, change.job.due_at) == (JobStatus.QUEUED, 0, None)
    assert change.attempt is not None
    assert change.attempt.outcome is AttemptOutcome.RELEASED


@pytest.mark.parametrize("told_by", ["the worker", "somebody else"])
def test_a_lost_attempt_costs_nothing_and_is_an_event(told_by: str) -> None:
    job, fence = running_job()

    if told_by == "the worker":
        change = lifecycle.lose(job, fence, LATER, ids())
    else:
        change = lifecycle.rescue(job, LATER, ids())

    assert (change.job.status, change.job.error_count) == (JobStatus.QUEUED, 0)
    assert types(change) == [EventType.ATTEMPT_LOST, EventType.REQUEUED]


def test_a_job_that_every_host_loses_fails_after_ten_starts() -> None:
    job, _ = running_job(attempt=MAX_STARTS - 1)

    change = lifecycle.rescue(job, LATER, ids())

    assert change.job.status is JobStatus.FAILED
    assert change.job.error is not None
    assert (change.job.error.code, change.job.error.retryable) == ("worker_lost", True)
    assert len(change.notifications) == 1


def test_a_rescued_jobs_first_worker_cannot_write_any_more() -> None:
    job, stale = running_job()
    rescued = lifecycle.rescue(job, LATER, ids()).job
    second = lifecycle.claim(rescued, "worker-b", "token-2", 30.0, LATER, ids()).job

    writes: list[Callable[[Job], Any]] = [
        lambda now: lifecycle.complete(now, stale, BODY, LATER, ids()),
        lambda now: lifecycle.publish_partial(now, stale, BODY, LATER, ids()),
        lambda now: lifecycle.progress(now, stale, 50, None, None, LATER, ids()),
        lambda now: lifecycle.fail(now, stale, BROKEN, LATER, ids(), rule=RULE, again=True),
        lambda now: lifecycle.release(now, stale, LATER, ids()),
        lambda now: lifecycle.lose(now, stale, LATER, ids()),
        lambda now: lifecycle.confirm_cancel(now, stale, LATER, ids()),
    ]
    for write in writes:
        for state in (rescued, second):
            with pytest.raises(LeaseLostError):
                write(state)


def test_the_right_attempt_with_another_token_is_refused() -> None:
    job, fence = running_job()

    with pytest.raises(LeaseLostError):
        lifecycle.complete(job, Fence(fence.attempt, "forged"), BODY, LATER, ids())


def test_canceling_a_queued_job_ends_it_at_once_with_a_notification() -> None:
    change = lifecycle.request_cancel(fresh_job(), "tenant", "typo", LATER, ids())

    assert change is not None
    assert (change.job.status, change.job.cancel_reason) == (JobStatus.CANCELED, "typo")
    assert [told.template_key for told in change.notifications] == ["async.job.canceled"]


def test_canceling_a_running_job_is_a_request_until_its_worker_has_stopped() -> None:
    job, fence = running_job()
    asked = lifecycle.request_cancel(job, "tenant", None, LATER, ids())

    assert asked is not None
    assert asked.job.status is JobStatus.RUNNING
    assert lifecycle.request_cancel(asked.job, "tenant", None, LATER, ids()) is None
    ended = lifecycle.confirm_cancel(asked.job, fence, LATER, ids())
    assert (ended.job.status, ended.job.canceled_by) == (JobStatus.CANCELED, "tenant")
    assert len(ended.notifications) == 1


def test_a_result_that_arrives_before_the_stop_is_delivered() -> None:
    job, fence = running_job()
    asked = lifecycle.request_cancel(job, "tenant", None, LATER, ids())
    assert asked is not None

    assert lifecycle.complete(asked.job, fence, BODY, LATER, ids()).job.status is JobStatus.COMPLETED


@pytest.mark.parametrize("way", ["fail", "release", "lose", "rescue"])
def test_however_the_attempt_of_a_job_to_be_canceled_stops_the_job_ends_canceled(way: str) -> None:
    job, fence = running_job()
    asked = lifecycle.request_cancel(job, "tenant", None, LATER, ids())
    assert asked is not None

    change = {
        "fail": lambda: lifecycle.fail(asked.job, fence, BROKEN, LATER, ids(), rule=RULE, again=True),
        "release": lambda: lifecycle.release(asked.job, fence, LATER, ids()),
        "lose": lambda: lifecycle.lose(asked.job, fence, LATER, ids()),
        "rescue": lambda: lifecycle.rescue(asked.job, LATER, ids()),
    }[way]()

    assert change.job.status is JobStatus.CANCELED
    assert change.job.error is None
    assert len(change.notifications) == 1


def test_nobody_confirms_a_cancel_that_was_not_asked_for() -> None:
    job, fence = running_job()

    with pytest.raises(ConflictError):
        lifecycle.confirm_cancel(job, fence, LATER, ids())


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_terminal_job_is_immutable(status: JobStatus) -> None:
    running, fence = running_job()
    job = replace(running, status=status, lease=None, finished_at=NOON)

    assert TRANSITIONS[status] == {}
    assert lifecycle.request_cancel(job, "tenant", None, LATER, ids()) is None
    with pytest.raises(LeaseLostError):
        lifecycle.complete(job, fence, BODY, LATER, ids())
    with pytest.raises(ConflictError):
        lifecycle.claim(job, "w", "t", 30.0, LATER, ids())
    with pytest.raises(ConflictError):
        lifecycle.rescue(job, LATER, ids())


def test_the_table_has_every_state_and_no_way_from_queued_to_completed() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert JobStatus.COMPLETED not in TRANSITIONS[JobStatus.QUEUED]
    assert {status for status in JobStatus if not TRANSITIONS[status]} == TERMINAL
    for status in set(JobStatus) - TERMINAL:
        assert JobStatus.CANCELED in TRANSITIONS[status]
