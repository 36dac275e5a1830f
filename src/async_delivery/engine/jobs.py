"""What tenants do with jobs: submit, look, cancel, retry, hold, erase."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import timedelta

from async_delivery import telemetry
from async_delivery.domain import lifecycle
from async_delivery.domain.errors import (
    ConflictError,
    IdempotencyKeyReusedError,
    LegalHoldError,
    NotFoundError,
    ValidationError,
)
from async_delivery.domain.event import Event
from async_delivery.domain.job import Job, JobId, JobStatus
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.text import REFUSAL, is_storable, storable
from async_delivery.engine.quota import QueueQuota
from async_delivery.engine.runtime import Runtime
from async_delivery.engine.submission import Accepted, Submission, accept
from async_delivery.storage.contract import IdempotencyRecord, JobFilter, Reader, Transaction

_FULL_QUEUE_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job a submission led to. ``replayed``: it was there already, by its Idempotency-Key."""

    job: Job
    replayed: bool


def submit(rt: Runtime, quota: QueueQuota, org_id: OrgId, asked: Submission) -> Future[Submitted]:
    """Accept ``asked``; the future is done when it is durable.

    Raises ValidationError at once, listing every fault; the future raises QuotaExceededError,
    IdempotencyKeyReusedError or UnavailableError, with nothing kept.
    """
    accepted = accept(rt, org_id, asked)
    future = rt.store.write_soon(_submission(rt, quota, accepted, asked.idempotency_key))
    future.add_done_callback(_tell_of_submit)
    return future


def _tell_of_submit(future: Future[Submitted]) -> None:
    if not future.cancelled() and future.exception() is None and not (done := future.result()).replayed:
        telemetry.emit("job.submitted", job=done.job)


def _submission(
    rt: Runtime, quota: QueueQuota, accepted: Accepted, key: str | None
) -> Callable[[Transaction], Submitted]:
    job, request = accepted.job, accepted.request
    change = lifecycle.submit(job, request, rt.new_id)

    def write(tx: Transaction) -> Submitted:
        if key is not None and (known := _replay(rt, tx, job, request.fingerprint, key)):
            return known
        quota.take(tx, job.org_id, _FULL_QUEUE_RETRY_SECONDS)
        tx.save(change)
        if key is not None:
            tx.put_idempotency(
                job.org_id, IdempotencyRecord(key, request.fingerprint, job.job_id, job.submitted_at)
            )
        return Submitted(change.job, replayed=False)

    return write


def _replay(rt: Runtime, tx: Transaction, job: Job, fingerprint: str, key: str) -> Submitted | None:
    record = tx.find_idempotency(job.org_id, key)
    if record is None:
        return None
    expires_at = record.created_at + timedelta(seconds=rt.policy.idempotency_ttl_seconds)
    # By a clock that was put forward every key would be over at once, and a repeated request a second job.
    if expires_at <= job.submitted_at and rt.clock_leads_by() is None:
        return None
    if record.fingerprint != fingerprint:
        raise IdempotencyKeyReusedError
    known = tx.find_job(job.org_id, record.job_id)
    # An erased job takes its key with it: the request is new again.
    return Submitted(known, replayed=True) if known else None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with the events that a status answer carries."""

    job: Job
    events: list[Event]


def status(rt: Runtime, org_id: OrgId, job_id: JobId, events: int) -> JobView:
    """The tenant's job with its first ``events`` events. Raises NotFoundError."""

    def look(reader: Reader) -> JobView:
        job = _job(reader, org_id, job_id)
        return JobView(job, reader.list_events(org_id, job_id, 0, events))

    return rt.store.read(look)


def _job(reader: Reader, org_id: OrgId, job_id: JobId) -> Job:
    job = reader.find_job(org_id, job_id)
    if job is None:
        raise NotFoundError("job")
    return job


def find(rt: Runtime, org_id: OrgId, job_id: JobId) -> Job:
    """The tenant's job. Raises NotFoundError."""
    return rt.store.read(lambda reader: _job(reader, org_id, job_id))


def list_jobs(rt: Runtime, org_id: OrgId, where: JobFilter, limit: int, before: JobId | None) -> list[Job]:
    """The tenant's jobs, newest first."""
    return rt.store.read(lambda reader: reader.list_jobs(org_id, where, limit, before))


