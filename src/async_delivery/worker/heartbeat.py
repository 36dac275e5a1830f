"""The pulse of a worker: one thread that renews the leases of all its attempts, whatever their children do.

Imports engine and domain.
"""

from __future__ import annotations

import threading
from time import monotonic

from async_delivery.domain.errors import UnavailableError
from async_delivery.engine import runs
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.attempt import StopReason
from async_delivery.worker.complaints import Complaints
from async_delivery.worker.roster import Roster
from async_delivery.worker.settle import give_back

_LONGEST_RETRY_SECONDS = 1.0


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
        """Beat every heartbeat_seconds; sooner again after a beat that failed."""
        interval = self._rt.policy.heartbeat_seconds
        retry = min(_LONGEST_RETRY_SECONDS, interval / 5)
        pause = interval
        while not self._stopping.wait(pause):
            try:
                pause = interval if self.beat() else retry
            except Exception as exc:  # noqa: BLE001  without a pulse every attempt would be lost for one fault
                self._failed.tell(repr(exc))
                pause = retry
            self.turned_at = monotonic()

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def beat(self) -> bool:
        """Renew every lease, pass on what came back, give back what could not be settled. False if the store refused.

        An attempt whose lease could not be renewed in time stops itself: see ``Attempt.held``.
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
        for renewal in renewals:
            attempt = attempts[renewal.job_id]
            if not renewal.held:
                attempt.ask(StopReason.LOST)
                continue
            attempt.prolong(asked_at + self._rt.policy.lease_seconds)
            if renewal.cancel_requested:
                attempt.ask(StopReason.CANCEL)
        return self.give_back()

    def give_back(self) -> bool:
        """Release attempts whose end could not be written. False if the store still refuses."""
        left = [attempt for attempt in self._roster.take_unsettled() if not give_back(self._rt, attempt)]
        for attempt in left:
            self._roster.leave(attempt)
        return not left
