"""What workers do with jobs: claim, heartbeat, report, end. Every write carries the fence of its attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from async_delivery import telemetry
from async_delivery.domain import lifecycle
from async_delivery.domain.errors import AsyncDeliveryError, LeaseLostError, NotFoundError
from async_delivery.domain.failure import Failure
from async_delivery.domain.job import Fence, Job, JobId, JobRequest
from async_delivery.domain.lifecycle import Change, RetryRule
from async_delivery.domain.result import SealedBody
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.text import storable
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import InputFile, Renewal, Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """A claimed job with what its attempt needs. Its fence and lease are on the job."""

    job: Job
    request: JobRequest
    input: InputFile | None


@dataclass(frozen=True, slots=True)
class Report:
    """How far an analysis says it is; None leaves what was said before."""

    percent: float | None = None
    stage: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Claimer:
    """Who takes jobs, and of which analyses; None: of all."""

    worker_id: str
    analyses: Sequence[str] | None = None


def claim(rt: Runtime, worker_id: str, limit: int, analyses: Sequence[str] | None = None) -> list[Run]:
    """Start attempts of up to ``limit`` due jobs, fair across tenants; empty when none is due."""
    now, claimer = rt.clock.now(), Claimer(worker_id, analyses)
    runs = rt.store.write(lambda tx: _claim(rt, tx, claimer, limit, now))
    for run in runs:
        telemetry.emit("attempt.started", job=run.job)
    return runs


def _claim(rt: Runtime, tx: Transaction, claimer: Claimer, limit: int, now: datetime) -> list[Run]:
    runs = []
    for queued in tx.claimable(limit, claimer.analyses, rt.policy.max_running_per_tenant, now):
        change = lifecycle.claim(
            queued, claimer.worker_id, rt.new_token(), rt.policy.lease_seconds, now, rt.new_id
        )
        tx.save(change)
        request = tx.find_request(queued.org_id, queued.job_id)
        if request is None:
            raise AssertionError(f"job {queued.job_id} has no request")
        file = tx.find_input(queued.org_id, request.input_id) if request.input_id else None
        runs.append(Run(change.job, request, file))
    return runs


def heartbeat(rt: Runtime, worker_id: str, fences: Mapping[JobId, Fence]) -> list[Renewal]:
    """Renew the leases of a worker's running attempts; tells of each whether it is still held, and of cancels."""
    if not fences:
        return []
    expires_at = rt.clock.now() + timedelta(seconds=rt.policy.lease_seconds)
    return rt.store.write(lambda tx: tx.renew_leases(worker_id, fences, expires_at))


def cancel_requests(rt: Runtime, worker_id: str) -> list[JobId]:
    """Jobs of a worker that are to stop. Between two heartbeats, for requests that another process took."""
    return rt.store.read(lambda reader: reader.cancel_requests(worker_id))


def _changing(
    org_id: OrgId,
    job_id: JobId,
    decide: Callable[[Job], Change | None],
    log: str | None = None,
    known: Job | None = None,
) -> Callable[[Transaction], Change | None]:
    """Lock, ask the domain, save, and keep ``log`` with the attempt.

    known   the job as the caller saw it last: while it has not moved since, it need not be read
    """

    def write(tx: Transaction) -> Change | None:
        job = known
        change = None if job is None else _unless_moved(tx, job, decide)
        if job is None or change is None:
            job = tx.lock_job(org_id, job_id)
            change = decide(job)
            if change is not None:
                tx.save(change)
        if log:
            tx.put_log(org_id, job_id, job.attempt, storable(log))
        return change

    return write


def _change(
    rt: Runtime,
    org_id: OrgId,
    job_id: JobId,
    decide: Callable[[Job], Change | None],
    log: str | None = None,
) -> Change | None:
    """Carry out ``_changing`` in a transaction of its own."""
    try:
        return rt.store.write(_changing(org_id, job_id, decide, log))
    except LeaseLostError as exc:
        telemetry.emit("write.refused", job_id=job_id, attempt=exc.attempt)
        raise


def _unless_moved(tx: Transaction, job: Job, decide: Callable[[Job], Change | None]) -> Change | None:
    """The change of ``job``, saved; None, with nothing written, if the stored one has moved."""
    try:
        change = decide(job)
        if change is not None:
            tx.save(change)
    except LeaseLostError:
        return None
    return change


