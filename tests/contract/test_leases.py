from __future__ import annotations

from datetime import datetime, timedelta

from async_delivery.domain.job import Fence, Job
from async_delivery.storage.contract import Renewal
from tests.contract.support import House, fence_of


def renewed(house: House, job: Job, worker: str, fence: Fence) -> Renewal:
    until = house.later(seconds=1)
    (renewal,) = house.store.write(lambda tx: tx.renew_leases(worker, {job.job_id: fence}, until))
    return renewal


def test_a_heartbeat_prolongs_every_lease_that_is_still_held(house: House) -> None:
    house.submit_many(3)
    jobs = house.claim(3, worker="worker-a")
    ended = house.complete(jobs[2])
    until = house.now + timedelta(seconds=90)

    renewals = house.store.write(
        lambda tx: tx.renew_leases("worker-a", {job.job_id: fence_of(job) for job in jobs}, until)
    )

    assert [(one.job_id, one.held, one.cancel_requested) for one in renewals] == [
        (jobs[0].job_id, True, False),
        (jobs[1].job_id, True, False),
        (ended.job_id, False, False),
    ]
    lease = house.stored(jobs[0]).lease
    assert lease is not None
    assert lease.expires_at == until
    # A heartbeat is no change of the job: who looks at it sees nothing new.
    assert house.stored(jobs[0]).event_seq == jobs[0].event_seq
    assert house.stored(ended) == ended


def test_a_heartbeat_brings_back_that_a_cancel_was_asked_for(house: House) -> None:
    job = house.running()
    house.cancel(job)

    renewal = renewed(house, job, "worker-a", fence_of(job))

    assert (renewal.held, renewal.cancel_requested) == (True, True)


def test_a_heartbeat_with_a_wrong_fence_or_worker_holds_nothing(house: House) -> None:
    job = house.running()
    fence = fence_of(job)
    wrong = {
        "token": ("worker-a", Fence(fence.attempt, "other")),
        "attempt": ("worker-a", Fence(fence.attempt + 1, fence.lease_token)),
        "worker": ("worker-b", fence),
    }

    for worker, used in wrong.values():
        assert not renewed(house, job, worker, used).held
    assert house.stored(job) == job


def test_lost_jobs_are_those_whose_lease_is_over(house: House) -> None:
    house.submit_many(5)
    house.now = house.store.clock() - timedelta(seconds=40)
    lost = house.claim(3, worker="gone")
    house.now = house.store.clock()
    (kept,) = house.claim(1, worker="alive")

    found = house.store.write(lambda tx: tx.lost_jobs(house.now, ["alive"], 10))
    some = house.store.write(lambda tx: tx.lost_jobs(house.now, ["alive"], 2))

    assert [job.job_id for job in found] == sorted(job.job_id for job in lost)
    assert kept.job_id not in [job.job_id for job in found]
    assert some == found[:2]


def test_a_lease_given_elsewhere_counts_where_several_processes_serve_a_store(house: House) -> None:
    house.submit_many(1)
    house.now = house.store.clock()
    (job,) = house.claim(1, worker="elsewhere")

    def lost(now: datetime) -> list[str]:
        return [one.job_id for one in house.store.write(lambda tx: tx.lost_jobs(now, ["here"], 10))]

    # Alone on the store, a worker that is not of this process is gone. Else the database's clock decides, and
    # nobody's idea of the time.
    for now in (house.now, house.now + timedelta(days=1), house.now - timedelta(days=1)):
        assert lost(now) == ([job.job_id] if house.store.exclusive else [])


def test_a_worker_that_is_alive_keeps_what_it_has_where_it_serves_alone(house: House) -> None:
    house.submit_many(2)
    house.now = house.store.clock() - timedelta(seconds=40)
    claimed = house.claim(2, worker="here")

    found = house.store.write(lambda tx: tx.lost_jobs(house.store.clock(), ["here"], 10))

    # Where others serve too they cannot know, so a lease that is over is over for all.
    assert len(found) == (0 if house.store.exclusive else len(claimed))


def test_a_worker_finds_which_of_its_jobs_it_is_asked_to_stop(house: House) -> None:
    house.submit_many(3)
    first, second = house.claim(2, worker="worker-a")
    (other,) = house.claim(1, worker="worker-b")
    for job in (first, other):
        house.cancel(job)

    def asked(worker: str) -> list[str]:
        return list(house.store.read(lambda reader: reader.cancel_requests(worker)))

    assert asked("worker-a") == [first.job_id]
    assert asked("worker-b") == [other.job_id]
    assert asked("worker-c") == []
    house.complete(second)
    house.complete(first)  # its result came before the stop
    assert asked("worker-a") == []
