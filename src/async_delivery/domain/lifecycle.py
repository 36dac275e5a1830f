"""The machine of a job: which transition is allowed, and everything that follows from it.

Each verb is pure and returns a ``Change``: the job after it, its events, results and notifications, and what
became of the attempt. The engine saves a Change whole, in one transaction, so an event or a notification can
neither be forgotten nor invented. The fence is a rule here: a worker's write must carry the attempt and the
lease token that the job has *now*, or LeaseLostError refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import isnan
from typing import Any

from async_delivery.domain import notification as notifications
from async_delivery.domain.errors import ConflictError, LeaseLostError
from async_delivery.domain.event import ActorType, Event, EventType
from async_delivery.domain.failure import Failure, FailureCode, failure
from async_delivery.domain.instant import format_instant
from async_delivery.domain.job import (
    ACTIVE,
    Attempt,
    AttemptOutcome,
    Fence,
    Job,
    JobRequest,
    JobStatus,
    Lease,
    ResultId,
    amend,
    evolve,
)
from async_delivery.domain.notification import Notification
from async_delivery.domain.result import NewResult, Result, ResultKind, SealedBody
from async_delivery.domain.retry import crash_delay_seconds, delay_seconds
from async_delivery.domain.text import storable

NewId = Callable[[], str]

# After this many starts a job fails even if no attempt was its own fault: something kills every host it visits.
MAX_STARTS = 10

_S = JobStatus
TRANSITIONS: Mapping[JobStatus, Mapping[JobStatus, str]] = {
    _S.QUEUED: {_S.RUNNING: "claim", _S.CANCELED: "cancel"},
    _S.RUNNING: {
        _S.PARTIAL: "publish_partial",
        _S.COMPLETED: "complete",
        _S.FAILED: "fail",
        _S.CANCELED: "confirm_cancel",
        _S.QUEUED: "fail (to be retried), release or rescue",
    },
    _S.PARTIAL: {
        _S.PARTIAL: "publish_partial",
        _S.COMPLETED: "complete",
        _S.FAILED: "fail",
        _S.CANCELED: "confirm_cancel",
        _S.QUEUED: "fail (to be retried), release or rescue",
    },
    _S.COMPLETED: {},
    _S.FAILED: {},
    _S.CANCELED: {},
}


@dataclass(frozen=True, slots=True)
class Change:
    """All that one transition writes.

    job       the job as it is to be
    before    the job as it was read; None for a new one. The store refuses the Change if it has moved since
    request   only for a new job
    attempt   the attempt row to be written (started, or ended)
    """

    job: Job
    before: Job | None
    events: tuple[Event, ...] = ()
    results: tuple[NewResult, ...] = ()
    notifications: tuple[Notification, ...] = ()
    request: JobRequest | None = None
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How failed attempts of one analysis are spaced, in seconds. ``jitter`` is a fresh sample from [0, 1)."""

    jitter: float
    base_seconds: float = 2.0
    cap_seconds: float = 3600.0


@dataclass(slots=True)
class _Draft:
    """Collects what follows from one transition, numbering events on the way.

    job   as it is so far: a copy that is changed in place until it is handed out
    """

    job: Job
    before: Job | None
    now: datetime
    new_id: NewId
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.job = evolve(self.job)

    def move(self, status: JobStatus, **changes: Any) -> None:
        if status is not self.job.status and status not in TRANSITIONS[self.job.status]:
            raise ConflictError(f"job {self.job.job_id} is {self.job.status} and cannot become {status}")
        changes["status"], changes["updated_at"] = status, self.now
        amend(self.job, changes)

    def say(self, event_type: EventType, actor: ActorType, **payload: Any) -> None:
        seq = self.job.event_seq + 1
        amend(self.job, {"event_seq": seq})
        self.events.append(
            Event(
                event_id=self.new_id(),
                org_id=self.job.org_id,
                job_id=self.job.job_id,
                event_seq=seq,
                event_type=event_type,
                occurred_at=self.now,
                actor_type=actor,
                payload=payload,
            )
        )

    def done(
        self,
        *,
        attempt: Attempt | None = None,
        results: tuple[NewResult, ...] = (),
        request: JobRequest | None = None,
    ) -> Change:
        ended = self.job.status.terminal and not (self.before and self.before.status.terminal)
        told = (notifications.in_app(self.job, self.now, self.new_id),) if ended else ()
        return Change(
            job=self.job,
            before=self.before,
            events=tuple(self.events),
            results=results,
            notifications=told,
            request=request,
            attempt=attempt,
        )


