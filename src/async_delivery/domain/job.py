"""A job (what a tenant wants) and its attempts (executions of it), as values.

What may happen to a job is decided in ``domain.lifecycle``; these classes only say what a job *is*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import IntEnum, StrEnum
from operator import attrgetter
from typing import Any, NewType

from async_delivery.domain.failure import Failure
from async_delivery.domain.tenant import OrgId

JobId = NewType("JobId", str)
ResultId = NewType("ResultId", str)


class JobStatus(StrEnum):
    """Where a job stands. The last three are terminal and immutable."""

    QUEUED = "queued"
    RUNNING = "running"
    PARTIAL = "partial"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def terminal(self) -> bool:
        """True for completed, failed and canceled."""
        return self in _TERMINAL


# A member of a small tuple is found by identity; in a set, by a hash that takes a call of Python.
_TERMINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED)
TERMINAL = frozenset(_TERMINAL)
ACTIVE = frozenset({JobStatus.RUNNING, JobStatus.PARTIAL})


class Priority(IntEnum):
    """Order within one tenant's own share; it never moves a tenant ahead of another."""

    EXPEDITE = 0
    DEFAULT = 1


@dataclass(frozen=True, slots=True)
class Fence:
    """What every write of a worker must carry: which attempt it speaks for, and the token of that attempt's lease."""

    attempt: int
    lease_token: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Who runs the job now, and until when that holds unless it is renewed."""

    worker_id: str
    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What was asked for, as it was accepted; never changed, and carried over by a retry.

    query         the subject in one string; its meaning is the analysis's business
    params_json   canonical JSON object, valid against the analysis's schema when it was accepted
    fingerprint   SHA-256 (hex) over everything that makes two requests the same, for Idempotency-Key
    input_id      the uploaded file in the store's input tables, if one came with the request
    """

    query: str | None
    params_json: bytes
    fingerprint: str
    input_id: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One job. Instants are aware UTC.

    job_id, org_id             set at submit; every query for a tenant carries both
    correlation_id             set at submit; joins this job to the caller's logs
    analysis, analysis_version set at submit from the catalogue
    status                     moved by the lifecycle alone
    priority                   set at submit
    labels                     set at submit, at most 16, for filters
    timeout_seconds            set at submit; bounds each attempt
    results_ttl_seconds        how long results are kept after they are made; the tenant's wish or the server's default
    ttl_requested              True if the tenant asked for that TTL, which a cleanup then honours over its own
    max_attempts               failed attempts after which the job fails
    retry_of                   the job this one repeats
    traceparent                W3C trace context of the submitting request, if it sent one
    progress_percent           0..100, never falls, also across attempts
    stage, message             the analysis's latest words
    partial_count              partial results so far, over all attempts
    error_count                attempts that ended in an error; lost and drained attempts do not count
    attempt                    number of the latest start, counted at claim; 0 before the first
    result_id                  the final result, else the newest partial
    event_seq, result_seq      the last number given out, without gaps / strictly rising
    error                      why the latest attempt failed; final once status is failed
    queued_at                  since when it waits for a worker: set at submit and whenever the job goes back to the
                               queue; after a delay, the end of the delay
    submitted_at               set at submit, never changed
    due_at                     not to be claimed before; None means at once
    started_at                 start of the first attempt
    finished_at                set with a terminal status
    updated_at                 last transition or progress
    lease                      set by claim, renewed by heartbeat, gone in every other state than running and partial
    cancel_requested_at        set once, when a cancel reached a running attempt
    canceled_at, canceled_by, cancel_reason   set by cancel
    held                       under legal hold: neither cleanup nor erase touches it
    """

    job_id: JobId
    org_id: OrgId
    correlation_id: str
    analysis: str
    analysis_version: str
    status: JobStatus
    priority: Priority
    labels: Mapping[str, str]
    timeout_seconds: float
    results_ttl_seconds: int
    ttl_requested: bool
    max_attempts: int
    submitted_at: datetime
    queued_at: datetime
    updated_at: datetime
    retry_of: JobId | None = None
    traceparent: str | None = None
    progress_percent: float = 0.0
    stage: str | None = None
    message: str | None = None
    partial_count: int = 0
    error_count: int = 0
    attempt: int = 0
    result_id: ResultId | None = None
    event_seq: int = 0
    result_seq: int = 0
    error: Failure | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lease: Lease | None = None
    cancel_requested_at: datetime | None = None
    canceled_at: datetime | None = None
    canceled_by: str | None = None
    cancel_reason: str | None = None
    held: bool = False

    @property
    def fence(self) -> Fence | None:
        """What the owner of the current lease must show; None when nobody owns one."""
        return Fence(self.attempt, self.lease.token) if self.lease else None


_NAMES = tuple(field.name for field in fields(Job))
_READ = attrgetter(*_NAMES)
_SET: Mapping[str, Callable[[Job, Any], None]] = {name: vars(Job)[name].__set__ for name in _NAMES}
_SETTERS = tuple(_SET.values())


def evolve(job: Job, **changes: Any) -> Job:
    """``job`` with ``changes``: what ``dataclasses.replace`` does, in less than half its time. Each job takes three
    such steps, most of them on the one thread that writes. Raises KeyError for what is no field."""
    made = object.__new__(Job)
    for put, value in zip(_SETTERS, _READ(job), strict=True):
        put(made, value)
    amend(made, changes)
    return made


def amend(job: Job, changes: Mapping[str, Any]) -> None:
    """Change ``job`` itself, which nobody else may have seen yet. Raises KeyError for what is no field."""
    for name, value in changes.items():
        _SET[name](job, value)


class AttemptOutcome(StrEnum):
    """How an attempt ended. ``lost`` and ``released`` cost the job nothing."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    LOST = "lost"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a job. Written at claim, and once more when it ends.

    worker_id    random per start of a worker process, never a host name
    outcome      None while it runs
    error_code   set with outcome failed
    """

    job_id: JobId
    org_id: OrgId
    attempt: int
    worker_id: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    error_code: str | None = None
