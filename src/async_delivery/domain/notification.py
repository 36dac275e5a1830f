"""Notifications: what a tenant should know about the end of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from async_delivery.domain.instant import format_instant
from async_delivery.domain.job import Job, JobId
from async_delivery.domain.tenant import OrgId


class Channel(StrEnum):
    """How a notification reaches the tenant."""

    IN_APP = "in_app"
    EMAIL = "email"
    WEBHOOK = "webhook"


class DeliveryStatus(StrEnum):
    """``sent`` for in_app from the start: it is delivered by being there to read."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Notification:
    """One record for one channel. ``dedupe_key`` is unique over the store: nothing is told twice."""

    notification_id: str
    org_id: OrgId
    job_id: JobId
    channel: Channel
    template_key: str
    delivery_status: DeliveryStatus
    attempt_count: int
    last_error: str | None
    dedupe_key: str
    scheduled_at: datetime
    sent_at: datetime | None
    created_at: datetime
    payload: Mapping[str, Any]


def dedupe_key(job_id: JobId, channel: Channel, template_key: str) -> str:
    """``<job_id>:<channel>:<template_key>``."""
    return f"{job_id}:{channel}:{template_key}"


def in_app(job: Job, now: datetime, new_id: Callable[[], str]) -> Notification:
    """The in-app record of a job that has just ended. ``job.status`` must be terminal."""
    if not job.status.terminal:
        raise ValueError(f"job {job.job_id} has not ended: {job.status}")
    template_key = f"async.job.{job.status}"
    return Notification(
        notification_id=new_id(),
        org_id=job.org_id,
        job_id=job.job_id,
        channel=Channel.IN_APP,
        template_key=template_key,
        delivery_status=DeliveryStatus.SENT,
        attempt_count=1,
        last_error=None,
        dedupe_key=dedupe_key(job.job_id, Channel.IN_APP, template_key),
        scheduled_at=now,
        sent_at=now,
        created_at=now,
        payload={
            "job_id": job.job_id,
            "status": str(job.status),
            "result_id": job.result_id,
            "progress_percent": job.progress_percent,
            "error_code": job.error.code if job.error else None,
            "retry_hint": str(job.error.retry_hint) if job.error else None,
            "finished_at": format_instant(job.finished_at) if job.finished_at else None,
        },
    )