def submit(job: Job, request: JobRequest, new_id: NewId) -> Change:
    """Accept a job. ``job`` is fresh: queued, no events, no attempt."""
    payload = {} if job.retry_of is None else {"retry_of": job.retry_of}
    queued = Event(
        new_id(), job.org_id, job.job_id, 1, EventType.QUEUED, job.submitted_at, ActorType.TENANT, payload
    )
    return Change(evolve(job, event_seq=1), None, (queued,), request=request)


def claim(
    job: Job, worker_id: str, lease_token: str, lease_seconds: float, now: datetime, new_id: NewId
) -> Change:
    """Start the next attempt of a queued job. Raises ConflictError if it is not queued."""
    draft = _Draft(job, job, now, new_id)
    if job.status is not JobStatus.QUEUED:
        raise ConflictError(f"job {job.job_id} is {job.status}, not queued")
    number = job.attempt + 1
    draft.move(
        JobStatus.RUNNING,
        attempt=number,
        lease=Lease(worker_id, lease_token, now + timedelta(seconds=lease_seconds)),
        started_at=job.started_at or now,
        due_at=None,
    )
    draft.say(EventType.RUNNING, ActorType.WORKER, attempt=number, worker_id=worker_id)
    return draft.done(attempt=Attempt(job.job_id, job.org_id, number, worker_id, now))


def _guard(job: Job, fence: Fence) -> None:
    if job.status not in ACTIVE or job.fence != fence:
        raise LeaseLostError(job.job_id, fence.attempt)


def _ended(job: Job, outcome: AttemptOutcome, now: datetime, error_code: str | None = None) -> Attempt:
    worker_id = job.lease.worker_id if job.lease else ""
    # The store keeps the start of the attempt; the row is found by its number.
    return Attempt(job.job_id, job.org_id, job.attempt, worker_id, now, now, outcome, error_code)


def _percent(job: Job, percent: float | None) -> float:
    """The job's progress after a report: rounded, within 0..100, and never below what was shown before."""
    if percent is None or isnan(percent):
        return job.progress_percent
    return max(job.progress_percent, round(min(100.0, max(0.0, percent)), 1))


def _reported(job: Job, percent: float | None, stage: str | None, message: str | None) -> dict[str, Any]:
    """The fields that a report sets. A message belongs to its stage and goes with it."""
    stage, message = stage and storable(stage), message and storable(message)
    if message is None and stage in (None, job.stage):
        message = job.message
    return {"progress_percent": _percent(job, percent), "stage": stage or job.stage, "message": message}


def progress(
    job: Job,
    fence: Fence,
    percent: float | None,
    stage: str | None,
    message: str | None,
    now: datetime,
    new_id: NewId,
) -> Change | None:
    """Take over what the analysis says of itself. None if nothing changed. Raises LeaseLostError."""
    _guard(job, fence)
    after = _reported(job, percent, stage, message)
    if all(getattr(job, name) == value for name, value in after.items()):
        return None
    draft = _Draft(job, job, now, new_id)
    draft.move(job.status, **after)
    draft.say(
        EventType.PROGRESS,
        ActorType.WORKER,
        progress_percent=draft.job.progress_percent,
        stage=draft.job.stage,
        attempt=job.attempt,
    )
    return draft.done()


def _snapshot(job: Job, kind: ResultKind, body: SealedBody, now: datetime, new_id: NewId) -> NewResult:
    result = Result(
        result_id=ResultId(new_id()),
        org_id=job.org_id,
        job_id=job.job_id,
        result_kind=kind,
        result_seq=job.result_seq + 1,
        attempt=job.attempt,
        created_at=now,
        expires_at=now + timedelta(seconds=job.results_ttl_seconds),
        size_bytes=len(body.data),
        sha256=body.sha256,
    )
    return NewResult(result, body)


