from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import AsyncDeliveryError, ConflictError, LeaseLostError
from async_delivery.domain.job import Job, JobRequest
from async_delivery.domain.result import seal
from async_delivery.storage.contract import Transaction
from tests.contract.support import ALPHA, House, fence_of


def test_a_change_made_from_an_older_job_is_refused_and_leaves_nothing(house: House) -> None:
    job = house.running()
    stale = lifecycle.complete(job, fence_of(job), seal({"from": "stale"}), house.now, house.new_id)
    current = house.progress(job, 10)

    with pytest.raises(LeaseLostError):
        house.save(stale)

    assert house.stored(job) == current
    assert house.store.read(lambda reader: reader.list_results(ALPHA, job.job_id)) == []
    assert house.violations() == []


def test_a_rescued_jobs_first_worker_cannot_overwrite_the_second(house: House) -> None:
    first = house.running()
    house.change(first, lambda it: lifecycle.rescue(it, house.now, house.new_id))
    (second,) = house.claim(worker="worker-b")
    late = lifecycle.complete(first, fence_of(first), seal({"from": "first"}), house.now, house.new_id)

    with pytest.raises(LeaseLostError):
        house.save(late)

    done = house.complete(second, {"from": "second"})
    assert house.stored(first) == done


def test_the_lease_token_is_in_the_fence_even_if_all_numbers_agree(house: House) -> None:
    job = house.running()
    assert job.lease is not None
    forged = replace(job, lease=replace(job.lease, token="forged"))
    change = lifecycle.progress(forged, fence_of(forged), 50, None, None, house.now, house.new_id)

    with pytest.raises(LeaseLostError):
        house.save(change)


def test_an_ended_job_takes_no_change_any_more(house: House) -> None:
    job = house.running()
    canceled_late = lifecycle.request_cancel(job, "someone", None, house.now, house.new_id)
    done = house.complete(job)

    with pytest.raises(LeaseLostError):
        house.save(canceled_late)
    assert house.stored(job) == done


def test_the_same_job_cannot_be_entered_twice(house: House) -> None:
    change = house.submission()
    house.save(change)

    with pytest.raises(ConflictError):
        house.save(change)
    assert house.stored(change.job) == change.job


def test_a_dedupe_key_is_taken_once(house: House) -> None:
    done = house.completed()
    job = house.running()
    change = lifecycle.complete(job, fence_of(job), seal(None), house.now, house.new_id)
    (told,) = change.notifications
    (taken,) = house.store.read(lambda reader: reader.list_notifications(ALPHA, done.job_id, None, 1))
    double = replace(change, notifications=(replace(told, dedupe_key=taken.dedupe_key),))

    with pytest.raises(ConflictError):
        house.save(double)
    assert house.stored(job) == job


def test_what_breaks_a_rule_of_the_schema_is_refused_whole(house: House) -> None:
    job = house.running()
    change = lifecycle.progress(job, fence_of(job), 50, None, None, house.now, house.new_id)
    assert change is not None
    broken = replace(change, job=replace(change.job, progress_percent=101.0))

    with pytest.raises(AsyncDeliveryError) as caught:
        house.save(broken)

    assert caught.value.code == "internal"
    assert house.stored(job) == job
    assert house.violations() == []


def test_a_job_cannot_name_an_input_that_is_not_there(house: House) -> None:
    request = JobRequest(None, b"{}", "f" * 64, input_id="nothing")
    change = house.submission(request=request)

    with pytest.raises(AsyncDeliveryError):
        house.save(change)
    assert house.find(change.job) is None


def test_every_end_writes_one_notification_in_the_same_change(house: House) -> None:
    ended = [house.completed(), house.fail(house.running()), house.cancel(house.submit())]

    for job in ended:
        (told,) = house.notifications(job)
        assert told.template_key == f"async.job.{job.status}"
        assert told.payload["status"] == str(job.status)
        assert told.sent_at == house.now


def test_several_changes_of_one_job_fit_in_one_write(house: House) -> None:
    job = house.submit()

    def write(tx: Transaction) -> Job:
        (queued,) = tx.claimable(1, None, None, house.now)
        one = lifecycle.claim(queued, "w", "t", 30.0, house.now, house.new_id)
        tx.save(one)
        two = lifecycle.complete(one.job, fence_of(one.job), seal(1), house.now, house.new_id)
        tx.save(two)
        return two.job

    done = house.store.write(write)

    assert house.stored(job) == done
    assert house.violations() == []


def test_a_change_leaves_alone_what_it_does_not_change(house: House) -> None:
    job = house.running()
    until = house.now + timedelta(seconds=99)

    def write(tx: Transaction) -> Job:
        stored = tx.lock_job(job.org_id, job.job_id)
        tx.renew_leases("worker-a", {job.job_id: fence_of(job)}, until)
        tx.set_hold(job.org_id, job.job_id, held=True)
        change = lifecycle.publish_partial(stored, fence_of(job), seal(1), house.now, house.new_id)
        tx.save(change)
        return change.job

    partial = house.store.write(write)

    stored = house.stored(job)
    assert stored.lease is not None
    assert stored.lease.expires_at == until
    assert stored.held
    assert replace(stored, lease=partial.lease, held=False) == partial
    assert house.complete(stored) == house.stored(job)
    assert house.violations() == []
