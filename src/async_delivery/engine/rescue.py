"""Taking jobs back from workers that are gone. Runs at the start of a worker and as a chore, on any node."""

from __future__ import annotations

from collections.abc import Sequence

from async_delivery import telemetry
from async_delivery.domain import lifecycle
from async_delivery.domain.job import Job
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Transaction

_BATCH = 100


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
