"""Results: immutable snapshots of a job's outcome, and which of them a reader gets.

A snapshot is stored once as canonical JSON bytes with their SHA-256; this module never looks inside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import ResultCorruptError, ResultExpiredError, ValidationError
from async_delivery.domain.job import Job, JobId, ResultId
from async_delivery.domain.tenant import OrgId


class ResultKind(StrEnum):
    """A job has any number of partial results and at most one final one."""

    PARTIAL = "partial"
    FINAL = "final"


class View(StrEnum):
    """``latest``: the job's final result, else its newest partial. ``requested``: exactly the one named."""

    LATEST = "latest"
    REQUESTED = "requested"


@dataclass(frozen=True, slots=True)
class SealedBody:
    """Canonical JSON bytes and their SHA-256 in hex."""

    data: bytes
    sha256: str


def seal(payload: object) -> SealedBody:
    """The bytes under which ``payload`` will be known. Raises NotSerializableError."""
    return seal_bytes(canonical_json(payload))


def seal_bytes(data: bytes) -> SealedBody:
    """Bytes that are canonical already, with their digest."""
    return SealedBody(data, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class Result:
    """A snapshot without its body.

    result_seq   rises strictly per job, over all attempts
    expires_at   created_at plus the job's TTL; reading is refused from then on, once the job has ended
    size_bytes   length of the body
    deleted_at   set when cleanup has reclaimed the body; the row stays as the receipt
    """

    result_id: ResultId
    org_id: OrgId
    job_id: JobId
    result_kind: ResultKind
    result_seq: int
    attempt: int
    created_at: datetime
    expires_at: datetime
    size_bytes: int
    sha256: str
    deleted_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """True for the one that completed the job."""
        return self.result_kind is ResultKind.FINAL


def intact(result: Result, body: bytes) -> bytes:
    """``body`` as it was stored for ``result``. Raises ResultCorruptError if something has changed it since."""
    if hashlib.sha256(body).hexdigest() != result.sha256:
        raise ResultCorruptError(result.result_id)
    return body


@dataclass(frozen=True, slots=True)
class NewResult:
    """A snapshot about to be stored, with its body."""

    result: Result
    body: SealedBody


@dataclass(frozen=True, slots=True)
class Projection:
    """What a permalink answers with: the snapshot resolved for the one that was asked for."""

    requested: Result
    resolved: Result
    view: View


def parse_view(text: str | None) -> View:
    """The view named by a query string; ``latest`` where none is. Raises ValidationError for any other."""
    if text is None:
        return View.LATEST
    try:
        return View(text)
    except ValueError:
        raise ValidationError.of("view", "must be latest or requested") from None


def expired(result: Result, job_ended: bool, now: datetime) -> datetime | None:
    """Since when ``result`` cannot be read any more, or None while it can.

    A job that still runs keeps its partial results however long it takes: nobody can have seen its end yet.
    """
    if result.deleted_at is not None:
        return min(result.deleted_at, result.expires_at)
    if job_ended and result.expires_at <= now:
        return result.expires_at
    return None


def over_at(job: Job) -> datetime | None:
    """When nothing of an ended job can be read any more; None for one that has not ended.

    The newest snapshot of a job was made at its end at the latest. Told from the job alone, so that lists can say
    it too: one that cleanup or its own earlier making ended sooner is not seen here.
    """
    ended = job.finished_at if job.status.terminal else None
    return None if ended is None else ended + timedelta(seconds=job.results_ttl_seconds)


def result_over(job: Job, now: datetime) -> bool:
    """True once nothing of an ended job can be read any more; see ``over_at``."""
    at = over_at(job)
    return at is not None and at <= now


def project(
    requested: Result, newest: Callable[[], Result | None], job_ended: bool, view: View, now: datetime
) -> Projection:
    """Resolve ``requested`` under ``view``.

    newest   the job's final result, else its newest partial; asked for only where the view needs it
    Raises ResultExpiredError when the resolved snapshot's time is over. A purged partial does not keep the
    final one from being read under ``latest``.
    """
    resolved = requested
    if view is View.LATEST and not requested.is_final:
        resolved = newest() or requested
    if (since := expired(resolved, job_ended, now)) is not None:
        raise ResultExpiredError(since)
    return Projection(requested, resolved, view)
