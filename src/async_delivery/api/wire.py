"""Values of the house as the JSON objects of the contract. Nothing here asks a store or decides anything."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.analysis import to_json as analysis_to_json
from async_delivery.domain.event import Event
from async_delivery.domain.instant import format_instant
from async_delivery.domain.job import Job
from async_delivery.domain.notification import Notification
from async_delivery.domain.result import Result, result_over

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def instant(at: datetime | None) -> str | None:
    """RFC 3339, or None."""
    if at is None:
        return None
    # What the store gives is in UTC already, and there are many of them in one answer.
    return at.isoformat("T", "milliseconds")[:-6] + "Z" if at.tzinfo is UTC else format_instant(at)


def http_date(at: datetime) -> bytes:
    """IMF-fixdate of RFC 9110, whatever the locale."""
    at = at.astimezone(UTC)
    return (
        f"{_WEEKDAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} GMT"
    ).encode("ascii")


def job_links(job: Job, now: datetime) -> dict[str, str]:
    """Where to go from a job. ``result`` only while there is one, ``retry`` only where it is possible."""
    own = f"/analyze/jobs/{job.job_id}"
    links = {
        "self": own,
        "events": f"{own}/events",
        "results": f"{own}/results",
        "notifications": f"{own}/notifications",
        "logs": f"{own}/logs",
    }
    if job.result_id is not None and not result_over(job, now):
        links["result"] = f"/analyze/results/{job.result_id}"
    if not job.status.terminal:
        links["cancel"] = f"{own}/cancel"
    elif job.status != "completed":
        links["retry"] = f"{own}/retry"
    return links


def job_object(job: Job, now: datetime) -> dict[str, Any]:
    """A job as the store has it; what depends on the moment (``eta_seconds``) and its events are added to it."""
    error = job.error
    submitted_at, queued_at, updated_at = job.submitted_at, job.queued_at, job.updated_at
    created = instant(submitted_at)
    return {
        "job_id": job.job_id,
        "correlation_id": job.correlation_id,
        "analysis": job.analysis,
        "analysis_version": job.analysis_version,
        "status": job.status.value,
        "priority": job.priority.name.lower(),
        "progress_percent": job.progress_percent,
        "stage": job.stage,
        "message": job.message,
        "partial_count": job.partial_count,
        "error_count": job.error_count,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "result_id": job.result_id,
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "retryable": error.retryable if error else None,
        "retry_hint": error.retry_hint.value if error else None,
        "created_at": created,
        # The three are one until a worker has the job.
        "queued_at": created if queued_at is submitted_at else instant(queued_at),
        "due_at": instant(job.due_at),
        "started_at": instant(job.started_at),
        "finished_at": instant(job.finished_at),
        "updated_at": created if updated_at is submitted_at else instant(updated_at),
        "cancel_requested_at": instant(job.cancel_requested_at),
        "canceled_at": instant(job.canceled_at),
        "canceled_by": job.canceled_by,
        "cancel_reason": job.cancel_reason,
        "retry_of": job.retry_of,
        "held": job.held,
        "labels": dict(job.labels),
        "timeout_seconds": job.timeout_seconds,
        "results_ttl_seconds": job.results_ttl_seconds,
        "event_seq": job.event_seq,
        "links": job_links(job, now),
    }


def event_objects(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Events in the form of the contract."""
    return [
        {
            "event_id": event.event_id,
            "event_seq": event.event_seq,
            "event_type": event.event_type.value,
            "occurred_at": instant(event.occurred_at),
            "actor_type": event.actor_type.value,
            "payload_json": dict(event.payload),
        }
        for event in events
    ]


def result_object(result: Result) -> dict[str, Any]:
    """A snapshot without its body."""
    return {
        "result_id": result.result_id,
        "result_kind": result.result_kind.value,
        "result_seq": result.result_seq,
        "attempt": result.attempt,
        "created_at": instant(result.created_at),
        "expires_at": instant(result.expires_at),
        "bytes": result.size_bytes,
        "sha256": result.sha256,
        "links": {"self": f"/analyze/results/{result.result_id}?view=requested"},
    }


def notification_object(one: Notification) -> dict[str, Any]:
    """A notification in the form of the contract."""
    return {
        "notification_id": one.notification_id,
        "job_id": one.job_id,
        "channel": one.channel.value,
        "template_key": one.template_key,
        "delivery_status": one.delivery_status.value,
        "attempt_count": one.attempt_count,
        "last_error": one.last_error,
        "dedupe_key": one.dedupe_key,
        "scheduled_at": instant(one.scheduled_at),
        "sent_at": instant(one.sent_at),
        "created_at": instant(one.created_at),
        "payload_json": dict(one.payload),
    }


def analysis_object(info: AnalysisInfo) -> dict[str, Any]:
    """An entry of the catalogue, without the operator's own business of where its code is."""
    document = analysis_to_json(info)
    return {
        **{name: value for name, value in document.items() if name not in {"source", "requires"}},
        "links": {"self": f"/analyses/{info.name}"},
    }
