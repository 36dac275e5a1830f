"""Rows to values and back, by hand and in a fixed column order: this is the hot path of every read and write.

An instant that is missing or not valid in a row never stops a reader: it shows as EPOCH where a value must have
one, as None where it may lack it. No SQL lives here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.event import ActorType, Event, EventType
from async_delivery.domain.failure import Failure
from async_delivery.domain.job import (
    Attempt,
    AttemptOutcome,
    Job,
    JobId,
    JobRequest,
    JobStatus,
    Lease,
    Priority,
    ResultId,
)
from async_delivery.domain.notification import Channel, DeliveryStatus, Notification
from async_delivery.domain.result import Result, ResultKind
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import IdempotencyRecord, InputFile

Row = Sequence[Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR_FUTURE = datetime(9999, 12, 31, tzinfo=UTC)
# The years 1 to 9999: what a datetime can hold.
MIN_INSTANT = -62_135_596_800_000_000
MAX_INSTANT = 253_402_300_799_999_999


def to_micros(at: datetime) -> int:
    """Microseconds since 1970 of an aware instant."""
    span = at - EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def optional_micros(at: datetime | None) -> int | None:
    """``to_micros``, or None for None."""
    return None if at is None else to_micros(at)


def optional_instant(value: Any) -> datetime | None:
    """The instant of a column; None where it is missing or not valid."""
    if type(value) is not int or not MIN_INSTANT <= value <= MAX_INSTANT:
        return None
    return EPOCH + timedelta(microseconds=value)


def instant(value: Any) -> datetime:
    """The instant of a column that every value has; EPOCH where the row lacks it."""
    return optional_instant(value) or EPOCH


def to_json_text(value: Any) -> str:
    """Canonical JSON as the text columns keep it."""
    return canonical_json(value).decode()


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
    """A row of JOB_COLUMNS."""
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


# A lookup is several times faster than calling the enum.
_STATUS: Mapping[str, JobStatus] = {str(status): status for status in JobStatus}
_PRIORITY: Mapping[int, Priority] = {int(priority): priority for priority in Priority}


def moving_columns(job: Job, place: int | None, results_kept: int) -> dict[str, Any]:
    """The columns a transition may change. ``held`` is not among them: a hold put on meanwhile must survive."""
    error, lease = job.error, job.lease
    return {
        "status": job.status.value,
        "queued_at": to_micros(job.queued_at),
        "updated_at": to_micros(job.updated_at),
        "progress_percent": job.progress_percent,
        "stage": job.stage,
        "message": job.message,
        "partial_count": job.partial_count,
        "error_count": job.error_count,
        "attempt": job.attempt,
        "result_id": job.result_id,
        "event_seq": job.event_seq,
        "result_seq": job.result_seq,
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "error_retryable": int(error.retryable) if error else None,
        "due_at": optional_micros(job.due_at),
        "started_at": optional_micros(job.started_at),
        "finished_at": optional_micros(job.finished_at),
        "lease_worker_id": lease.worker_id if lease else None,
        "lease_token": lease.token if lease else None,
        "lease_expires_at": to_micros(lease.expires_at) if lease else None,
        "cancel_requested_at": optional_micros(job.cancel_requested_at),
        "canceled_at": optional_micros(job.canceled_at),
        "canceled_by": job.canceled_by,
        "cancel_reason": job.cancel_reason,
        "place": place,
        "results_kept": results_kept,
    }


def new_job_columns(job: Job, place: int | None, events_kept: int) -> dict[str, Any]:
    """All columns of a job that is entered."""
    columns = moving_columns(job, place, results_kept=0)
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
        events_kept=events_kept,
    )
    return columns


REQUEST_COLUMNS = ("query", "params_json", "fingerprint", "input_id")


def to_request(row: Row) -> JobRequest:
    """A row of REQUEST_COLUMNS."""
    query, params_json, fingerprint, input_id = row
    return JobRequest(query, bytes(params_json), fingerprint, input_id)


EVENT_COLUMNS = (
    "event_id",
    "org_id",
    "job_id",
    "event_seq",
    "event_type",
    "occurred_at",
    "actor_type",
    "payload",
)


def to_event(row: Row) -> Event:
    """A row of EVENT_COLUMNS."""
    event_id, org_id, job_id, event_seq, event_type, occurred_at, actor_type, payload = row
    return Event(
        event_id=event_id,
        org_id=org_id,
        job_id=job_id,
        event_seq=event_seq,
        event_type=EventType(event_type),
        occurred_at=instant(occurred_at),
        actor_type=ActorType(actor_type),
        payload=orjson.loads(payload),
    )


def event_columns(event: Event) -> dict[str, Any]:
    """The row of an event."""
    return {
        "event_id": event.event_id,
        "org_id": event.org_id,
        "job_id": event.job_id,
        "event_seq": event.event_seq,
        "event_type": event.event_type.value,
        "occurred_at": to_micros(event.occurred_at),
        "actor_type": event.actor_type.value,
        "payload": to_json_text(dict(event.payload)) if event.payload else "{}",
    }


ATTEMPT_COLUMNS = (
    "job_id",
    "org_id",
    "attempt",
    "worker_id",
    "started_at",
    "ended_at",
    "outcome",
    "error_code",
)


def to_attempt(row: Row) -> Attempt:
    """A row of ATTEMPT_COLUMNS."""
    job_id, org_id, attempt, worker_id, started_at, ended_at, outcome, error_code = row
    return Attempt(
        job_id=job_id,
        org_id=org_id,
        attempt=attempt,
        worker_id=worker_id,
        started_at=instant(started_at),
        ended_at=optional_instant(ended_at),
        outcome=None if outcome is None else AttemptOutcome(outcome),
        error_code=error_code,
    )


def attempt_columns(attempt: Attempt, analysis: str) -> dict[str, Any]:
    """The row of an attempt, with its job's analysis."""
    return {
        "job_id": attempt.job_id,
        "attempt": attempt.attempt,
        "org_id": attempt.org_id,
        "analysis": analysis,
        "worker_id": attempt.worker_id,
        "started_at": to_micros(attempt.started_at),
        "ended_at": optional_micros(attempt.ended_at),
        "outcome": attempt.outcome.value if attempt.outcome else None,
        "error_code": attempt.error_code,
    }


