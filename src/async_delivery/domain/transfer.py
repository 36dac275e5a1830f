"""A job with everything that belongs to it, as it moves between stores, and whether a store has it already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

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


class Standing(Enum):
    """How a job of a store and one from elsewhere under the same id are to each other."""

    SAME = "same"
    MOVED_ON = "moved on"
    OTHER = "other"


def standing(stored: JobBundle, given: JobBundle) -> Standing:
    """Whether the store has the job that is given; bodies are told apart by their SHA-256.

    MOVED_ON: the same job, and since it came the store has carried it further: it ran on, a cleanup took results or
    events, somebody put it under hold.
    """
    if _rows(stored) == _rows(given):
        return Standing.SAME
    ours, theirs = stored.job, given.job
    same_job = (
        (ours.org_id, ours.correlation_id, ours.analysis)
        == (theirs.org_id, theirs.correlation_id, theirs.analysis)
        and ours.submitted_at == theirs.submitted_at
        and (stored.request.query, stored.request.params_json)
        == (given.request.query, given.request.params_json)
        and ours.event_seq >= theirs.event_seq
        and ours.result_seq >= theirs.result_seq
    )
    if not same_job:
        return Standing.OTHER
    if ours.event_seq == theirs.event_seq and (ours.status, ours.result_id) != (
        theirs.status,
        theirs.result_id,
    ):
        return Standing.OTHER
    events = {event.event_seq: event for event in given.events}
    kept = {each.result.result_seq: each.result for each in given.results}
    agree = all(
        event == events[event.event_seq] for event in stored.events if event.event_seq in events
    ) and all(
        _body(each.result) == _body(kept[each.result.result_seq])
        for each in stored.results
        if each.result.result_seq in kept
    )
    return Standing.MOVED_ON if agree else Standing.OTHER


def _body(result: Result) -> tuple[str, str]:
    return result.result_id, result.sha256


def _rows(bundle: JobBundle) -> tuple[object, ...]:
    results = [each.result for each in bundle.results]
    return (
        bundle.job,
        bundle.request,
        bundle.attempts,
        dict(bundle.logs),
        bundle.events,
        results,
        bundle.notifications,
        bundle.keys,
    )
