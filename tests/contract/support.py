"""Short words for what the tests of a store do again and again, on top of the real lifecycle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from time import monotonic
from typing import Any

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.event import Event
from async_delivery.domain.failure import failure
from async_delivery.domain.job import Fence, Job, JobId, JobRequest
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.notification import Notification
from async_delivery.domain.result import Result, seal
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import FROM_THE_START, Deleted, Reached, Section, Store, Transaction
from tests.domain.support import NOON, REQUEST, RULE, fresh_job

ALPHA, BETA = OrgId("alpha"), OrgId("beta")


def fence_of(job: Job) -> Fence:
    assert job.fence is not None
    return job.fence


def saving(change: Change) -> Callable[[Transaction], None]:
    """The function that saves ``change``."""
    return lambda tx: tx.save(change)


def deleting(
    section: Section, policy: RetentionPolicy, now: datetime, limit: int, since: Reached = FROM_THE_START
) -> Callable[[Transaction], Deleted]:
    """The function of one batch of a cleanup."""
    return lambda tx: tx.delete_old(section, policy, now, limit, since)


class House:
    """A store with a clock that is set and ids that count; each verb is one write."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOON
        self._numbers = count(1)

    def later(self, **span: float) -> datetime:
        self.now += timedelta(**span)
        return self.now

    def new_id(self) -> str:
        return f"{next(self._numbers):08d}-0000-7000-8000-000000000000"

    def fresh(self, org_id: str = ALPHA, **changes: Any) -> Job:
        values: dict[str, Any] = {
            "job_id": JobId(self.new_id()),
            "org_id": OrgId(org_id),
            "submitted_at": self.now,
            "queued_at": self.now,
            "updated_at": self.now,
        }
        return fresh_job(**(values | changes))

    def submission(self, org_id: str = ALPHA, request: JobRequest = REQUEST, **changes: Any) -> Change:
        return lifecycle.submit(self.fresh(org_id, **changes), request, self.new_id)

    def submit(self, org_id: str = ALPHA, request: JobRequest = REQUEST, **changes: Any) -> Job:
        change = self.submission(org_id, request, **changes)
        self.save(change)
        return change.job

    def submit_many(self, number: int, org_id: str = ALPHA, **changes: Any) -> list[Job]:
        made = [self.submission(org_id, **changes) for _ in range(number)]
        for one, future in [(one, self.store.write_soon(saving(one))) for one in made]:
            self._kept(one, future)
        return [one.job for one in made]

    def _kept(self, change: Change, future: Future[None]) -> None:
        """Wait until ``change`` is kept. Where a machine stands still for seconds a flood finds no connection free;
        nothing of that write was begun, and it is asked for again, as a client does that hears 503."""
        until = monotonic() + 120
        while True:
            try:
                return future.result(timeout=60)
            except UnavailableError as exc:
                if "no connection is free" not in exc.message or monotonic() > until:
                    raise
                future = self.store.write_soon(saving(change))

    def save(self, change: Change | None) -> Job:
        assert change is not None
        self.store.write(lambda tx: tx.save(change))
        return change.job

    def claim(
        self,
        limit: int = 1,
        worker: str = "worker-a",
        analyses: Sequence[str] | None = None,
        cap: int | None = None,
    ) -> list[Job]:
        def write(tx: Transaction) -> list[Job]:
            claimed = []
            for job in tx.claimable(limit, analyses, cap, self.now):
                change = lifecycle.claim(job, worker, f"token-{self.new_id()}", 30.0, self.now, self.new_id)
                tx.save(change)
                claimed.append(change.job)
            return claimed

        return self.store.write(write)

    def change(self, job: Job, decide: Callable[[Job], Change | None]) -> Job:
        """Lock, decide, save; the job as it is afterwards."""

        def write(tx: Transaction) -> Job:
            stored = tx.lock_job(job.org_id, job.job_id)
            made = decide(stored)
            if made is None:
                return stored
            tx.save(made)
            return made.job

        return self.store.write(write)

    def running(self, org_id: str = ALPHA, **changes: Any) -> Job:
        """A job that runs: submitted, and claimed for itself."""
        job = self.submit(org_id, **changes)
        return self.change(
            job, lambda it: lifecycle.claim(it, "worker-a", f"token-{it.job_id}", 30.0, self.now, self.new_id)
        )

    def progress(self, job: Job, percent: float, stage: str | None = None, message: str | None = None) -> Job:
        return self.change(
            job,
            lambda it: lifecycle.progress(it, fence_of(job), percent, stage, message, self.now, self.new_id),
        )

    def partial(self, job: Job, payload: object = None) -> Job:
        return self.change(
            job, lambda it: lifecycle.publish_partial(it, fence_of(job), seal(payload), self.now, self.new_id)
        )

    def complete(self, job: Job, payload: object = None) -> Job:
        return self.change(
            job, lambda it: lifecycle.complete(it, fence_of(job), seal(payload), self.now, self.new_id)
        )

    def fail(self, job: Job, *, again: bool = False, retry_after_seconds: float | None = None) -> Job:
        return self.change(
            job,
            lambda it: lifecycle.fail(
                it,
                fence_of(job),
                failure("analysis_error", "it broke"),
                self.now,
                self.new_id,
                rule=RULE,
                again=again,
                retry_after_seconds=retry_after_seconds,
            ),
        )

    def release(self, job: Job) -> Job:
        return self.change(job, lambda it: lifecycle.release(it, fence_of(job), self.now, self.new_id))

    def cancel(self, job: Job) -> Job:
        return self.change(
            job, lambda it: lifecycle.request_cancel(it, "someone", None, self.now, self.new_id)
        )

    def completed(
        self, org_id: str = ALPHA, payload: object = None, partials: int = 0, **changes: Any
    ) -> Job:
        job = self.running(org_id, **changes)
        for number in range(partials):
            job = self.partial(job, {"partial": number})
        return self.complete(job, payload)

    def find(self, job: Job) -> Job | None:
        return self.store.read(lambda reader: reader.find_job(job.org_id, job.job_id))

    def stored(self, job: Job) -> Job:
        found = self.find(job)
        assert found is not None
        return found

    def events(self, job: Job) -> list[Event]:
        return self.store.read(lambda reader: reader.list_events(job.org_id, job.job_id, 0, 1000))

    def results(self, job: Job) -> list[Result]:
        return self.store.read(lambda reader: reader.list_results(job.org_id, job.job_id))

    def notifications(self, job: Job) -> list[Notification]:
        return self.store.read(lambda reader: reader.list_notifications(job.org_id, job.job_id, None, 1000))

    def violations(self) -> list[str]:
        return self.store.read(lambda reader: reader.violations(20))


def without_delay(job: Job) -> Job:
    """A delayed job once its time has come: due_at is gone, and since then it waits for a worker."""
    return replace(job, queued_at=job.due_at or job.queued_at, due_at=None)
