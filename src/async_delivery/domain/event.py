"""Events: append-only facts about a job, numbered without gaps from 1 (``event_seq``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from async_delivery.domain.job import JobId
from async_delivery.domain.tenant import OrgId


class EventType(StrEnum):
    """What can happen to a job, as clients read it."""

    QUEUED = "job.queued"
    RUNNING = "job.running"
    PROGRESS = "job.progress"
    PARTIAL = "job.partial"
    COMPLETED = "job.completed"
    FAILED = "job.failed"
    CANCELED = "job.canceled"
    CANCEL_REQUESTED = "job.cancel_requested"
    REQUEUED = "job.requeued"
    ATTEMPT_FAILED = "job.attempt_failed"
    ATTEMPT_LOST = "job.attempt_lost"


class ActorType(StrEnum):
    """Who caused an event."""

    TENANT = "tenant"
    WORKER = "worker"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Event:
    """One fact. ``payload`` holds ids and numbers only, never result bodies."""

    event_id: str
    org_id: OrgId
    job_id: JobId
    event_seq: int
    event_type: EventType
    occurred_at: datetime
    actor_type: ActorType
    payload: Mapping[str, Any]
