"""Rows to values and back, by hand and in a fixed column order, for all that belongs to a job. The job's own row is
in ``job_rows``. No SQL lives here.
"""

from __future__ import annotations

from typing import Any

import orjson

from async_delivery.domain.event import ActorType, Event, EventType
from async_delivery.domain.job import (
    Attempt,
    AttemptOutcome,
    JobId,
    JobRequest,
    ResultId,
)
from async_delivery.domain.notification import Channel, DeliveryStatus, Notification
from async_delivery.domain.result import Result, ResultKind
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.cells import (
    FAR_FUTURE,
    Row,
    flat_json_text,
    instant,
    optional_instant,
    optional_micros,
    to_micros,
)
from async_delivery.storage.contract import IdempotencyRecord, InputFile

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
        "payload": flat_json_text(event.payload) if event.payload else "{}",
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
        "payload": flat_json_text(told.payload),
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