def publish_partial(
    job: Job,
    fence: Fence,
    body: SealedBody,
    now: datetime,
    new_id: NewId,
    *,
    percent: float | None = None,
    stage: str | None = None,
    message: str | None = None,
) -> Change:
    """Keep a partial result for readers. Raises LeaseLostError."""
    _guard(job, fence)
    draft = _Draft(job, job, now, new_id)
    kept = _snapshot(job, ResultKind.PARTIAL, body, now, new_id)
    draft.move(
        JobStatus.PARTIAL,
        result_id=kept.result.result_id,
        result_seq=kept.result.result_seq,
        partial_count=job.partial_count + 1,
        **_reported(job, percent, stage, message),
    )
    draft.say(
        EventType.PARTIAL,
        ActorType.WORKER,
        result_id=kept.result.result_id,
        result_seq=kept.result.result_seq,
        progress_percent=draft.job.progress_percent,
        attempt=job.attempt,
    )
    return draft.done(results=(kept,))


def complete(job: Job, fence: Fence, body: SealedBody, now: datetime, new_id: NewId) -> Change:
    """End a job with its final result. Raises LeaseLostError.

    A cancel request that has not been carried out by then comes too late: the work is done and is delivered.
    """
    _guard(job, fence)
    draft = _Draft(job, job, now, new_id)
    kept = _snapshot(job, ResultKind.FINAL, body, now, new_id)
    draft.move(
        JobStatus.COMPLETED,
        result_id=kept.result.result_id,
        result_seq=kept.result.result_seq,
        progress_percent=100.0,
        finished_at=now,
        lease=None,
        error=None,
    )
    draft.say(EventType.COMPLETED, ActorType.WORKER, result_id=kept.result.result_id, attempt=job.attempt)
    return draft.done(attempt=_ended(job, AttemptOutcome.COMPLETED, now), results=(kept,))


def fail(
    job: Job,
    fence: Fence,
    reason: Failure,
    now: datetime,
    new_id: NewId,
    *,
    rule: RetryRule,
    again: bool,
    crashed: bool = False,
    retry_after_seconds: float | None = None,
) -> Change:
    """End the current attempt with ``reason``, and the job with it unless it is tried ``again``.

    again                 whether this kind of failure is retried by itself, up to the job's max_attempts
    crashed               the child died by itself: the first such death is retried at once
    retry_after_seconds   the analysis's own word on when
    Raises LeaseLostError.
    """
    _guard(job, fence)
    draft = _Draft(job, job, now, new_id)
    errors = job.error_count + 1
    ended = _ended(job, AttemptOutcome.FAILED, now, reason.code)
    if job.cancel_requested_at is not None:
        return _cancel_active(draft, ended, errors)
    if again and errors < job.max_attempts and job.attempt < MAX_STARTS:
        delay = crash_delay_seconds if crashed else delay_seconds
        seconds = (
            retry_after_seconds
            if retry_after_seconds is not None
            else delay(errors, rule.jitter, base=rule.base_seconds, cap=rule.cap_seconds)
        )
        draft.move(job.status, error_count=errors, error=reason)
        draft.say(
            EventType.ATTEMPT_FAILED,
            ActorType.WORKER,
            attempt=job.attempt,
            error_code=reason.code,
            error_message=reason.message,
        )
        _requeue(draft, "retry", seconds)
        return draft.done(attempt=ended)
    draft.move(JobStatus.FAILED, error_count=errors, error=reason, finished_at=now, lease=None)
    draft.say(
        EventType.FAILED,
        ActorType.WORKER,
        attempt=job.attempt,
        error_code=reason.code,
        error_message=reason.message,
        retryable=reason.retryable,
    )
    return draft.done(attempt=ended)


def _requeue(draft: _Draft, reason: str, seconds: float) -> None:
    due_at = draft.now + timedelta(seconds=seconds) if seconds > 0 else None
    draft.move(JobStatus.QUEUED, lease=None, queued_at=draft.now, due_at=due_at)
    draft.say(
        EventType.REQUEUED,
        ActorType.SYSTEM,
        reason=reason,
        attempt=draft.job.attempt,
        due_at=format_instant(due_at) if due_at else None,
    )


