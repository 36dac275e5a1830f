"""A job with everything that belongs to it, as it moves between stores, and whether a store has it already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from async_delivery.domain.event import Event
from async_delivery.domain.job import Attempt, Job, JobRequest
from async_delivery.domain.notification import Notification
from async_delivery.domain.result import Result


@dataclass(frozen=True, slots=True)
class KeptResult:
    """A snapshot with its body; ``data`` is None where cleanup has reclaimed it."""

    result: Result
    data: bytes | None


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """An Idempotency-Key that led to the job."""

    key: str
    fingerprint: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class JobBundle:
    """One job whole. An instant that its row lacks stands as EPOCH, or as FAR_FUTURE for an expiry; see
    ``storage.cells``.

    logs   captured output by number of the attempt
    """

    job: Job
    request: JobRequest
    attempts: tuple[Attempt, ...] = ()
    logs: Mapping[int, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    results: tuple[KeptResult, ...] = ()
    notifications: tuple[Notification, ...] = ()
    keys: tuple[KeyBinding, ...] = ()
