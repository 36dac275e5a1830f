"""Random verbs in random order, by rightful and stale workers: the invariants of the contract hold throughout."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import ConflictError, LeaseLostError
from async_delivery.domain.event import Event
from async_delivery.domain.failure import failure
from async_delivery.domain.job import ACTIVE, Fence, JobStatus
from async_delivery.domain.lifecycle import MAX_STARTS, TRANSITIONS, Change, RetryRule
from async_delivery.domain.notification import Notification
from async_delivery.domain.result import Result, seal
from tests.domain.support import NOON, REQUEST, fresh_job, ids

BODY = seal([1, 2, 3])


class JobMachine(RuleBasedStateMachine):
    """One job, and everything ever written about it."""

    def __init__(self) -> None:
        super().__init__()
        self.new_id = ids()
        self.now = NOON
        self.events: list[Event] = []
        self.results: list[Result] = []
        self.told: list[Notification] = []
        self.fences: list[Fence] = [Fence(99, "never given out")]
        self.job = fresh_job()
        self.shown = 0.0
        self.take(lifecycle.submit(self.job, REQUEST, self.new_id))

    def take(self, change: Change) -> None:
        before = self.job
        if change.before is not None:
            moved = before.status is not change.job.status
            assert not moved or change.job.status in TRANSITIONS[before.status]
            assert not before.status.terminal
        self.job = change.job
        self.events.extend(change.events)
        self.results.extend(new.result for new in change.results)
        self.told.extend(change.notifications)

    @rule(seconds=st.integers(min_value=-3600, max_value=86400))
    def time_moves_even_backwards(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def claim(self) -> None:
        queued = self.job.status is JobStatus.QUEUED
        try:
            self.take(lifecycle.claim(self.job, "w", self.new_id(), 30.0, self.now, self.new_id))
        except ConflictError:
            assert not queued
        else:
            assert queued
            assert self.job.fence is not None
            self.fences.append(self.job.fence)

    @rule(
        data=st.data(),
        verb=st.sampled_from(["progress", "partial", "complete", "fail", "release", "lose", "confirm"]),
    )
    def worker_writes(self, data: st.DataObject, verb: str) -> None:
        fence = data.draw(st.sampled_from(self.fences))
        rightful = self.job.status in ACTIVE and self.job.fence == fence
        try:
            change = self.written(data, verb, fence)
        except LeaseLostError:
            assert not rightful
        except ConflictError:
            assert verb == "confirm"
            assert self.job.cancel_requested_at is None
        else:
            assert rightful
            if change is not None:
                self.take(change)

    def written(self, data: st.DataObject, verb: str, fence: Fence) -> Change | None:
        job, now, new_id = self.job, self.now, self.new_id
        percent = data.draw(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)))
        match verb:
            case "progress":
                return lifecycle.progress(job, fence, percent, None, None, now, new_id)
            case "partial":
                return lifecycle.publish_partial(job, fence, BODY, now, new_id, percent=percent)
            case "complete":
                return lifecycle.complete(job, fence, BODY, now, new_id)
            case "release":
                return lifecycle.release(job, fence, now, new_id)
            case "lose":
                return lifecycle.lose(job, fence, now, new_id)
            case "confirm":
                return lifecycle.confirm_cancel(job, fence, now, new_id)
        return lifecycle.fail(
            job,
            fence,
            failure("analysis_error", "no", retryable=True),
            now,
            new_id,
            rule=RetryRule(data.draw(st.floats(0, 0.999))),
            again=data.draw(st.booleans()),
            crashed=data.draw(st.booleans()),
        )

    @rule()
    def rescue(self) -> None:
        if self.job.status in ACTIVE:
            self.take(lifecycle.rescue(self.job, self.now, self.new_id))

    @rule()
    def cancel(self) -> None:
        change = lifecycle.request_cancel(self.job, "tenant", None, self.now, self.new_id)
        if change is not None:
            self.take(change)

    @invariant()
    def events_are_numbered_without_gaps(self) -> None:
        assert [event.event_seq for event in self.events] == list(range(1, self.job.event_seq + 1))

    @invariant()
    def progress_never_falls(self) -> None:
        assert self.shown <= self.job.progress_percent <= 100.0
        self.shown = self.job.progress_percent

    @invariant()
    def results_rise_and_at_most_one_is_final(self) -> None:
        seqs = [result.result_seq for result in self.results]
        assert seqs == sorted(set(seqs))
        assert sum(result.is_final for result in self.results) == (self.job.status is JobStatus.COMPLETED)
        assert self.job.result_id == (self.results[-1].result_id if self.results else None)

    @invariant()
    def the_end_is_told_exactly_once(self) -> None:
        expected = [f"async.job.{self.job.status}"] if self.job.status.terminal else []
        assert [one.template_key for one in self.told] == expected

    @invariant()
    def a_lease_is_there_exactly_while_it_runs(self) -> None:
        assert (self.job.lease is not None) == (self.job.status in ACTIVE)
        assert (self.job.finished_at is not None) == self.job.status.terminal
        assert self.job.attempt <= MAX_STARTS
        assert self.job.error_count <= self.job.max_attempts


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