def release(job: Job, fence: Fence, now: datetime, new_id: NewId, *, begun: bool = True) -> Change:
    """Give a job back because its worker shuts down, or has not ``begun`` it and cannot soon.

    The attempt costs nothing. Raises LeaseLostError.
    """
    _guard(job, fence)
    return _give_back(job, AttemptOutcome.RELEASED, "drained" if begun else "not_begun", now, new_id)


def lose(job: Job, fence: Fence, now: datetime, new_id: NewId) -> Change:
    """Take a job back from a machine that is gone, told by the worker that watched it; the attempt costs nothing.

    Raises LeaseLostError.
    """
    _guard(job, fence)
    return _give_back(job, AttemptOutcome.LOST, "worker_lost", now, new_id)


def rescue(job: Job, now: datetime, new_id: NewId) -> Change:
    """Take a job back from a worker that is gone; the attempt costs nothing.

    The caller has established that the lease is over. Raises ConflictError if nobody runs the job.
    """
    if job.status not in ACTIVE:
        raise ConflictError(f"job {job.job_id} is {job.status}: there is nothing to rescue")
    return _give_back(job, AttemptOutcome.LOST, "worker_lost", now, new_id)


def _give_back(job: Job, outcome: AttemptOutcome, reason: str, now: datetime, new_id: NewId) -> Change:
    draft = _Draft(job, job, now, new_id)
    ended = _ended(job, outcome, now)
    if outcome is AttemptOutcome.LOST:
        draft.say(EventType.ATTEMPT_LOST, ActorType.SYSTEM, attempt=job.attempt, worker_id=ended.worker_id)
    if job.cancel_requested_at is not None:
        return _cancel_active(draft, ended, job.error_count)
    if job.attempt >= MAX_STARTS:
        lost = failure(
            FailureCode.WORKER_LOST,
            f"started {job.attempt} times and each worker was lost or shut down before it ended",
            retryable=True,
        )
        draft.move(JobStatus.FAILED, error=lost, finished_at=now, lease=None)
        draft.say(
            EventType.FAILED,
            ActorType.SYSTEM,
            attempt=job.attempt,
            error_code=lost.code,
            error_message=lost.message,
            retryable=True,
        )
    else:
        _requeue(draft, reason, 0.0)
    return draft.done(attempt=ended)


def request_cancel(job: Job, by: str, reason: str | None, now: datetime, new_id: NewId) -> Change | None:
    """Cancel a queued job at once; ask the worker of a running one. None if there is nothing to do any more."""
    if job.status.terminal or job.cancel_requested_at is not None:
        return None
    draft = _Draft(job, job, now, new_id)
    if job.status is JobStatus.QUEUED:
        draft.move(
            JobStatus.CANCELED,
            cancel_requested_at=now,
            canceled_at=now,
            canceled_by=by,
            cancel_reason=reason,
            finished_at=now,
            due_at=None,
        )
        draft.say(EventType.CANCELED, ActorType.TENANT, canceled_by=by, reason=reason)
    else:
        draft.move(job.status, cancel_requested_at=now, canceled_by=by, cancel_reason=reason)
        draft.say(EventType.CANCEL_REQUESTED, ActorType.TENANT, canceled_by=by, reason=reason)
    return draft.done()


def confirm_cancel(job: Job, fence: Fence, now: datetime, new_id: NewId) -> Change:
    """End a job whose attempt has been stopped after a cancel request. Raises LeaseLostError, ConflictError."""
    _guard(job, fence)
    if job.cancel_requested_at is None:
        raise ConflictError(f"nobody asked to cancel job {job.job_id}")
    draft = _Draft(job, job, now, new_id)
    return _cancel_active(draft, _ended(job, AttemptOutcome.CANCELED, now), job.error_count)


def _cancel_active(draft: _Draft, ended: Attempt, errors: int) -> Change:
    """A running job that was asked to stop ends as canceled, whichever way its attempt stopped."""
    draft.move(
        JobStatus.CANCELED,
        canceled_at=draft.now,
        finished_at=draft.now,
        lease=None,
        error=None,
        error_count=errors,
    )
    draft.say(
        EventType.CANCELED,
        ActorType.WORKER,
        canceled_by=draft.job.canceled_by,
        reason=draft.job.cancel_reason,
        attempt=draft.job.attempt,
    )
    return draft.done(attempt=replace(ended, outcome=AttemptOutcome.CANCELED, error_code=None))
