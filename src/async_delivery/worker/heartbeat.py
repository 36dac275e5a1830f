"""The pulse of a worker: one thread that renews the leases of all its attempts, whatever their children do, and one
that ends what runs without a lease.

Imports engine and domain.
"""

from __future__ import annotations

import threading
from math import inf
from time import monotonic

from async_delivery.domain.errors import UnavailableError
from async_delivery.engine import runs
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.attempt import StopReason
from async_delivery.worker.complaints import Complaints
from async_delivery.worker.roster import Roster
from async_delivery.worker.settle import give_back

_LONGEST_RETRY_SECONDS = 1.0
# How long a cancel that another process took may go unheard when its signal does not arrive.
_LOOK_SECONDS = 1.0


class Heartbeat:
    """``beat`` is one turn; ``run`` repeats it on a thread until ``stop``."""

    def __init__(self, rt: Runtime, worker_id: str, roster: Roster) -> None:
        self._rt = rt
        self._worker_id = worker_id
        self._roster = roster
        self._stopping = threading.Event()
        self._failed = Complaints("heartbeat.failed")
        self.turned_at = monotonic()

    def run(self) -> None:
        """Beat every heartbeat_seconds, sooner again after a beat that failed; look for cancels in between."""
        interval = self._rt.policy.heartbeat_seconds
        retry = min(_LONGEST_RETRY_SECONDS, interval / 5)
        # Where one process serves the store, every cancel is its own, and it has heard of it.
        look_every = inf if self._rt.store.exclusive else _LOOK_SECONDS
        beat_at, look_at = monotonic() + interval, monotonic() + look_every
        while not self._stopping.wait(max(0.0, min(beat_at, look_at) - monotonic())):
            now = monotonic()
            look_at = now + look_every
            if now < beat_at:
                self._look()
                continue
            beat_at = now + (interval if self._beat_well() else retry)
            self.turned_at = monotonic()

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def _beat_well(self) -> bool:
        try:
            return self.beat()
        except Exception as exc:  # noqa: BLE001  without a pulse every attempt would be lost for one fault
            self._failed.tell(repr(exc))
            return False

    def beat(self) -> bool:
        """Renew every lease, pass on what came back, give back what could not be settled. False if the store refused.

        An attempt whose lease could not be renewed in time is ended: see ``LeaseWatch``.
        """
        attempts = {attempt.job_id: attempt for attempt in self._roster.running()}
        asked_at = monotonic()
        try:
            renewals = runs.heartbeat(
                self._rt, self._worker_id, {job_id: attempt.fence for job_id, attempt in attempts.items()}
            )
        except UnavailableError as exc:
            self._failed.tell(exc.message)
            return False
        until = lease_until(self._rt, asked_at)
        for renewal in renewals:
            attempt = attempts[renewal.job_id]
            if not renewal.held:
                attempt.ask(StopReason.LOST)
                continue
            attempt.prolong(until)
            if renewal.cancel_requested:
                attempt.ask(StopReason.CANCEL)
        return self.give_back()

    def _look(self) -> None:
        """Pass on cancels that were asked of other processes. What goes wrong here, the next beat tells."""
        attempts = {attempt.job_id: attempt for attempt in self._roster.running()}
        if not attempts:
            return
        try:
            asked = runs.cancel_requests(self._rt, self._worker_id)
        except Exception:  # noqa: BLE001  the beat brings cancels as well, and it complains for both
            return
        for job_id in asked:
            if (attempt := attempts.get(job_id)) is not None:
                attempt.ask(StopReason.CANCEL)

    def give_back(self) -> bool:
        """Release attempts whose end could not be written. False if the store still refuses."""
        left = [attempt for attempt in self._roster.take_unsettled() if not give_back(self._rt, attempt)]
        for attempt in left:
            self._roster.leave(attempt)
        return not left


class LeaseWatch:
    """Ends each attempt whose lease was not renewed in time. It asks no store, so none can hold it up.

    The margin of ``lease_until`` is there so that the attempt's child is dead before the store would give the job
    to somebody else.
    """

    def __init__(self, rt: Runtime, roster: Roster) -> None:
        self._roster = roster
        # A lease that begins while this sleeps ends later than its next turn.
        self._longest = min(1.0, rt.policy.lease_seconds / 10)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Watch until ``stop``."""
        pause = self._longest
        while not self._stopping.wait(pause):
            pause = self.turn()

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def turn(self) -> float:
        """End what is to be ended; seconds until the next turn."""
        now = monotonic()
        soonest = now + self._longest
        for attempt in self._roster.running():
            if attempt.held(now):
                soonest = min(soonest, attempt.lease_until)
            else:
                attempt.expire(now)
        return max(0.0, soonest - now)


def lease_until(rt: Runtime, asked_at: float) -> float:
    """Until when a lease that was asked for at ``asked_at`` may be relied on, both by the monotonic clock.

    Counted from before the question: however long the answer took, the store cannot have counted from earlier.
    """
    return asked_at + rt.policy.lease_seconds - rt.policy.margin_seconds