def list_events(rt: Runtime, org_id: OrgId, job_id: JobId, after: int, limit: int) -> list[Event]:
    """A page of the job's events after ``after``. Raises NotFoundError."""

    def look(reader: Reader) -> list[Event]:
        _job(reader, org_id, job_id)
        return reader.list_events(org_id, job_id, after, limit)

    return rt.store.read(look)


def logs(rt: Runtime, org_id: OrgId, job_id: JobId) -> list[tuple[int, str]]:
    """The captured output of each attempt that has any: (attempt, text). Raises NotFoundError."""

    def look(reader: Reader) -> list[tuple[int, str]]:
        job = _job(reader, org_id, job_id)
        texts = ((number, reader.find_log(org_id, job_id, number)) for number in range(1, job.attempt + 1))
        return [(number, text) for number, text in texts if text is not None]

    return rt.store.read(look)


def cancel(rt: Runtime, org_id: OrgId, job_id: JobId, by: str, reason: str | None) -> Job:
    """Cancel at once what is queued, ask the worker of what runs, leave what has ended. Raises NotFoundError,
    ValidationError."""
    for name, text in (("by", by), ("reason", reason)):
        if text is not None and not is_storable(text):
            raise ValidationError.of(name, REFUSAL)

    def write(tx: Transaction) -> Change | Job:
        job = tx.lock_job(org_id, job_id)
        change = lifecycle.request_cancel(job, by, reason, rt.clock.now(), rt.new_id)
        if change is None:
            return job
        tx.save(change)
        return change

    done = rt.store.write(write)
    if isinstance(done, Job):
        return done
    telemetry.emit("job.cancel_requested", job=done.job)
    return done.job


def retry(rt: Runtime, quota: QueueQuota, org_id: OrgId, job_id: JobId) -> Job:
    """A new job with the same request. Raises NotFoundError, ConflictError unless failed or canceled,
    QuotaExceededError, ValidationError if the analysis is not on offer any more."""
    new_job_id = JobId(rt.new_id())

    def write(tx: Transaction) -> Job:
        old = tx.lock_job(org_id, job_id)
        if old.status not in (JobStatus.FAILED, JobStatus.CANCELED):
            raise ConflictError(f"only a failed or canceled job can be retried; this one is {old.status}")
        request = tx.find_request(org_id, job_id)
        if request is None:
            raise NotFoundError("job")
        quota.take(tx, org_id, _FULL_QUEUE_RETRY_SECONDS)
        change = lifecycle.submit(_again(rt, old, new_job_id), request, rt.new_id)
        tx.save(change)
        return change.job

    job = rt.store.write(write)
    telemetry.emit("job.submitted", job=job)
    return job


def _again(rt: Runtime, old: Job, job_id: JobId) -> Job:
    info = rt.catalogue.find(old.analysis)
    if info is None or not info.available:
        raise ValidationError.of("analysis", f"{old.analysis} is not on offer any more")
    now = rt.clock.now()
    return Job(
        job_id=job_id,
        org_id=old.org_id,
        correlation_id=old.correlation_id,
        analysis=old.analysis,
        analysis_version=storable(info.version),
        status=JobStatus.QUEUED,
        priority=old.priority,
        labels=old.labels,
        timeout_seconds=old.timeout_seconds,
        results_ttl_seconds=old.results_ttl_seconds,
        ttl_requested=old.ttl_requested,
        max_attempts=info.limits.max_attempts,
        submitted_at=now,
        queued_at=now,
        updated_at=now,
        retry_of=old.job_id,
        traceparent=old.traceparent,
    )


def hold(rt: Runtime, org_id: OrgId, job_id: JobId, held: bool) -> Job:
    """Put a job under legal hold, or lift it: neither cleanup nor erase touches a held job. Raises NotFoundError."""

    def write(tx: Transaction) -> Job:
        job = tx.lock_job(org_id, job_id)
        tx.set_hold(org_id, job_id, held)
        return replace(job, held=held)

    return rt.store.write(write)


def erase(rt: Runtime, org_id: OrgId, job_id: JobId) -> None:
    """Delete an ended job and all that belongs to it. Raises NotFoundError, ConflictError, LegalHoldError."""

    def write(tx: Transaction) -> None:
        job = tx.lock_job(org_id, job_id)
        if job.held:
            raise LegalHoldError("this job is under hold and cannot be erased")
        if not job.status.terminal:
            raise ConflictError(f"this job is {job.status}; cancel it first")
        tx.erase_job(org_id, job_id)

    rt.store.write(write)
    telemetry.emit("job.erased", org_id=org_id, job_id=job_id)