def progress(rt: Runtime, org_id: OrgId, job_id: JobId, fence: Fence, report: Report) -> None:
    """Take over a report of progress. Raises LeaseLostError, NotFoundError."""
    now = rt.clock.now()
    change = _change(
        rt,
        org_id,
        job_id,
        lambda job: lifecycle.progress(
            job, fence, report.percent, report.stage, report.message, now, rt.new_id
        ),
    )
    if change is not None:
        telemetry.emit("job.progressed", job=change.job)


def publish_partial(
    rt: Runtime, org_id: OrgId, job_id: JobId, fence: Fence, body: SealedBody, report: Report
) -> Job:
    """Keep a partial result. Raises LeaseLostError, NotFoundError."""
    now = rt.clock.now()
    change = _change(
        rt,
        org_id,
        job_id,
        lambda job: lifecycle.publish_partial(
            job,
            fence,
            body,
            now,
            rt.new_id,
            percent=report.percent,
            stage=report.stage,
            message=report.message,
        ),
    )
    return _told(change, "job.partial_published")


def complete(
    rt: Runtime, org_id: OrgId, job_id: JobId, fence: Fence, body: SealedBody, log: str | None = None
) -> Job:
    """Finish a job with its final result. Raises LeaseLostError, NotFoundError."""
    now = rt.clock.now()
    change = _change(
        rt, org_id, job_id, lambda job: lifecycle.complete(job, fence, body, now, rt.new_id), log
    )
    return _told(change, "job.completed")


class _ClaimError(Exception):
    """The claim in the transaction of an end failed; the end itself would not have."""


