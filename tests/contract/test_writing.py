from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import Job, JobStatus
from async_delivery.storage.contract import Reader, Signal, Store, Transaction
from tests.contract.support import ALPHA, House, saving
from tests.storage.processes import until


class OwnError(Exception):
    pass


def test_write_returns_what_the_function_returns(house: House) -> None:
    assert house.store.write(lambda _: ("any", 1)) == ("any", 1)
    assert house.store.write_soon(lambda _: None).result(timeout=30) is None


def test_a_function_that_raises_leaves_nothing_and_disturbs_no_other(house: House) -> None:
    changes = [house.submission() for _ in range(30)]
    gate = threading.Event()
    blocker = house.store.write_soon(lambda _: gate.wait(30))

    def writing(number: int) -> Callable[[Transaction], int]:
        def write(tx: Transaction) -> int:
            tx.save(changes[number])
            if number % 3 == 0:
                raise OwnError(number)
            return number

        return write

    futures = [house.store.write_soon(writing(number)) for number in range(len(changes))]
    gate.set()
    assert blocker.result(timeout=30)

    for number, future in enumerate(futures):
        if number % 3 == 0:
            with pytest.raises(OwnError, match=f"^{number}$"):
                future.result(timeout=30)
        else:
            assert future.result(timeout=30) == number
    kept = {number for number, change in enumerate(changes) if house.find(change.job) is not None}
    assert kept == {number for number in range(30) if number % 3}
    assert house.violations() == []


def test_functions_that_raise_before_any_other_leave_nothing_to_those_that_follow(house: House) -> None:
    lost, kept = [house.submission() for _ in range(3)], house.submission()
    heard: list[Signal] = []
    stop = house.store.subscribe(heard.append)
    gate = threading.Event()
    blocker = house.store.write_soon(lambda _: gate.wait(30))

    def failing(number: int) -> Callable[[Transaction], None]:
        def write(tx: Transaction) -> None:
            tx.save(lost[number])
            raise OwnError(number)

        return write

    failed = [house.store.write_soon(failing(number)) for number in range(3)]
    last = house.store.write_soon(saving(kept))
    gate.set()
    blocker.result(timeout=30)

    assert [type(future.exception(timeout=30)) for future in failed] == [OwnError] * 3
    last.result(timeout=30)
    assert [house.find(change.job) for change in lost] == [None] * 3
    assert house.find(kept.job) == kept.job
    until(lambda: [signal.job_id for signal in heard] == [kept.job.job_id])
    stop()


def test_a_future_is_done_only_when_a_reader_sees_the_change(house: House) -> None:
    seen: list[bool] = []
    futures: list[Future[None]] = []
    for _ in range(50):
        change = house.submission()
        future = house.store.write_soon(saving(change))
        future.add_done_callback(
            lambda _, change=change: seen.append(house.find(change.job) is not None)  # type: ignore[misc]
        )
        futures.append(future)

    for future in futures:
        future.result(timeout=30)

    # A future's callbacks run after those who wait for it have been woken.
    until(lambda: len(seen) == 50)
    assert all(seen)


def test_a_transaction_reads_its_own_writes_and_readers_do_not(house: House) -> None:
    change = house.submission()
    seen: list[Any] = []

    def write(tx: Transaction) -> None:
        tx.save(change)
        seen.append(tx.find_job(ALPHA, change.job.job_id))
        reading = threading.Thread(target=lambda: seen.append(house.find(change.job)))
        reading.start()
        reading.join(30)

    house.store.write(write)

    assert seen == [change.job, None]


def test_a_reader_keeps_its_snapshot_whatever_is_committed_meanwhile(house: House) -> None:
    job = house.submit()

    def look(reader: Reader) -> tuple[Job | None, Job | None]:
        before = reader.find_job(ALPHA, job.job_id)
        writing = threading.Thread(target=lambda: house.cancel(job))
        writing.start()
        writing.join(30)
        return before, reader.find_job(ALPHA, job.job_id)

    before, after = house.store.read(look)

    assert before == after == job
    assert house.stored(job).status is JobStatus.CANCELED


