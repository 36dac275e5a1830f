"""Writing what became of an attempt, for as long as its lease holds. Imports engine and domain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar, assert_never

from async_delivery.domain.errors import ConflictError, LeaseLostError, NotFoundError, UnavailableError
from async_delivery.domain.job import Job
from async_delivery.domain.result import SealedBody
from async_delivery.engine import runs
from async_delivery.engine.runs import Claimer, Run
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.attempt import Attempt
from async_delivery.worker.ending import Ending, EndKind

T = TypeVar("T")

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.5


class UnsettledError(Exception):
    """The store took no writes until the lease was over or the worker had to end; nothing was written."""


def persist(attempt: Attempt, write: Callable[[], T]) -> T:
    """``write()``, again and again while the store is unavailable, the lease holds and the worker is not to end.

    Raises UnsettledError when the lease is over or the worker ends, and whatever else ``write`` raises.
    """
    pause = _FIRST_PAUSE_SECONDS
    while attempt.held(monotonic()):
        try:
            return write()
        except UnavailableError:
            if attempt.drain:
                # A worker that must end does not wait for a store that may stay as it is: the job runs again.
                break
            threading.Event().wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    raise UnsettledError(
        f"attempt {attempt.fence.attempt} of job {attempt.job_id}: its end could not be written"
    )


def settle(rt: Runtime, attempt: Attempt, ending: Ending, log: str | None) -> Job | None:
    """Write the end of an attempt; the job after it, or None if it is not this worker's any more.

    Raises UnsettledError.
    """
    try:
        return persist(attempt, lambda: _write(rt, attempt, ending, log))
    except (LeaseLostError, NotFoundError):
        return None


@dataclass(frozen=True, slots=True)
class Next:
    """What a slot takes after a completed attempt. ``asked_at``: by the monotonic clock, for its lease."""

    run: Run
    asked_at: float


def complete_and_claim(
    rt: Runtime,
    attempt: Attempt,
    body: SealedBody,
    claimer: Claimer,
    log: str | None,
    meanwhile: Callable[[], object],
) -> tuple[Job | None, Next | None]:
    """Write the final result, and in the same transaction take the next job that is due, if any is.

    ``meanwhile`` is done while the store writes, once more if it is asked again, and must not raise.
    The job after it, or None if it is not this worker's any more. Raises UnsettledError.
    """

    def write() -> tuple[Job, Next | None]:
        asked_at = monotonic()
        job, run = runs.complete_and_claim(
            rt,
            attempt.org_id,
            attempt.job_id,
            attempt.fence,
            body,
            claimer,
            log=log,
            known=attempt.run.job,
            meanwhile=meanwhile,
        )
        return job, Next(run, asked_at) if run else None

    try:
        return persist(attempt, write)
    except (LeaseLostError, NotFoundError):
        return None, None


def give_back(rt: Runtime, attempt: Attempt) -> bool:
    """Release an attempt whose end could not be written; the fence sees to it that nobody else's is touched.

    False if the store still takes no writes.
    """
    try:
        runs.release(rt, attempt.org_id, attempt.job_id, attempt.fence)
    except (LeaseLostError, NotFoundError):
        return True
    except UnavailableError:
        return False
    return True


def _write(rt: Runtime, attempt: Attempt, ending: Ending, log: str | None) -> Job | None:
    where = (rt, attempt.org_id, attempt.job_id, attempt.fence)
    match ending.kind:
        case EndKind.COMPLETED:
            if ending.body is None:
                raise AssertionError("completed without a body")
            return runs.complete(*where, ending.body, log=log)
        case EndKind.FAILED:
            if ending.reason is None:
                raise AssertionError("failed without a reason")
            return runs.fail(
                *where,
                ending.reason,
                again=ending.again,
                crashed=ending.crashed,
                retry_after_seconds=ending.retry_after_seconds,
                log=log,
            )
        case EndKind.CANCELED:
            try:
                return runs.confirm_cancel(*where, log=log)
            except ConflictError:
                # The request is not in the store after all: the job goes on elsewhere.
                return runs.release(*where, log=log)
        case EndKind.RELEASED:
            return runs.release(*where, log=log)
        case EndKind.GONE:
            return runs.lose(*where, log=log)
        case EndKind.LOST:
            return None
        case _:
            assert_never(ending.kind)
