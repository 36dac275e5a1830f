"""Many at once: whoever wins, what is kept is what one after the other could have kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import AsyncDeliveryError, ConflictError, LeaseLostError, StoreBusyError
from async_delivery.domain.event import EventType
from async_delivery.domain.job import Job, JobRequest, JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.engine import jobs
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import (
    UNNAMED_INPUT_TTL_SECONDS,
    IdempotencyRecord,
    InputFile,
    Section,
    Transaction,
)
from async_delivery.testing import FakeClock
from tests.contract.support import ALPHA, House, deleting, fence_of
from tests.domain.support import REQUEST
from tests.engine.support import quota, runtime

ENDS = {EventType.COMPLETED, EventType.FAILED, EventType.CANCELED}
NOTHING_KEPT = RetentionPolicy(0, 0)


def together(*functions: Callable[[], Any]) -> list[Any]:
    """Run all at the same moment; what each returned or raised."""
    start = threading.Barrier(len(functions))
    answers: list[Any] = [None] * len(functions)

    def run(number: int, function: Callable[[], Any]) -> None:
        start.wait(30)
        try:
            answers[number] = function()
        except Exception as exc:  # noqa: BLE001  the answer of this side of the race
            answers[number] = exc

    threads = [
        threading.Thread(target=run, args=(number, function)) for number, function in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


@pytest.mark.parametrize(
    ("number", "tenants", "limit"),
    [(600, 4, 3), pytest.param(10_000, 10, 5, marks=pytest.mark.long)],
)
def test_32_claimers_share_all_jobs_and_none_goes_without(
    house: House, number: int, tenants: int, limit: int
) -> None:
    submitted = [
        job.job_id for tenant in range(tenants) for job in house.submit_many(number // tenants, f"t{tenant}")
    ]
    left = Counter(submitted)

    def claimer(name: str) -> list[str]:
        mine: list[str] = []
        while left:
            claimed = [job.job_id for job in house.claim(limit, worker=name)]
            for job_id in claimed:
                left.pop(job_id, None)
            mine += claimed
        return mine

    claims = together(*[partial(claimer, f"worker-{number}") for number in range(32)])

    assert [answer for answer in claims if isinstance(answer, Exception)] == []
    assert sorted(job_id for mine in claims for job_id in mine) == sorted(submitted)
    assert min(len(mine) for mine in claims) > 0
    assert house.violations() == []


def test_of_many_requests_with_one_key_one_is_kept(house: House) -> None:
    changes = [house.submission() for _ in range(16)]

    def submit(number: int) -> str:
        change = changes[number]

        def write(tx: Transaction) -> str:
            if known := tx.find_idempotency(ALPHA, "the key"):
                return known.job_id
            tx.save(change)
            tx.put_idempotency(ALPHA, IdempotencyRecord("the key", "f", change.job.job_id, house.now))
            return change.job.job_id

        return house.store.write(write)

    answers = together(*[partial(submit, number) for number in range(16)])

    kept = [change.job.job_id for change in changes if house.find(change.job)]
    assert len(kept) == 1
    assert {answer for answer in answers if not isinstance(answer, ConflictError)} == set(kept)


def test_of_many_submits_with_one_key_all_find_the_same_job(house: House) -> None:
    rt = runtime(house.store, FakeClock())
    counted = quota(rt)

    def submit(_: int) -> str:
        asked = Submission(query="the same", idempotency_key="the key")
        for _ in range(2):
            with suppress(ConflictError):  # the first one is under way elsewhere
                return jobs.submit(rt, counted, ALPHA, asked).result(60).job.job_id
        raise AssertionError("the second time the first one is there")

    answers = together(*[partial(submit, number) for number in range(24)])

    assert len(set(answers)) == 1
    assert house.store.info().counts["jobs"] == 1


def test_cancel_complete_and_fail_at_once_end_a_job_once(house: House) -> None:
    for number in range(25):
        job = house.running()

        asked, *ends = together(
            partial(house.cancel, job),
            partial(house.complete, job, number),
            partial(house.fail, job, again=True),
        )

        assert isinstance(asked, Job)
        assert Counter(type(end) for end in ends) == {Job: 1, LeaseLostError: 1}
        ended = [event.event_type for event in house.events(job) if event.event_type in ENDS]
        stored = house.stored(job)
        if stored.status is JobStatus.QUEUED:  # failed before the cancel came, to be tried again
            assert ended == []
        else:
            assert [f"job.{stored.status}"] == ended
            assert len(house.notifications(job)) == 1
    assert house.violations() == []


def test_cancel_and_complete_end_a_job_once_whoever_wins(house: House) -> None:
    for _ in range(20):
        job = house.running()

        cancel, done = together(partial(house.cancel, job), partial(house.complete, job, 1))

        assert not isinstance(done, Exception)
        assert not isinstance(cancel, Exception)
        ended = house.stored(job)
        assert ended.status is JobStatus.COMPLETED
    assert house.violations() == []


def test_two_workers_that_both_think_they_own_a_job_end_it_once(house: House) -> None:
    for _ in range(20):
        job = house.running()

        answers = together(partial(house.complete, job, "one"), partial(house.fail, job))

        assert Counter(type(answer) for answer in answers)[LeaseLostError] == 1
    assert house.violations() == []


def test_writers_of_the_same_number_add_up(house: House) -> None:
    job = house.running()

    together(*[lambda: [house.progress(job, 0, stage=house.new_id()) for _ in range(10)]] * 8)

    assert house.stored(job).event_seq == 2 + 80
    assert house.violations() == []


def test_two_cleaners_delete_every_row_once(house: House) -> None:
    for _ in range(60):
        house.completed(partials=1)
    found = house.store.read(lambda reader: reader.count_retention(NOTHING_KEPT, house.now))

    def clean() -> Counter[str]:
        counts: Counter[str] = Counter()
        for section in Section:
            while True:
                deleted = house.store.write(deleting(section, NOTHING_KEPT, house.now, 7))
                counts[section] += deleted.count
                if not deleted.more:
                    break
        return counts

    one, two = together(clean, clean)

    assert one[Section.RESULTS] + two[Section.RESULTS] == found.results.delete_count == 120
    assert one[Section.EVENTS] + two[Section.EVENTS] == found.events.delete_count == 240
    assert house.violations() == []


def test_cleaners_readers_and_erasers_account_for_every_row(house: House) -> None:
    ended = [house.completed(partials=1) for _ in range(80)]
    for _ in range(5):
        house.running()
    total = house.store.read(lambda reader: reader.count_retention(NOTHING_KEPT, house.now))
    busy = [True]

    def clean() -> Counter[str]:
        counts: Counter[str] = Counter()
        for section in (*Section, *Section):  # twice: the first may have passed over what others held
            more = True
            while more:
                deleted = house.store.write(deleting(section, NOTHING_KEPT, house.now, 9))
                counts[section] += deleted.count
                more = deleted.more
        return counts

    def erase() -> Counter[str]:
        counts: Counter[str] = Counter()

        def write(tx: Transaction, job: Job) -> tuple[int, int]:
            tx.lock_job(job.org_id, job.job_id)
            results = len(tx.list_results(job.org_id, job.job_id))
            events = len(tx.list_events(job.org_id, job.job_id, 0, 1000))
            tx.erase_job(job.org_id, job.job_id)
            return results, events

        for job in ended[::3]:
            results, events = house.store.write(partial(write, job=job))
            counts[Section.RESULTS] += results
            counts[Section.EVENTS] += events
        return counts

    def read() -> int:
        reads = 0
        while busy[0]:
            found = house.store.read(lambda reader: reader.count_retention(NOTHING_KEPT, house.now))
            assert found.results.total <= total.results.total
            assert house.violations() == []
            reads += 1
        return reads

    def clean_and_stop() -> Counter[str]:
        try:
            return clean()
        finally:
            busy[0] = False

    *cleaned, erased, reads = together(clean_and_stop, clean, erase, read)

    assert isinstance(reads, int)
    sums = cleaned[0] + cleaned[1] + erased + clean()
    assert sums[Section.RESULTS] == total.results.delete_count == 160
    assert sums[Section.EVENTS] == total.events.delete_count == 320
    assert house.store.info().counts["jobs"] == 85 - len(ended[::3])
    assert house.violations() == []


def test_a_file_is_pruned_or_named_by_a_job_but_never_both(house: House) -> None:
    for number in range(15):
        file = InputFile(f"input-{number}", ALPHA, "a.csv", None, 3, "0" * 64, house.now)
        house.store.write(partial(_keep, file=file))
        house.later(seconds=UNNAMED_INPUT_TTL_SECONDS + 1)
        request = JobRequest(REQUEST.query, REQUEST.params_json, REQUEST.fingerprint, file.input_id)
        change = house.submission(request=request)

        submitted, pruned = together(
            partial(house.save, change), lambda: house.store.write(lambda tx: tx.prune(house.now, 100))
        )

        kept = house.store.read(lambda reader, file=file: reader.find_input(ALPHA, file.input_id))  # type: ignore[misc]
        assert not isinstance(pruned, Exception)
        if isinstance(submitted, Job):
            assert kept == file
            assert house.find(change.job) == change.job
        else:
            assert isinstance(submitted, AsyncDeliveryError)
            assert (kept, house.find(change.job)) == (None, None)
    assert [line for line in house.violations() if "SHA-256" not in line] == []


def _keep(tx: Transaction, file: InputFile) -> None:
    tx.add_input_chunk(ALPHA, file.input_id, 0, b"abc", file.created_at)
    tx.add_input(file)


def test_a_lease_is_renewed_or_taken_away_but_never_both(house: House) -> None:
    for _ in range(25):
        house.now = house.store.clock() - timedelta(seconds=40)
        job = house.running()
        until = house.store.clock() + timedelta(seconds=60)

        def renew(job: Job = job, until: Any = until) -> bool:
            (renewal,) = house.store.write(
                lambda tx: tx.renew_leases("worker-a", {job.job_id: fence_of(job)}, until)
            )
            return renewal.held

        def rescue() -> list[Job]:
            def write(tx: Transaction) -> list[Job]:
                lost = tx.lost_jobs(house.store.clock(), [], 10)
                for one in lost:
                    tx.save(lifecycle.rescue(one, house.now, house.new_id))
                return lost

            return house.store.write(write)

        held, rescued = together(renew, rescue)

        assert isinstance(held, bool)
        assert isinstance(rescued, list)
        if not house.store.exclusive:
            assert held is not bool(rescued)
        if held and not rescued:
            house.complete(job)
        else:
            with pytest.raises(LeaseLostError):
                house.complete(job)
            house.cancel(job)
    assert house.violations() == []


def test_the_cleanup_lock_lets_one_in(house: House) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter() -> bool:
        try:
            with house.store.cleanup_lock():
                inside.append(1)
                most.append(len(inside))
                house.store.write(lambda _: None)
                inside.pop()
        except StoreBusyError:
            return False
        return True

    answers = together(*[enter] * 8)

    assert True in answers
    assert max(most) == 1
