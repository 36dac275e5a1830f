from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from async_delivery.domain.errors import ConflictError, LeaseLostError, StoreBusyError
from async_delivery.domain.job import JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.contract import IdempotencyRecord, Section, Transaction
from tests.contract.support import ALPHA, House, deleting


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


def test_32_claimers_never_claim_a_job_twice(house: House) -> None:
    jobs = house.submit_many(100)

    def claimer(name: str) -> list[str]:
        mine: list[str] = []
        while claimed := house.claim(3, worker=name):
            mine += [job.job_id for job in claimed]
        return mine

    claims = together(*[partial(claimer, f"worker-{number}") for number in range(32)])

    assert sorted(job_id for mine in claims for job_id in mine) == sorted(job.job_id for job in jobs)
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
    policy = RetentionPolicy(0, 0)
    found = house.store.read(lambda reader: reader.count_retention(policy, house.now))

    def clean() -> Counter[str]:
        counts: Counter[str] = Counter()
        for section in Section:
            while True:
                deleted = house.store.write(deleting(section, policy, house.now, 7))
                counts[section] += deleted.count
                if not deleted.more:
                    break
        return counts

    one, two = together(clean, clean)

    assert one[Section.RESULTS] + two[Section.RESULTS] == found.results.delete_count == 120
    assert one[Section.EVENTS] + two[Section.EVENTS] == found.events.delete_count == 240
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
