from __future__ import annotations

from itertools import groupby

from async_delivery.domain.job import Job, Priority
from async_delivery.storage.contract import Store
from tests.contract.support import ALPHA, BETA, House, without_delay


def owners(jobs: list[Job]) -> list[str]:
    return [job.org_id for job in jobs]


def drained(house: House, at_a_time: int = 1) -> list[Job]:
    """Claim and complete until nothing waits; the jobs in the order of their start."""
    order: list[Job] = []
    while claimed := house.claim(at_a_time):
        order += claimed
        for job in claimed:
            house.complete(job)
    return order


def test_one_tenants_jobs_run_in_the_order_of_submission(house: House) -> None:
    jobs = [house.submit() for _ in range(6)]

    assert [job.job_id for job in drained(house)] == [job.job_id for job in jobs]


def test_expedite_goes_first_within_the_tenant(house: House) -> None:
    plain = [house.submit() for _ in range(3)]
    urgent = [house.submit(priority=Priority.EXPEDITE) for _ in range(2)]

    assert [job.job_id for job in drained(house)] == [job.job_id for job in urgent + plain]


def test_ten_thousand_jobs_of_one_tenant_delay_anothers_single_job_by_one(house: House) -> None:
    house.submit_many(10_000, ALPHA)
    house.claim(3)
    single = house.submit(BETA)

    started = house.claim(2)

    assert single.job_id in [job.job_id for job in started]


def test_a_flood_of_expedite_jobs_gains_a_tenant_nothing_over_others(house: House) -> None:
    waiting = [house.submit(BETA) for _ in range(5)]
    house.submit_many(200, ALPHA, priority=Priority.EXPEDITE)

    order = drained(house)[:10]

    assert [job.job_id for job in order if job.org_id == BETA] == [job.job_id for job in waiting]
    assert max(len(list(run)) for _, run in groupby(owners(order))) <= 2


def test_expedite_jobs_that_come_one_by_one_gain_nothing_either(house: House) -> None:
    house.submit_many(20, ALPHA)
    waiting = [house.submit(BETA) for _ in range(5)]
    order: list[Job] = []
    for _ in range(10):
        house.submit(ALPHA, priority=Priority.EXPEDITE)
        order += house.claim()

    assert [job.job_id for job in order if job.org_id == BETA] == [job.job_id for job in waiting]
    assert owners(order).count(ALPHA) == 5


def test_many_tenants_take_turns(house: House) -> None:
    tenants = [f"tenant-{number}" for number in range(5)]
    for tenant in tenants:
        house.submit_many(4, tenant)

    order = owners(drained(house))

    for turn in range(4):
        assert sorted(order[5 * turn : 5 * turn + 5]) == tenants


def test_a_batch_is_as_fair_as_single_claims(house: House) -> None:
    house.submit_many(10, ALPHA)
    house.submit_many(3, BETA)

    batch = owners(house.claim(6))

    assert batch.count(BETA) == 3


def test_a_tenant_that_comes_later_does_not_have_to_catch_up(house: House) -> None:
    house.submit_many(50, ALPHA)
    for job in house.claim(30):
        house.complete(job)

    house.submit_many(5, BETA)
    order = owners(house.claim(10))

    assert order.count(BETA) == 5


def test_a_delayed_job_waits_for_its_time(house: House) -> None:
    job = house.running()
    delayed = house.fail(job, again=True, retry_after_seconds=60)
    assert delayed.due_at is not None

    assert house.claim() == []
    house.later(seconds=59.999)
    assert house.claim() == []
    house.later(seconds=0.001)
    (again,) = house.claim()

    assert (again.job_id, again.attempt, again.due_at) == (job.job_id, 2, None)
    assert house.violations() == []


def test_a_delayed_job_whose_time_has_come_keeps_its_rank(house: House) -> None:
    old = house.running()
    delayed = house.fail(old, again=True, retry_after_seconds=10)
    house.submit_many(3)
    house.later(seconds=10)

    claimable = house.store.write(lambda tx: tx.claimable(10, None, None, house.now))

    assert claimable[0] == without_delay(delayed)
    assert len(claimable) == 4


def test_only_the_analyses_asked_for_are_claimed(house: House) -> None:
    house.submit_many(100, ALPHA, analysis="unserved")
    wanted = house.submit(ALPHA, analysis="served")
    other = house.submit(BETA, analysis="served")

    started = house.claim(5, analyses=["served", "served", "unknown"])

    assert {job.job_id for job in started} == {wanted.job_id, other.job_id}
    assert house.claim(5, analyses=[]) == []
    assert house.claim(5, analyses=["unknown"]) == []
    assert house.violations() == []


def test_the_turns_of_an_unserved_analysis_are_not_lost(house: House) -> None:
    unserved = house.submit(ALPHA, analysis="unserved")
    house.submit_many(10, ALPHA, analysis="served")
    house.submit_many(10, BETA, analysis="served")

    first = owners(house.claim(10, analyses=["served"]))
    then = house.claim(10)

    assert first.count(ALPHA) == 5
    assert unserved.job_id in [job.job_id for job in then]


def test_a_tenant_at_its_cap_is_passed_over(house: House) -> None:
    house.submit_many(300, ALPHA)
    single = house.submit(BETA)

    first = house.claim(4, cap=2)
    second = house.claim(4, cap=2)

    assert sorted(owners(first)) == [ALPHA, ALPHA, BETA]
    assert single.job_id in [job.job_id for job in first]
    assert second == []
    house.complete(next(job for job in first if job.org_id == ALPHA))
    assert owners(house.claim(4, cap=2)) == [ALPHA]


def test_many_tenants_at_their_cap_do_not_hide_one_behind_them(house: House) -> None:
    for number in range(100):
        house.submit_many(2, f"tenant-{number:03d}")
    assert len(house.claim(100, cap=1)) == 100
    late = house.submit("zz-late")

    assert [job.job_id for job in house.claim(3, cap=1)] == [late.job_id]


def test_claimable_alone_changes_nothing_that_a_tenant_sees(house: House, store: Store) -> None:
    jobs = [house.submit(), house.submit(priority=Priority.EXPEDITE)]

    seen = store.write(lambda tx: tx.claimable(1, None, None, house.now))

    assert seen == [jobs[1]]
    assert [house.stored(job) for job in jobs] == jobs
    assert house.violations() == []


def test_a_canceled_job_leaves_the_line(house: House) -> None:
    first, second = house.submit(), house.submit()
    house.cancel(first)

    assert [job.job_id for job in house.claim(5)] == [second.job_id]
    assert house.violations() == []


def test_a_job_given_back_is_claimed_again_before_younger_ones(house: House) -> None:
    first = house.submit()
    house.submit_many(3)
    (job,) = house.claim()
    house.release(job)

    assert [job.job_id for job in house.claim()] == [first.job_id]
