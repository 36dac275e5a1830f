"""A job's row to a Job and back, by hand and in a fixed column order: the hot path of every read and write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any

import orjson

from async_delivery.domain.errors import JobCorruptError
from async_delivery.domain.failure import Failure
from async_delivery.domain.job import (
    Job,
    JobStatus,
    Lease,
    Priority,
)
from async_delivery.storage.cells import (
    Row,
    instant,
    optional_instant,
    to_json_text,
    to_micros,
)

log = logging.getLogger("async_delivery.storage")

JOB_COLUMNS = (
    "job_id",
    "org_id",
    "correlation_id",
    "analysis",
    "analysis_version",
    "status",
    "priority",
    "labels",
    "timeout_seconds",
    "results_ttl_seconds",
    "ttl_requested",
    "max_attempts",
    "submitted_at",
    "queued_at",
    "updated_at",
    "retry_of",
    "traceparent",
    "progress_percent",
    "stage",
    "message",
    "partial_count",
    "error_count",
    "attempt",
    "result_id",
    "event_seq",
    "result_seq",
    "error_code",
    "error_message",
    "error_retryable",
    "due_at",
    "started_at",
    "finished_at",
    "lease_worker_id",
    "lease_token",
    "lease_expires_at",
    "cancel_requested_at",
    "canceled_at",
    "canceled_by",
    "cancel_reason",
    "held",
)


def to_job(row: Row) -> Job:
    """A row of JOB_COLUMNS. Raises JobCorruptError."""
    (
        job_id,
        org_id,
        correlation_id,
        analysis,
        analysis_version,
        status,
        priority,
        labels,
        timeout_seconds,
        results_ttl_seconds,
        ttl_requested,
        max_attempts,
        submitted_at,
        queued_at,
        updated_at,
        retry_of,
        traceparent,
        progress_percent,
        stage,
        message,
        partial_count,
        error_count,
        attempt,
        result_id,
        event_seq,
        result_seq,
        error_code,
        error_message,
        error_retryable,
        due_at,
        started_at,
        finished_at,
        lease_worker_id,
        lease_token,
        lease_expires_at,
        cancel_requested_at,
        canceled_at,
        canceled_by,
        cancel_reason,
        held,
    ) = row
    if status not in _STATUS or priority not in _PRIORITY:
        raise JobCorruptError(job_id, f"there is no status {status!r} with the priority {priority!r}")
    return Job(
        job_id=job_id,
        org_id=org_id,
        correlation_id=correlation_id,
        analysis=analysis,
        analysis_version=analysis_version,
        status=_STATUS[status],
        priority=_PRIORITY[priority],
        labels={} if labels == "{}" else orjson.loads(labels),
        timeout_seconds=timeout_seconds,
        results_ttl_seconds=results_ttl_seconds,
        ttl_requested=ttl_requested == 1,
        max_attempts=max_attempts,
        submitted_at=instant(submitted_at),
        queued_at=instant(queued_at),
        updated_at=instant(updated_at),
        retry_of=retry_of,
        traceparent=traceparent,
        progress_percent=progress_percent,
        stage=stage,
        message=message,
        partial_count=partial_count,
        error_count=error_count,
        attempt=attempt,
        result_id=result_id,
        event_seq=event_seq,
        result_seq=result_seq,
        error=None if error_code is None else Failure(error_code, error_message or "", error_retryable == 1),
        due_at=optional_instant(due_at),
        started_at=optional_instant(started_at),
        finished_at=optional_instant(finished_at),
        lease=(
            None if lease_token is None else Lease(lease_worker_id, lease_token, instant(lease_expires_at))
        ),
        cancel_requested_at=optional_instant(cancel_requested_at),
        canceled_at=optional_instant(canceled_at),
        canceled_by=canceled_by,
        cancel_reason=cancel_reason,
        held=held == 1,
    )


def to_jobs(found: Iterable[Row]) -> list[Job]:
    """The jobs of rows of JOB_COLUMNS. One that is damaged is left out and told of: it must not hide the others."""
    jobs = []
    for row in found:
        try:
            jobs.append(to_job(row))
        except JobCorruptError as exc:
            log.error("left out: %s", exc.message)
    return jobs


# A lookup is several times faster than calling the enum.
_STATUS: Mapping[str, JobStatus] = {str(status): status for status in JobStatus}
_PRIORITY: Mapping[int, Priority] = {int(priority): priority for priority in Priority}


Columns = dict[str, Any]


def _put_error(columns: Columns, error: Failure | None) -> None:
    columns["error_code"] = error.code if error else None
    columns["error_message"] = error.message if error else None
    columns["error_retryable"] = int(error.retryable) if error else None


def _put_lease(columns: Columns, lease: Lease | None) -> None:
    columns["lease_worker_id"] = lease.worker_id if lease else None
    columns["lease_token"] = lease.token if lease else None
    columns["lease_expires_at"] = to_micros(lease.expires_at) if lease else None


def _put_as_it_is(name: str) -> Callable[[Columns, Any], None]:
    def put(columns: Columns, value: Any) -> None:
        columns[name] = value

    return put


def _put_instant(name: str) -> Callable[[Columns, datetime | None], None]:
    def put(columns: Columns, at: datetime | None) -> None:
        columns[name] = None if at is None else to_micros(at)

    return put


def _put_status(columns: Columns, status: JobStatus) -> None:
    columns["status"] = status.value


# What a transition may change, and the columns it is kept in. ``held`` is not among them: a hold put on meanwhile must
# survive.
_MOVING: Mapping[str, Callable[[Columns, Any], None]] = {
    "status": _put_status,
    "lease": _put_lease,
    "error": _put_error,
    **{
        name: _put_instant(name)
        for name in (
            "queued_at",
            "updated_at",
            "due_at",
            "started_at",
            "finished_at",
            "cancel_requested_at",
            "canceled_at",
        )
    },
    **{
        name: _put_as_it_is(name)
        for name in (
            "progress_percent",
            "stage",
            "message",
            "partial_count",
            "error_count",
            "attempt",
            "result_id",
            "event_seq",
            "result_seq",
            "canceled_by",
            "cancel_reason",
        )
    },
}
_PUTS = tuple(_MOVING.values())
_READ = attrgetter(*_MOVING)


def moved_columns(job: Job, before: Job) -> Columns:
    """The columns in which ``job`` is not ``before`` any more."""
    columns: Columns = {}
    for put, now, was in zip(_PUTS, _READ(job), _READ(before), strict=True):
        if now is not was and now != was:
            put(columns, now)
    return columns


def new_job_columns(job: Job, place: int | None, events_kept: int) -> Columns:
    """All columns of a job that is entered."""
    columns: Columns = {}
    for put, value in zip(_PUTS, _READ(job), strict=True):
        put(columns, value)
    columns.update(
        job_id=job.job_id,
        org_id=job.org_id,
        correlation_id=job.correlation_id,
        analysis=job.analysis,
        analysis_version=job.analysis_version,
        priority=int(job.priority),
        labels=to_json_text(dict(job.labels)) if job.labels else "{}",
        timeout_seconds=job.timeout_seconds,
        results_ttl_seconds=job.results_ttl_seconds,
        ttl_requested=int(job.ttl_requested),
        max_attempts=job.max_attempts,
        submitted_at=to_micros(job.submitted_at),
        retry_of=job.retry_of,
        traceparent=job.traceparent,
        held=int(job.held),
        place=place,
        results_kept=0,
        events_kept=events_kept,
    )
    return columns
