from __future__ import annotations

from datetime import timedelta

import pytest

from async_delivery.domain.errors import ConflictError, NotFoundError
from async_delivery.domain.job import Job
from async_delivery.storage.contract import IdempotencyRecord, Transaction
from tests.contract.support import ALPHA, BETA, House


def record(house: House, job: Job, key: str = "key 🌱", fingerprint: str = "f" * 64) -> IdempotencyRecord:
    return IdempotencyRecord(key, fingerprint, job.job_id, house.now)


def put(house: House, kept: IdempotencyRecord, org_id: str = ALPHA) -> None:
    house.store.write(lambda tx: tx.put_idempotency(ALPHA if org_id == ALPHA else BETA, kept))


def test_a_key_leads_to_its_job(house: House) -> None:
    kept = record(house, house.submit())
    put(house, kept)

    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, kept.key)) == kept
    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, "other")) is None
    assert house.store.read(lambda reader: reader.find_idempotency(BETA, kept.key)) is None


def test_a_live_key_is_not_replaced_and_an_expired_one_is(house: House) -> None:
    first = record(house, house.submit())
    put(house, first)
    house.later(hours=23, minutes=59)
    early = record(house, house.submit(), fingerprint="e" * 64)

    with pytest.raises(ConflictError):
        put(house, early)
    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, first.key)) == first

    house.later(minutes=1)
    late = record(house, house.submit(), fingerprint="d" * 64)
    put(house, late)
    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, first.key)) == late


def test_a_shorter_time_to_live_is_honoured(house: House) -> None:
    first = record(house, house.submit())
    put(house, first)
    house.later(seconds=60)
    second = record(house, house.submit())

    house.store.write(lambda tx: tx.put_idempotency(ALPHA, second, 60))

    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, first.key)) == second


def test_two_tenants_may_use_the_same_key(house: House) -> None:
    mine, theirs = record(house, house.submit(ALPHA)), record(house, house.submit(BETA))

    put(house, mine)
    put(house, theirs, BETA)

    assert house.store.read(lambda reader: reader.find_idempotency(BETA, mine.key)) == theirs


def test_a_refused_key_takes_the_submission_of_its_write_along(house: House) -> None:
    put(house, record(house, house.submit()))
    change = house.submission()

    def write(tx: Transaction) -> None:
        tx.save(change)
        tx.put_idempotency(ALPHA, record(house, change.job))

    with pytest.raises(ConflictError):
        house.store.write(write)
    assert house.find(change.job) is None


def test_a_key_needs_its_job_and_goes_with_it(house: House) -> None:
    with pytest.raises(NotFoundError):
        put(house, record(house, house.fresh()))
    job = house.cancel(house.submit())
    kept = record(house, job)
    put(house, kept)

    house.store.write(lambda tx: tx.erase_job(ALPHA, job.job_id))

    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, kept.key)) is None


def test_keys_are_pruned_after_a_day_and_not_before(house: House) -> None:
    old = record(house, house.submit(), "old")
    put(house, old)
    young = record(house, house.submit(), "young")
    house.later(seconds=1)
    put(house, IdempotencyRecord("young", young.fingerprint, young.job_id, house.now))
    at = old.created_at + timedelta(hours=24)

    before = house.store.write(lambda tx: tx.prune(at - timedelta(microseconds=1), 100))
    after = house.store.write(lambda tx: tx.prune(at, 100))

    assert before["idempotency_keys"] == 0
    assert after["idempotency_keys"] == 1
    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, "old")) is None
    assert house.store.read(lambda reader: reader.find_idempotency(ALPHA, "young")) is not None
