"""Taking jobs back from workers that are gone. Runs at the start of a worker and as a chore, on any node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from async_delivery import telemetry
from async_delivery.domain import lifecycle
from async_delivery.domain.job import Job, JobId
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Transaction

_BATCH = 100
# More than any worker has slots.
_MOST_LEASED = 10_000


def rescue(rt: Runtime, alive: Sequence[str]) -> list[Job]:
    """Put every lost job back into the queue (or end it, see ``lifecycle.rescue``), in small transactions.

    alive   worker ids of this process, whose attempts are never taken
    """
    rescued: list[Job] = []
    while True:
        batch = _rescue_batch(rt, alive)
        for job in batch:
            telemetry.emit("attempt.lost", job=job)
        rescued.extend(batch)
        if len(batch) < _BATCH:
            return rescued


def _rescue_batch(rt: Runtime, alive: Sequence[str]) -> list[Job]:
    now = rt.clock.now()

    def write(tx: Transaction) -> list[Job]:
        after = []
        for job in tx.lost_jobs(now, alive, _BATCH, rt.policy.lease_seconds):
            change = lifecycle.rescue(job, now, rt.new_id)
            tx.save(change)
            after.append(change.job)
        return after

    return rt.store.write(write)


class Desertions:
    """Finds leases of living workers that these know nothing of, where no clock ends them: on a store that one process
    serves. A claim whose commit was reported as failed, and was kept, leaves one.

    held   ids of the jobs that the workers of this process know they have
    """

    def __init__(self, held: Callable[[], Collection[JobId]]) -> None:
        self._held = held
        self._suspects: set[str] = set()

    def rescue(self, rt: Runtime, alive: Sequence[str]) -> list[Job]:
        """Take back what was in nobody's hands the last time and is not now, under the same lease.

        Once is not enough: a worker hears of what it has claimed a moment after the commit.
        """
        now, held = rt.clock.now(), self._held()

        def write(tx: Transaction) -> tuple[list[Job], set[str]]:
            after, suspects = [], set()
            for job in tx.lost_jobs(now, (), _MOST_LEASED, rt.policy.lease_seconds):
                if job.lease is None or job.lease.worker_id not in alive or job.job_id in held:
                    continue
                if job.lease.token not in self._suspects:
                    suspects.add(job.lease.token)
                    continue
                change = lifecycle.rescue(job, now, rt.new_id)
                tx.save(change)
                after.append(change.job)
            return after, suspects

        rescued, self._suspects = rt.store.write(write)
        for job in rescued:
            telemetry.emit("attempt.lost", job=job)
        return rescued
