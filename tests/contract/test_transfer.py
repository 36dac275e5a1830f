"""Whole jobs out of a store and into another: everything of a job, and nothing bent on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from async_delivery.domain.account import Kind, Verdict
from async_delivery.domain.errors import ConflictError
from async_delivery.domain.job import Job, JobId, JobRequest, JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.transfer import JobBundle
from async_delivery.storage.cells import EPOCH, FAR_FUTURE
from async_delivery.storage.contract import IdempotencyRecord, InputFile, Section, Store
from tests.contract.support import ALPHA, BETA, House, deleting
from tests.domain.support import NOON
from tests.storage.documents import exported as document_of
from tests.storage.documents import named, taken_in, whole, written
from tests.storage.support import sqlite_store

PLENTY = 1 << 30
EVERYTHING = RetentionPolicy(0, 0)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "other").mkdir()
    opened = sqlite_store(tmp_path / "other")
    yield opened
    opened.close()


def exported(
    store: Store, limit: int = 1000, max_bytes: int = PLENTY, after: JobId | None = None
) -> list[JobBundle]:
    return store.read(lambda reader: reader.export_jobs(after, limit, max_bytes))


def put(store: Store, bundles: Sequence[JobBundle]) -> None:
    store.write(lambda tx: tx.put_jobs(bundles))


def a_house_full(house: House) -> list[Job]:
    """Jobs in every state that is at rest, with all that may belong to one."""
    jobs = [
        house.completed(payload={"answer": [1.5, None, "ü"]}, partials=2),
        house.completed(BETA, labels={"team": "plants"}),
        house.fail(house.running()),
        house.cancel(house.submit()),
        house.submit(BETA),
        house.submit(),
        house.fail(house.running(), again=True, retry_after_seconds=60),
        house.release(house.partial(house.running(), {"half": True})),
    ]
    key = IdempotencyRecord("key-1", "f" * 64, jobs[0].job_id, house.now)
    house.store.write(lambda tx: tx.put_idempotency(ALPHA, key))
    house.store.write(lambda tx: tx.put_log(ALPHA, jobs[2].job_id, 1, "Traceback …"))
    house.store.write(lambda tx: tx.set_hold(ALPHA, jobs[2].job_id, True))
    return jobs


def test_every_job_comes_out_whole_and_in_the_order_of_ids(house: House, store: Store) -> None:
    jobs = a_house_full(house)

    found = exported(store)

    assert [bundle.job for bundle in found] == sorted(
        (house.stored(job) for job in jobs), key=lambda job: job.job_id
    )
    first = found[0]
    assert [kept.data for kept in first.results] == [
        b'{"partial":0}',
        b'{"partial":1}',
        '{"answer":[1.5,null,"ü"]}'.encode(),
    ]
    assert list(first.events) == house.events(jobs[0])
    assert list(first.notifications) == house.notifications(jobs[0])
    assert [(key.key, key.created_at) for key in first.keys] == [("key-1", house.now)]
    assert [attempt.attempt for attempt in first.attempts] == [1]
    assert found[2].logs == {1: "Traceback …"}
    assert found[2].job.held


def test_what_goes_into_another_store_comes_out_of_it_the_same(
    house: House, store: Store, other: Store
) -> None:
    a_house_full(house)
    house.store.write(deleting(Section.RESULTS, EVERYTHING, house.later(days=1), 2))
    house.store.write(deleting(Section.EVENTS, EVERYTHING, house.now, 100))
    before = exported(store)

    put(other, before)

    assert exported(other) == before
    assert other.read(lambda reader: reader.violations(20)) == []
    found = other.read(lambda reader: reader.find_bundles([bundle.job.job_id for bundle in before]))
    assert [kept.result for bundle in found for kept in bundle.results] == [
        kept.result for bundle in before for kept in bundle.results
    ]
    assert all(kept.data is None for bundle in found for kept in bundle.results)


def test_and_back_into_the_first_kind_of_store(house: House, store: Store, other: Store) -> None:
    a_house_full(House(other))
    before = exported(other)

    put(store, before)

    assert exported(store) == before
    assert house.violations() == []


def test_jobs_that_waited_wait_on_in_turns(house: House, store: Store, other: Store) -> None:
    ours = [house.submit(ALPHA) for _ in range(3)]
    theirs = house.submit(BETA)

    put(other, exported(store))

    order = [job.job_id for job in House(other).claim(limit=3)]
    assert order == [ours[0].job_id, theirs.job_id, ours[1].job_id]


def test_a_page_ends_at_its_bytes_and_a_job_comes_whole_whatever_its_size(house: House, store: Store) -> None:
    jobs = [house.completed(payload="x" * 1000) for _ in range(4)]

    assert [bundle.job.job_id for bundle in exported(store, max_bytes=2500)] == [
        job.job_id for job in jobs[:2]
    ]
    assert len(exported(store, max_bytes=1)) == 1
    assert [bundle.job.job_id for bundle in exported(store, limit=3, after=jobs[1].job_id)] == [
        job.job_id for job in jobs[2:]
    ]
    assert exported(store, after=jobs[3].job_id) == []


def test_missing_instants_stay_missing(house: House, store: Store, other: Store) -> None:
    house.completed(partials=1)
    (bundle,) = exported(store)
    job = replace(bundle.job, submitted_at=EPOCH, queued_at=EPOCH, updated_at=EPOCH, finished_at=None)
    odd = replace(
        bundle,
        job=job,
        attempts=tuple(replace(it, started_at=EPOCH) for it in bundle.attempts),
        events=tuple(replace(it, occurred_at=EPOCH) for it in bundle.events),
        results=tuple(
            replace(it, result=replace(it.result, created_at=EPOCH, expires_at=FAR_FUTURE))
            for it in bundle.results
        ),
        notifications=tuple(replace(it, scheduled_at=EPOCH, created_at=EPOCH) for it in bundle.notifications),
    )

    put(other, [odd])

    assert exported(other) == [odd]
    count = other.read(lambda reader: reader.count_retention(EVERYTHING, NOON.replace(year=2100)))
    assert (count.results.delete_count, count.events.delete_count) == (0, 0)
    assert (count.results.skipped_missing_timestamp, count.events.skipped_missing_timestamp) == (2, 4)


def test_an_id_that_is_there_refuses_all_of_them_and_nothing_is_kept(
    house: House, store: Store, other: Store
) -> None:
    a_house_full(house)
    before = exported(store)
    put(other, before[:1])

    with pytest.raises(ConflictError):
        put(other, list(reversed(before)))

    assert exported(other) == before[:1]


def test_an_uploaded_file_is_the_jobs_own_once_the_job_is_there(
    house: House, store: Store, other: Store
) -> None:
    file = InputFile("input-1", ALPHA, "a.csv", None, 3, "0" * 64, NOON)
    for each in (store, other):
        each.write(lambda tx: tx.add_input_chunk(ALPHA, "input-1", 0, b"a,b", NOON))
        each.write(lambda tx: tx.add_input(file))
    house.submit(request=JobRequest("q", b"{}", "f" * 64, "input-1"))

    put(other, exported(store))

    other.write(lambda tx: tx.prune(NOON.replace(year=2100), 100))
    assert other.read(lambda reader: reader.find_input(ALPHA, "input-1")) == file


def test_a_job_that_is_being_run_is_not_entered(house: House, store: Store, other: Store) -> None:
    house.running()

    (bundle,) = exported(store)
    assert bundle.job.status is JobStatus.RUNNING
    with pytest.raises(ValueError, match="being run"):
        put(other, [bundle])


# ---------------------------------------------------------------- through documents
def test_a_document_becomes_the_same_bytes_in_every_store(store: Store, other: Store, tmp_path: Path) -> None:
    states = ("completed", "running", "failed", "queued", "canceled", "partial", "paused")
    path = written(tmp_path / "d.json", whole(*states))

    account, _ = taken_in(store, path)
    taken_in(other, path)

    assert account.counts[Kind.JOBS].read == len(states)
    assert store.read(lambda reader: reader.violations(20)) == []
    bytes_of_it = document_of(store, tmp_path / "one.json")
    assert document_of(other, tmp_path / "two.json") == bytes_of_it
    again, entries = taken_in(store, path)
    assert (again.total("there"), again.conflicts, entries) == (again.total("read"), 0, [])


def test_everything_of_a_house_goes_through_a_document_and_back_to_the_byte(
    house: House, store: Store, other: Store, tmp_path: Path
) -> None:
    a_house_full(house)
    house.store.write(deleting(Section.RESULTS, EVERYTHING, house.later(days=1), 2))
    house.store.write(deleting(Section.EVENTS, EVERYTHING, house.now, 5))
    store.write(lambda tx: tx.add_input_chunk(ALPHA, "input-1", 0, b"a,b\n1", NOON))
    store.write(lambda tx: tx.add_input_chunk(ALPHA, "input-1", 1, b",2\n", NOON))
    digest = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    store.write(lambda tx: tx.add_input(InputFile("input-1", ALPHA, "ü.csv", "text/csv", 8, digest, NOON)))
    house.submit(request=JobRequest("q", b'{"n":[1e+300,0.1]}', "f" * 64, "input-1"))
    first = document_of(store, tmp_path / "one.json")

    account, entries = taken_in(other, tmp_path / "one.json")

    assert [entry for entry in entries if entry.notes] == []
    assert account.counts[Kind.INPUTS].taken == 1
    assert document_of(other, tmp_path / "two.json") == first
    assert b"".join(other.read(lambda reader: list(reader.read_input(ALPHA, "input-1")))) == b"a,b\n1,2\n"
    assert exported(other) == exported(store)
    again, _ = taken_in(other, tmp_path / "one.json")
    assert again.total("there") == again.total("read")


def test_an_import_that_was_cut_short_goes_on_where_it_stopped(
    store: Store, other: Store, tmp_path: Path
) -> None:
    path = written(tmp_path / "d.json", whole(*["completed"] * 30))
    taken_in(other, path)
    put(store, exported(other)[:13])

    account, _ = taken_in(store, path)

    jobs = account.counts[Kind.JOBS]
    assert (jobs.there, jobs.taken) == (13, 17)
    assert exported(store) == exported(other)


def test_a_file_that_is_damaged_is_refused_and_its_job_comes_without_it(
    house: House, store: Store, other: Store, tmp_path: Path
) -> None:
    house.store.write(lambda tx: tx.add_input_chunk(ALPHA, "input-1", 0, b"a,b", NOON))
    house.store.write(lambda tx: tx.add_input(InputFile("input-1", ALPHA, "a.csv", None, 3, "0" * 64, NOON)))
    job = house.submit(request=JobRequest("q", b"{}", "f" * 64, "input-1"))
    document_of(store, tmp_path / "one.json")

    account, entries = taken_in(other, tmp_path / "one.json")

    assert "not the ones that were uploaded" in named(entries, Verdict.REFUSED, Kind.INPUTS)["input-1"]
    assert "uploaded file" in named(entries, Verdict.ODD, Kind.JOBS)[job.job_id]
    assert (account.counts[Kind.INPUTS].refused, account.counts[Kind.JOBS].odd) == (1, 1)
    assert other.read(lambda reader: reader.violations(20)) == []


def test_two_imports_at_once_enter_everything_once(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole(*["completed"] * 60))

    with ThreadPoolExecutor(2) as pool:
        accounts = [future.result(60)[0] for future in [pool.submit(taken_in, store, path) for _ in range(2)]]

    assert sum(account.counts[Kind.JOBS].taken for account in accounts) == 60
    assert sum(account.counts[Kind.JOBS].there for account in accounts) == 60
    assert store.read(lambda reader: reader.violations(20)) == []
