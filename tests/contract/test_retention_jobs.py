"""Jobs that have ended go at last, with all that belongs to them: on every store, and by the same rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest

from async_delivery.domain.errors import NotFoundError
from async_delivery.domain.job import Job, JobRequest
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.contract import (
    Deleted,
    IdempotencyRecord,
    InputFile,
    Section,
    Transaction,
)
from tests.contract.support import ALPHA, BETA, House, deleting
from tests.contract.test_races import together
from tests.contract.test_retention import count, sweep
from tests.domain.support import REQUEST

ALL = RetentionPolicy(0, 0, 0)
DAY = 86_400
FILE = b"a,b\n1,2\n"


def uploaded(house: House, input_id: str, org_id: Any = ALPHA) -> JobRequest:
    """What asks for an analysis of a file of its own."""

    def write(tx: Transaction) -> None:
        tx.add_input_chunk(org_id, input_id, 0, FILE, house.now)
        tx.add_input(
            InputFile(input_id, org_id, "f.csv", "text/csv", len(FILE), sha256(FILE).hexdigest(), house.now)
        )

    house.store.write(write)
    return replace(REQUEST, input_id=input_id)


def has_file(house: House, input_id: str) -> bool:
    return house.store.read(lambda reader: reader.find_input(ALPHA, input_id)) is not None


def test_a_job_goes_with_all_that_belongs_to_it(house: House) -> None:
    empty = dict(house.store.info().counts)
    request = uploaded(house, "file-1")
    job = house.completed(request=request, partials=2)
    failed = house.fail(house.running(BETA))
    house.store.write(lambda tx: tx.put_log(ALPHA, job.job_id, 1, "what it said"))
    house.store.write(
        lambda tx: tx.put_idempotency(ALPHA, IdempotencyRecord("key", "print", job.job_id, house.now))
    )

    swept = sweep(house.store, ALL, house.later(seconds=1))

    assert swept.rows[Section.JOBS] == 2
    assert (house.find(job), house.find(failed)) == (None, None)
    assert dict(house.store.info().counts) == empty
    assert job.result_id is not None
    result_id = job.result_id
    assert house.store.read(lambda reader: reader.find_result(ALPHA, result_id)) is None
    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, "key")) is None
    assert not has_file(house, "file-1")
    assert house.notifications(job) == []
    assert house.violations() == []


def test_a_job_goes_at_its_own_cutoff_and_not_before(house: House) -> None:
    job = house.running()
    house.later(days=5)
    house.complete(job)
    policy = RetentionPolicy(60, 120, DAY)
    ended, step = house.now, timedelta(microseconds=1)
    just_before, at_last = ended + timedelta(seconds=DAY) - step, ended + timedelta(seconds=DAY)

    assert count(house.store, policy, just_before).jobs.delete_count == 0
    assert sweep(house.store, policy, just_before).rows[Section.JOBS] == 0
    assert house.find(job) is not None
    assert count(house.store, policy, at_last).jobs.delete_count == 1
    assert sweep(house.store, policy, at_last).rows[Section.JOBS] == 1
    assert house.find(job) is None


@pytest.mark.parametrize("policy", [RetentionPolicy(500, 0, 0), RetentionPolicy(0, 500, 0)])
def test_a_job_stays_as_long_as_a_result_or_an_event_of_it_is_kept(
    house: House, policy: RetentionPolicy
) -> None:
    job = house.completed(partials=1)

    house.later(seconds=499)
    assert count(house.store, policy, house.now).jobs.delete_count == 0
    assert sweep(house.store, policy, house.now).rows[Section.JOBS] == 0
    assert house.find(job) == job
    assert sweep(house.store, policy, house.later(seconds=1)).rows[Section.JOBS] == 1
    assert house.find(job) is None


def test_a_job_stays_as_long_as_its_tenant_asked_its_results_to_be_kept(house: House) -> None:
    job = house.completed(ttl_requested=True, results_ttl_seconds=1000)

    assert count(house.store, ALL, house.later(seconds=999)).jobs.delete_count == 0
    assert sweep(house.store, ALL, house.now).rows[Section.JOBS] == 0
    assert len(house.results(job)) == 1
    assert sweep(house.store, ALL, house.later(seconds=1)).rows[Section.JOBS] == 1


def test_a_dry_run_foresees_jobs_whose_last_results_and_events_go_in_the_same_run(house: House) -> None:
    emptied = house.completed(partials=1)
    sweep(house.store, RetentionPolicy(0, 0, None), house.now)
    only_events = house.fail(house.running())
    both = house.completed(BETA, partials=1)
    only_results = house.completed()
    house.store.write(deleting(Section.EVENTS, RetentionPolicy(0, 0, None), house.now, 1000))
    young_events = house.completed(BETA)
    house.submit()

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now, limit=2)

    gone = [emptied, only_events, both, only_results, young_events]
    assert found.jobs.delete_count == swept.rows[Section.JOBS] == len(gone)
    assert found.jobs.bytes == swept.sizes[Section.JOBS] > 0
    assert (found.jobs.total, found.jobs.eligible_terminal, found.jobs.kept_count) == (6, 5, 1)
    assert {org: found.per_tenant[org]["jobs"] for org in (ALPHA, BETA)} == {ALPHA: 3, BETA: 2}
    assert all(house.find(job) is None for job in gone)


def test_a_second_run_finds_no_jobs(house: House) -> None:
    house.completed(partials=1)
    house.running()

    first, second = (sweep(house.store, ALL, house.now) for _ in range(2))
    again = count(house.store, ALL, house.now).jobs

    assert (first.rows[Section.JOBS], second.rows[Section.JOBS]) == (1, 0)
    assert (again.total, again.eligible_terminal, again.delete_count) == (1, 0, 0)


def test_jobs_that_have_not_ended_never_go(house: House) -> None:
    waiting, running = house.submit(), house.partial(house.running(), 1)
    house.later(days=36_500)

    assert count(house.store, ALL, house.now).jobs.delete_count == 0
    assert sweep(house.store, ALL, house.now).rows[Section.JOBS] == 0
    assert [house.find(job) for job in (waiting, running)] == [waiting, running]


def test_a_held_job_stays_until_the_hold_is_lifted(house: House) -> None:
    early, late = house.completed(), house.completed()
    house.store.write(lambda tx: tx.set_hold(ALPHA, early.job_id, True))
    sweep(house.store, RetentionPolicy(0, 0, None), house.now)
    house.store.write(lambda tx: tx.set_hold(ALPHA, late.job_id, True))

    found = count(house.store, ALL, house.now)
    assert (found.jobs.held_count, found.jobs.delete_count) == (2, 0)
    assert sweep(house.store, ALL, house.now).rows[Section.JOBS] == 0
    for job in (early, late):
        house.store.write(lambda tx, it=job: tx.set_hold(ALPHA, it.job_id, False))  # type: ignore[misc]
    assert sweep(house.store, ALL, house.now).rows[Section.JOBS] == 2


def test_off_keeps_jobs_for_ever_and_holds_none(house: House) -> None:
    job, held = house.completed(), house.completed()
    house.store.write(lambda tx: tx.set_hold(ALPHA, held.job_id, True))
    never = RetentionPolicy(0, 0, None)
    house.later(days=30_000)

    found = count(house.store, never, house.now).jobs
    assert (found.total, found.delete_count, found.held_count) == (2, 0, 0)
    deleted = house.store.write(lambda tx: tx.delete_old(Section.JOBS, never, house.now, 100))
    assert deleted == Deleted(0, 0, {}, more=False)
    sweep(house.store, never, house.now)
    assert house.find(job) is not None


def test_a_file_goes_with_the_last_job_that_names_it(house: House) -> None:
    request = uploaded(house, "shared")
    first = house.completed(request=request)
    house.later(seconds=10)
    second = house.completed(request=request)
    policy = RetentionPolicy(0, 0, 10)

    alone = count(house.store, policy, house.now).jobs.bytes
    swept = sweep(house.store, policy, house.now)
    assert (swept.rows[Section.JOBS], swept.sizes[Section.JOBS]) == (1, alone)
    assert house.find(first) is None
    assert has_file(house, "shared")
    with_file = count(house.store, policy, house.later(seconds=10)).jobs.bytes
    swept = sweep(house.store, policy, house.now)
    assert swept.sizes[Section.JOBS] == with_file == alone + len(FILE)
    assert house.find(second) is None
    assert not has_file(house, "shared")


def test_two_jobs_that_go_together_take_their_file_along_once(house: House) -> None:
    request = uploaded(house, "shared")
    for _ in range(2):
        house.completed(request=request)

    found = count(house.store, ALL, house.now).jobs
    swept = sweep(house.store, ALL, house.now, limit=1)

    assert swept.rows[Section.JOBS] == 2
    assert swept.sizes[Section.JOBS] == found.bytes
    assert not has_file(house, "shared")


def test_a_job_that_was_tried_again_leaves_the_new_one_whole(house: House) -> None:
    request = uploaded(house, "shared")
    old = house.fail(house.running(request=request))
    house.later(seconds=10)
    new = house.running(request=request, retry_of=old.job_id)

    assert sweep(house.store, ALL, house.now).rows[Section.JOBS] == 1

    assert house.find(old) is None
    assert house.stored(new).retry_of == old.job_id
    assert has_file(house, "shared")
    assert house.violations() == []


def test_a_batch_of_jobs_is_no_larger_than_asked_for(house: House) -> None:
    for _ in range(10):
        house.cancel(house.submit())
    house.later(seconds=1)
    sweep(house.store, RetentionPolicy(0, 0, None), house.now)

    taken = [house.store.write(deleting(Section.JOBS, ALL, house.now, 4)) for _ in range(3)]

    assert [(each.count, each.more) for each in taken] == [(4, True), (4, True), (2, False)]


def test_of_two_cleaners_a_hold_and_an_eraser_each_job_is_the_business_of_one(house: House) -> None:
    ended = [house.completed(partials=1) for _ in range(40)]
    sweep(house.store, RetentionPolicy(0, 0, None), house.now)
    held, erased = ended[::4], ended[1::4]

    def clean() -> int:
        number, more = 0, True
        while more:
            deleted = house.store.write(deleting(Section.JOBS, ALL, house.now, 3))
            number += deleted.count
            more = deleted.more
        return number

    def each(jobs: list[Job], do: Callable[[Transaction, Job], None]) -> int:
        """How many of them were still there."""

        def write(tx: Transaction, job: Job) -> int:
            if tx.find_job(ALPHA, job.job_id) is None:
                return 0
            tx.lock_job(ALPHA, job.job_id)
            do(tx, job)
            return 1

        number = 0
        for job in jobs:
            try:
                number += house.store.write(lambda tx, it=job: write(tx, it))  # type: ignore[misc]
            except NotFoundError:
                continue
        return number

    def hold() -> int:
        return each(held, lambda tx, job: tx.set_hold(ALPHA, job.job_id, True))

    def erase() -> int:
        return each(erased, lambda tx, job: tx.erase_job(ALPHA, job.job_id))

    answers = together(clean, clean, hold, erase)

    assert all(isinstance(answer, int) for answer in answers), answers
    one, two, kept, gone = answers
    # What somebody had locked was passed over.
    rest = clean()
    assert one + two + gone + rest + kept == len(ended)
    assert sum(house.find(job) is not None for job in ended) == kept
    assert all(house.stored(job).held for job in ended if house.find(job) is not None)
    assert house.violations() == []


@pytest.mark.parametrize("payload", ["", "x" * 3000])
def test_readers_of_a_job_that_goes_see_it_whole_or_not_at_all(house: House, payload: str) -> None:
    ended = [house.completed(payload=payload) for _ in range(30)]
    sweep(house.store, RetentionPolicy(0, 0, None), house.now)
    busy = [True]

    def clean() -> int:
        try:
            return sweep(house.store, ALL, house.now, limit=2).rows[Section.JOBS]
        finally:
            busy[0] = False

    def read() -> int:
        looks = 0
        while busy[0]:
            for job in ended:
                seen = house.store.read(
                    lambda reader, it=job: (  # type: ignore[misc]
                        reader.find_job(ALPHA, it.job_id) is not None,
                        reader.find_request(ALPHA, it.job_id) is not None,
                        len(reader.list_notifications(ALPHA, it.job_id, None, 9)) == 1,
                        reader.find_result(ALPHA, it.result_id) is not None,
                    )
                )
                assert len(set(seen)) == 1
                looks += 1
        return looks

    gone, looks = together(clean, read)

    assert gone == len(ended)
    assert isinstance(looks, int), looks
