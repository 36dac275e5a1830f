"""A job from elsewhere as it was read: in our values, but with nothing settled. ``domain.adoption`` settles it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from async_delivery.domain.account import Note
from async_delivery.domain.event import Event
from async_delivery.domain.job import Attempt, Job, JobRequest
from async_delivery.domain.notification import Notification
from async_delivery.domain.result import Result
from async_delivery.domain.transfer import KeyBinding

# Stands for an instant that is not known; a store keeps it as missing.
UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class FoundResult:
    """A result as it was read; ``data`` is None for a receipt. ``result.result_seq`` is 0 where none was given."""

    result: Result
    data: bytes | None
    notes: list[Note] = field(default_factory=list)


@dataclass(slots=True)
class FoundEvent:
    """An event as it was read; ``event.event_seq`` is 0 where none was given."""

    event: Event
    record_id: str
    notes: list[Note] = field(default_factory=list)


@dataclass(slots=True)
class FoundNotification:
    """A notification as it was read, with the whole original for the case that it must be refused."""

    notification: Notification
    record: bytes
    notes: list[Note] = field(default_factory=list)


@dataclass(slots=True)
class FoundJob:
    """A job as it was read. ``job`` has no lease; its counters are what was said, not what is (``partial_count`` is -1
    where nothing was).

    state_known   False where its state is none of ours
    attempts      None where nothing was said of them
    event_seq     the last number given out, where that was said
    result_free   True if the result that the job names is nowhere to be found, under another job neither
    """

    job: Job
    request: JobRequest
    state_known: bool = True
    attempts: tuple[Attempt, ...] | None = None
    logs: Mapping[int, str] = field(default_factory=dict)
    keys: tuple[KeyBinding, ...] = ()
    event_seq: int | None = None
    result_free: bool = True
    results: list[FoundResult] = field(default_factory=list)
    events: list[FoundEvent] = field(default_factory=list)
    notifications: list[FoundNotification] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
