"""A running attempt as all threads of the worker see it: its fence, its lease, and what was asked of it.

The slot that runs it looks after its child; the heartbeat prolongs the lease here; signals of the store ask it to
stop. Imports engine and domain.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum

from async_delivery.domain.job import Fence, JobId
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runs import Run


class StopReason(StrEnum):
    """Why an attempt is stopped from outside."""

    LOST = "lost"
    CANCEL = "cancel"
    DRAIN = "drain"
    TIMEOUT = "timeout"
    MEMORY = "memory"


class Waker:
    """Wakes one slot out of its poll, from any thread."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._closed = False

    def wake(self) -> None:
        """End the slot's wait, now or the next one."""
        # The number of a closed descriptor may be somebody else's by now.
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget wakes that have been heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._closed = True
            os.close(self.fd)


class Attempt:
    """One claimed job on its slot. Attributes are set once or only ever change one way.

    lease_until   when this worker gives the lease up by itself, by the monotonic clock: the end that the store knows,
                  less ``Policy.margin_seconds``
    """

    def __init__(self, run: Run, lease_until: float, waker: Waker) -> None:
        fence = run.job.fence
        if fence is None:
            raise AssertionError(f"job {run.job.job_id} was claimed without a lease")
        self.run = run
        self.job_id: JobId = run.job.job_id
        self.org_id: OrgId = run.job.org_id
        self.fence: Fence = fence
        self._waker = waker
        self._lock = threading.Lock()
        self._end_now: Callable[[], None] | None = None
        self.lease_until = lease_until
        self.lost = False
        self.cancel_requested = run.job.cancel_requested_at is not None
        self.drain = False

    def goes_to(self, waker: Waker) -> None:
        """Another slot runs it, which is to look at what was asked of it from then on."""
        self._waker = waker

    def prolong(self, until: float) -> None:
        """The lease was renewed; it holds until that instant of the monotonic clock.

        Too late for an attempt that was given up: it stays lost, and its lease over.
        """
        with self._lock:
            if not self.lost:
                self.lease_until = max(self.lease_until, until)

    def expire(self, now: float) -> None:
        """Lose the attempt if its lease is over by ``now``, unless it is renewed in the same moment."""
        with self._lock:
            known = self.lost or now < self.lease_until
            if not known:
                self._lose()
        if not known:
            self._waker.wake()

    def held(self, now: float) -> bool:
        """False when the lease was taken, or could not be renewed in time: write nothing any more."""
        return not self.lost and now < self.lease_until

    @contextlib.contextmanager
    def leashed(self, end_now: Callable[[], None]) -> Iterator[None]:
        """While the block lasts, ``end_now`` ends what runs for the attempt, at once and from any thread.

        It is called when the lease is lost. The slot would see that too, but not while it waits for the store.
        """
        with self._lock:
            self._end_now = end_now
            lost = self.lost
        if lost:
            end_now()
        try:
            yield
        finally:
            # Afterwards a warm child may run another attempt, which must not be hit.
            with self._lock:
                self._end_now = None

    def ask(self, reason: StopReason) -> None:
        """Have the attempt stopped because it is lost, canceled or drained. Repeating it changes nothing."""
        match reason:
            case StopReason.LOST:
                with self._lock:
                    known = self.lost
                    if not known:
                        self._lose()
            case StopReason.CANCEL:
                known, self.cancel_requested = self.cancel_requested, True
            case StopReason.DRAIN:
                known, self.drain = self.drain, True
            case _:
                raise AssertionError(f"{reason} is the slot's own finding")
        if not known:
            self._waker.wake()

    def _lose(self) -> None:
        """Once, under the lock."""
        self.lost = True
        if self._end_now is not None:
            self._end_now()