RESULT_COLUMNS = (
    "result_id",
    "org_id",
    "job_id",
    "result_kind",
    "result_seq",
    "attempt",
    "created_at",
    "expires_at",
    "size_bytes",
    "sha256",
    "deleted_at",
)


def to_result(row: Row) -> Result:
    """A row that begins with RESULT_COLUMNS. Without a valid expiry a result is kept, so it does not expire."""
    return Result(
        result_id=ResultId(row[0]),
        org_id=OrgId(row[1]),
        job_id=JobId(row[2]),
        result_kind=ResultKind.FINAL if row[3] == "final" else ResultKind.PARTIAL,
        result_seq=row[4],
        attempt=row[5],
        created_at=instant(row[6]),
        expires_at=optional_instant(row[7]) or FAR_FUTURE,
        size_bytes=row[8],
        sha256=row[9],
        deleted_at=optional_instant(row[10]),
    )


def result_columns(result: Result) -> dict[str, Any]:
    """The row of a result, without its key."""
    return {
        "result_id": result.result_id,
        "org_id": result.org_id,
        "job_id": result.job_id,
        "result_kind": result.result_kind.value,
        "result_seq": result.result_seq,
        "attempt": result.attempt,
        "created_at": to_micros(result.created_at),
        "expires_at": to_micros(result.expires_at),
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
        "deleted_at": optional_micros(result.deleted_at),
    }


NOTIFICATION_COLUMNS = (
    "notification_id",
    "org_id",
    "job_id",
    "channel",
    "template_key",
    "delivery_status",
    "attempt_count",
    "last_error",
    "dedupe_key",
    "scheduled_at",
    "sent_at",
    "created_at",
    "payload",
)


def to_notification(row: Row) -> Notification:
    """A row of NOTIFICATION_COLUMNS."""
    return Notification(
        notification_id=row[0],
        org_id=row[1],
        job_id=row[2],
        channel=Channel(row[3]),
        template_key=row[4],
        delivery_status=DeliveryStatus(row[5]),
        attempt_count=row[6],
        last_error=row[7],
        dedupe_key=row[8],
        scheduled_at=instant(row[9]),
        sent_at=optional_instant(row[10]),
        created_at=instant(row[11]),
        payload=orjson.loads(row[12]),
    )


def notification_columns(told: Notification) -> dict[str, Any]:
    """The row of a notification."""
    return {
        "notification_id": told.notification_id,
        "org_id": told.org_id,
        "job_id": told.job_id,
        "channel": told.channel.value,
        "template_key": told.template_key,
        "delivery_status": told.delivery_status.value,
        "attempt_count": told.attempt_count,
        "last_error": told.last_error,
        "dedupe_key": told.dedupe_key,
        "scheduled_at": to_micros(told.scheduled_at),
        "sent_at": optional_micros(told.sent_at),
        "created_at": to_micros(told.created_at),
        "payload": to_json_text(dict(told.payload)),
    }


INPUT_COLUMNS = ("input_id", "org_id", "filename", "media_type", "size_bytes", "sha256", "created_at")


def to_input(row: Row) -> InputFile:
    """A row of INPUT_COLUMNS."""
    return InputFile(row[0], row[1], row[2], row[3], row[4], row[5], instant(row[6]))


def input_columns(file: InputFile) -> dict[str, Any]:
    """The row of an uploaded file that no job names yet."""
    return {
        "input_id": file.input_id,
        "org_id": file.org_id,
        "filename": file.filename,
        "media_type": file.media_type,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "created_at": to_micros(file.created_at),
        "unnamed_since": to_micros(file.created_at),
    }


IDEMPOTENCY_COLUMNS = ("key", "fingerprint", "job_id", "created_at")


def to_idempotency(row: Row) -> IdempotencyRecord:
    """A row of IDEMPOTENCY_COLUMNS."""
    return IdempotencyRecord(row[0], row[1], row[2], instant(row[3]))