# What can go wrong with a claim and not with its database, which the store must hear of as it is.
_OWN_FAULTS = (AsyncDeliveryError, AssertionError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Completed:
    """An attempt that ended with a success.

    job   as it was claimed: without a report since then it is still that, and need not be read
    """

    job: Job
    fence: Fence
    body: SealedBody
    log: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """Final results on their way to the store, and with them the starts of the next due attempts."""

    rt: Runtime
    ends: Sequence[Completed]
    written: Future[list[Change | LeaseLostError | NotFoundError]]
    claimed: list[Run]

    @property
    def done(self) -> bool:
        """True when ``result`` has no need to wait."""
        return self.written.done()

    @property
    def failure(self) -> BaseException | None:
        """Why nothing was written, as far as that can be known. To be asked when it is ``done``."""
        return self.written.exception()

    def result(self) -> tuple[list[Job | None], list[Run]]:
        """Each job after it, None for one that is not this worker's any more; and what was claimed. To be asked once.

        Raises UnavailableError, and nothing was written, as far as that can be known. A claim that fails keeps no job
        from its end, and is tried again when the worker asks by itself.
        """
        try:
            written = self.written.result()
        except _ClaimError:
            return [_completed_alone(self.rt, end) for end in self.ends], []
        after: list[Job | None] = []
        for end, change in zip(self.ends, written, strict=True):
            if isinstance(change, Change):
                after.append(_told(change, "job.completed"))
                continue
            if isinstance(change, LeaseLostError):
                telemetry.emit("write.refused", job_id=end.job.job_id, attempt=change.attempt)
            after.append(None)
        for run in self.claimed:
            telemetry.emit("attempt.started", job=run.job)
        return after, self.claimed


def _completed_alone(rt: Runtime, end: Completed) -> Job | None:
    try:
        return complete(rt, end.job.org_id, end.job.job_id, end.fence, end.body, end.log)
    except (LeaseLostError, NotFoundError):
        return None


def complete_and_claim(rt: Runtime, ends: Sequence[Completed], claimer: Claimer, limit: int) -> Completion:
    """``complete`` each, and start up to ``limit`` due attempts in the same transaction, for a worker that is free then
    or soon.

    Returns at once where one thread writes for the whole process. Raises UnavailableError.
    """
    now, claimed = rt.clock.now(), list[Run]()

    def write(tx: Transaction) -> list[Change | LeaseLostError | NotFoundError]:
        # The store may run a transaction again.
        claimed.clear()
        written = [_end(rt, tx, end, now) for end in ends]
        try:
            # Who has lost all that it held may be taken for dead: it claims by itself, if it can.
            if limit and any(isinstance(end, Change) for end in written):
                claimed.extend(_claim(rt, tx, claimer, limit, now))
        except _OWN_FAULTS as exc:
            raise _ClaimError from exc
        return written

    return Completion(rt, ends, _sent(rt, write), claimed)


def _end(
    rt: Runtime, tx: Transaction, end: Completed, now: datetime
) -> Change | LeaseLostError | NotFoundError:
    """The change, saved; or why it is refused, which is found before anything is written, and is no other's affair."""
    job = end.job
    try:
        change = _changing(
            job.org_id,
            job.job_id,
            lambda found: lifecycle.complete(found, end.fence, end.body, now, rt.new_id),
            end.log,
            job,
        )(tx)
    except (LeaseLostError, NotFoundError) as exc:
        return exc
    if change is None:
        raise AssertionError("an end always changes the job")
    return change


def _sent(rt: Runtime, write: Callable[[Transaction], T]) -> Future[T]:
    if rt.store.exclusive:
        return rt.store.write_soon(write)
    # Where other processes serve the store, no thread of this one writes for all: there each slot's transaction has a
    # connection of its own, and would only wait in line with those that share one.
    written: Future[T] = Future()
    try:
        written.set_result(rt.store.write(write))
    except Exception as exc:  # noqa: BLE001  whoever asks for the result hears of it
        written.set_exception(exc)
    return written


def fail(
    rt: Runtime,
    org_id: OrgId,
    job_id: JobId,
    fence: Fence,
    reason: Failure,
    *,
    again: bool,
    crashed: bool = False,
    retry_after_seconds: float | None = None,
    log: str | None = None,
) -> Job:
    """End an attempt with a failure; see ``lifecycle.fail``. Raises LeaseLostError, NotFoundError."""
    now, jitter = rt.clock.now(), rt.jitter()

    def decide(job: Job) -> Change:
        info = rt.catalogue.find(job.analysis)
        rule = (
            RetryRule(jitter, info.limits.retry_base_seconds, info.limits.retry_cap_seconds)
            if info
            else RetryRule(jitter)
        )
        return lifecycle.fail(
            job,
            fence,
            reason,
            now,
            rt.new_id,
            rule=rule,
            again=again,
            crashed=crashed,
            retry_after_seconds=retry_after_seconds,
        )

    return _told(_change(rt, org_id, job_id, decide, log), "attempt.failed")


def confirm_cancel(rt: Runtime, org_id: OrgId, job_id: JobId, fence: Fence, log: str | None = None) -> Job:
    """End a job whose attempt was stopped on request. Raises LeaseLostError, NotFoundError, ConflictError."""
    now = rt.clock.now()
    change = _change(
        rt, org_id, job_id, lambda job: lifecycle.confirm_cancel(job, fence, now, rt.new_id), log
    )
    return _told(change, "job.canceled")


def release(
    rt: Runtime, org_id: OrgId, job_id: JobId, fence: Fence, log: str | None = None, *, begun: bool = True
) -> Job:
    """Give a job back, at shutdown or before it has ``begun``; costs it nothing.

    Raises LeaseLostError, NotFoundError.
    """
    now = rt.clock.now()

    def decide(job: Job) -> Change:
        return lifecycle.release(job, fence, now, rt.new_id, begun=begun)

    change = _change(rt, org_id, job_id, decide, log)
    return _told(change, "attempt.released")


def lose(rt: Runtime, org_id: OrgId, job_id: JobId, fence: Fence, log: str | None = None) -> Job:
    """Requeue a job whose machine is gone; costs it nothing. Raises LeaseLostError, NotFoundError."""
    now = rt.clock.now()
    change = _change(rt, org_id, job_id, lambda job: lifecycle.lose(job, fence, now, rt.new_id), log)
    return _told(change, "attempt.lost")


def keep_log(rt: Runtime, org_id: OrgId, job_id: JobId, attempt: int, text: str) -> None:
    """Keep what a running attempt has printed so far."""
    kept = storable(text)
    rt.store.write(lambda tx: tx.put_log(org_id, job_id, attempt, kept))


def _told(change: Change | None, name: str) -> Job:
    if change is None:
        raise AssertionError(f"{name} always changes the job")
    telemetry.emit(name, job=change.job, before=change.before)
    return change.job
