"""What the server answers, as frozen values; what it adds later stays readable in ``raw``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from async_delivery.domain.job import JobStatus


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the server showed it. Instants are RFC 3339 text. ``etag`` names this state of it."""

    job_id: str
    analysis: str
    status: JobStatus
    progress_percent: float
    stage: str | None
    message: str | None
    partial_count: int
    attempt: int
    result_id: str | None
    error_code: str | None
    error_message: str | None
    retry_hint: str | None
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    eta_seconds: float | None
    labels: Mapping[str, str]
    raw: Mapping[str, Any] = field(repr=False)
    etag: str | None = None

    @property
    def terminal(self) -> bool:
        """True once the job can change no more."""
        return self.status.terminal


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submission led to. ``replayed``: the job was there already, by its Idempotency-Key."""

    job: Job
    replayed: bool
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Event:
    """One fact about a job, numbered from 1 without gaps."""

    event_seq: int
    event_type: str
    occurred_at: str
    payload: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """A snapshot as the permalink answers it. ``body`` are the bytes of the whole answer."""

    result_id: str
    job_id: str
    result_kind: str
    is_final: bool
    result: Any
    raw: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first; ``next_cursor`` leads to older ones."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


# Each of these raises KeyError, TypeError or ValueError for JSON of another form.


def job_from(raw: Mapping[str, Any], etag: str | None = None) -> Job:
    """The job of an answer's JSON."""
    return Job(
        job_id=raw["job_id"],
        analysis=raw["analysis"],
        status=JobStatus(raw["status"]),
        progress_percent=raw["progress_percent"],
        stage=raw.get("stage"),
        message=raw.get("message"),
        partial_count=raw.get("partial_count", 0),
        attempt=raw.get("attempt", 0),
        result_id=raw.get("result_id"),
        error_code=raw.get("error_code"),
        error_message=raw.get("error_message"),
        retry_hint=raw.get("retry_hint"),
        queued_at=raw.get("queued_at"),
        started_at=raw.get("started_at"),
        finished_at=raw.get("finished_at"),
        eta_seconds=raw.get("eta_seconds"),
        labels=raw.get("labels") or {},
        raw=raw,
        etag=etag,
    )


def events_from(body: Mapping[str, Any]) -> list[Event]:
    """The events of a page."""
    return [
        Event(each["event_seq"], each["event_type"], each["occurred_at"], each["payload_json"], each)
        for each in body["events"]
    ]


def result_from(body: Mapping[str, Any], content: bytes) -> Result:
    """The snapshot of a permalink's answer, whose bytes are ``content``."""
    return Result(
        result_id=body["result_id"],
        job_id=body["job_id"],
        result_kind=body["result_kind"],
        is_final=body["is_final"],
        result=body["result"],
        raw=body,
        body=content,
    )
