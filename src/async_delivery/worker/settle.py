"""Writing what became of an attempt, for as long as its lease holds. Imports engine and domain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
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
class Success:
    """An attempt that ended well, and what is to be kept of it."""

    attempt: Attempt
    body: SealedBody
    log: str | None


class EndsUnderWay:
    """Successes that are being written in one transaction, with the claim of what comes next.

    asks        how many it claims at most
    asked_at    when, by the monotonic clock
    unsettled   those that are not known to be written
    """

    def __init__(self, rt: Runtime, successes: Sequence[Success], claimer: Claimer, asks: int) -> None:
        self.successes = successes
        self.asks = asks
        self.asked_at = monotonic()
        self.unsettled = list(successes)
        self._rt = rt
        self._sent: runs.Completion | None = None
        if not all(success.attempt.held(self.asked_at) for success in successes):
            return
        ends = [
            runs.Completed(each.attempt.run.job, each.attempt.fence, each.body, each.log)
            for each in successes
        ]
        try:
            self._sent = runs.complete_and_claim(rt, ends, claimer, asks)
        except UnavailableError:
            return

    @property
    def done(self) -> bool:
        """False while the store writes."""
        return self._sent is None or self._sent.done

    @property
    def failed(self) -> bool:
        """True if they have to be written again."""
        return self._sent is None or (self._sent.done and self._sent.failure is not None)

    @property
    def refused(self) -> bool:
        """True if it was the store that did not take them, which it may do later."""
        return self._sent is None or (self._sent.done and isinstance(self._sent.failure, UnavailableError))

    def settle(self) -> list[Run]:
        """Wait for them, and write each by itself, as ``settle`` does, if they could not be written together.

        What was claimed. Those that could not be written at all are ``unsettled``.
        """
        if self._sent is not None:
            try:
                _, claimed = self._sent.result()
            except Exception as exc:
                # Whatever one of them met with, the others must not.
                if len(self.successes) == 1 and not isinstance(exc, UnavailableError):
                    raise
            else:
                self.unsettled = []
                return claimed
        fault: Exception | None = None
        for success in self.successes:
            ending = Ending(EndKind.COMPLETED, body=success.body)
            try:
                settle(self._rt, success.attempt, ending, success.log)
            except UnsettledError:
                continue
            except Exception as exc:  # noqa: BLE001  raised when each has had its turn
                fault = exc
            else:
                self.unsettled.remove(success)
        if fault is not None:
            raise fault
        return []


def give_back(rt: Runtime, attempt: Attempt, *, begun: bool = True) -> bool:
    """Release an attempt whose end could not be written, or that has not ``begun``.

    The fence sees to it that nobody else's is touched.

    False if the store still takes no writes.
    """
    try:
        runs.release(rt, attempt.org_id, attempt.job_id, attempt.fence, begun=begun)
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