def test_a_read_inside_a_read_sees_the_same_snapshot(house: House) -> None:
    job = house.submit()

    assert house.store.read(lambda _: house.find(job)) == job
    assert house.find(job) == job


def test_an_error_of_a_reader_is_its_callers_and_the_next_read_works(house: House) -> None:
    job = house.submit()

    def broken(_: object) -> None:
        raise OwnError

    with pytest.raises(OwnError):
        house.store.read(broken)
    assert house.find(job) == job


def test_subscribers_hear_of_every_change_after_its_commit(house: House) -> None:
    heard: list[tuple[Signal, bool]] = []
    stop = house.store.subscribe(
        lambda signal: heard.append(
            (
                signal,
                house.store.read(lambda reader: reader.find_job(signal.org_id, signal.job_id)) is not None,
            )
        )
    )
    job = house.running()
    house.cancel(job)
    job = house.complete(job)
    house.store.write(lambda _: None)
    stop()
    house.submit()
    house.store.write(lambda _: None)

    assert [(signal.status, signal.event_seq, signal.cancel_requested, there) for signal, there in heard] == [
        (JobStatus.QUEUED, 1, False, True),
        (JobStatus.RUNNING, 2, False, True),
        (JobStatus.RUNNING, 3, True, True),
        (JobStatus.COMPLETED, 4, True, True),
    ]
    assert {(signal.org_id, signal.job_id) for signal, _ in heard} == {(ALPHA, job.job_id)}


def test_nobody_hears_of_a_change_that_was_not_kept(house: House) -> None:
    heard: list[Signal] = []
    house.store.subscribe(heard.append)
    change = house.submission()

    def write(tx: Transaction) -> None:
        tx.save(change)
        raise OwnError

    with pytest.raises(OwnError):
        house.store.write(write)
    kept = house.submit()
    house.store.write(lambda _: None)

    assert [signal.job_id for signal in heard] == [kept.job_id]


def test_a_broken_subscriber_stops_neither_writes_nor_other_subscribers(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[Signal] = []

    def broken(_: Signal) -> None:
        raise OwnError("at night")

    house.store.subscribe(broken)
    house.store.subscribe(heard.append)

    house.submit()
    house.submit()
    house.store.write(lambda _: None)

    assert len(heard) == 2
    assert "at night" in capfd.readouterr().err


def test_a_write_inside_a_write_is_refused_instead_of_hanging(house: House) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        house.store.write(lambda _: house.store.write(lambda _: None))
    assert house.store.write(lambda _: 1) == 1


def test_closing_finishes_accepted_writes_and_refuses_later_ones(house: House) -> None:
    changes = [house.submission() for _ in range(100)]
    futures = [house.store.write_soon(saving(one)) for one in changes]

    house.store.close()
    house.store.close()

    assert [future.result(timeout=0) for future in futures] == [None] * 100
    with pytest.raises(UnavailableError):
        house.store.write(lambda _: None)
    with pytest.raises(UnavailableError):
        house.store.write_soon(lambda _: None)
    with pytest.raises(UnavailableError):
        house.find(changes[0].job)


def test_the_cleanup_lock_is_one_and_free_again_afterwards(store: Store) -> None:
    from async_delivery.domain.errors import StoreBusyError

    with store.cleanup_lock():
        with pytest.raises(StoreBusyError), store.cleanup_lock():
            pass
        assert store.write(lambda _: 1) == 1
    with store.cleanup_lock():
        pass


def test_info_counts_what_is_there(house: House) -> None:
    house.completed(partials=1)
    house.submit()
    house.running()

    info = house.store.info()

    assert info.counts["jobs"] == 3
    assert (info.counts["queued"], info.counts["running"]) == (1, 1)
    assert (info.counts["results"], info.counts["notifications"]) == (2, 1)
    assert info.size_bytes > 0
    assert info.durability
