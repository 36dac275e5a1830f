from __future__ import annotations

from datetime import timedelta

import pytest

from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.contract import Section, Stock
from tests.contract.support import ALPHA, BETA, House

TEN_MINUTES = timedelta(minutes=10)
EVERYTHING = RetentionPolicy(0, 0, 0)


def stock(house: House) -> Stock:
    return house.store.read(lambda reader: reader.stock(house.now, house.now - TEN_MINUTES))


def backlog(house: House, policy: RetentionPolicy = EVERYTHING, at_most: int = 1000) -> dict[Section, int]:
    return dict(house.store.read(lambda reader: reader.backlog(policy, house.now, at_most)))


def test_an_empty_store_has_no_stock(house: House) -> None:
    found = stock(house)

    assert dict(found.jobs) == {}
    assert found.oldest_queued_at is None
    assert found.terminal_without_in_app == 0
    assert backlog(house) == dict.fromkeys(Section, 0)


def test_jobs_are_counted_by_status_and_analysis_over_all_tenants(house: House) -> None:
    house.completed(ALPHA, analysis="profile")
    house.completed(BETA, analysis="profile")
    house.completed(BETA, analysis="selftest")
    house.fail(house.running(analysis="profile"))
    house.cancel(house.submit(analysis="profile"))
    house.partial(house.running(analysis="selftest"))
    house.running(analysis="profile")
    house.fail(house.running(analysis="profile"), again=True, retry_after_seconds=60)
    house.submit(ALPHA, analysis="profile")
    house.submit(BETA, analysis="selftest")

    assert dict(stock(house).jobs) == {
        (JobStatus.COMPLETED, "profile"): 2,
        (JobStatus.COMPLETED, "selftest"): 1,
        (JobStatus.FAILED, "profile"): 1,
        (JobStatus.CANCELED, "profile"): 1,
        (JobStatus.PARTIAL, "selftest"): 1,
        (JobStatus.RUNNING, "profile"): 1,
        (JobStatus.QUEUED, "profile"): 2,
        (JobStatus.QUEUED, "selftest"): 1,
    }


def test_an_erased_job_is_counted_no_more(house: House) -> None:
    job = house.completed()

    house.store.write(lambda tx: tx.erase_job(job.org_id, job.job_id))

    assert stock(house).jobs == {}


def test_the_oldest_waiting_job_is_known_whatever_its_tenant_and_rank(house: House) -> None:
    oldest = house.submit(BETA)
    house.later(seconds=5)
    house.submit_many(3, ALPHA)

    assert stock(house).oldest_queued_at == oldest.queued_at

    house.cancel(oldest)
    assert stock(house).oldest_queued_at == house.now


def test_running_jobs_do_not_wait(house: House) -> None:
    house.running()

    assert stock(house).oldest_queued_at is None


def test_a_delayed_job_waits_only_from_the_end_of_its_delay(house: House) -> None:
    house.fail(house.running(), again=True, retry_after_seconds=60)
    due = house.now + timedelta(seconds=60)

    house.later(seconds=59)
    assert stock(house).oldest_queued_at is None

    # Nobody has claimed since, so it has not joined its tenant's line yet.
    house.later(seconds=21)
    assert stock(house).oldest_queued_at == due

    house.store.write(lambda tx: tx.claimable(1, None, None, house.now))
    assert stock(house).oldest_queued_at == due


@pytest.fixture
def ended(house: House) -> list[Job]:
    """One job of each end."""
    return [house.completed(), house.fail(house.running()), house.cancel(house.submit())]


def test_every_ended_job_has_its_record(house: House, ended: list[Job]) -> None:
    house.later(seconds=3600)

    assert stock(house).terminal_without_in_app == 0


def test_the_store_has_a_size(house: House) -> None:
    found = stock(house)

    assert found.store_bytes > 0
    assert found.wal_bytes >= 0


def test_the_backlog_is_what_a_cleanup_would_delete(house: House) -> None:
    house.completed(partials=2)
    own = house.completed(results_ttl_seconds=3600, ttl_requested=True)
    held = house.completed()
    house.running()
    house.store.write(lambda tx: tx.set_hold(held.org_id, held.job_id, held=True))

    for seconds, old in ((1, 3), (3600, 4)):
        house.later(seconds=seconds)
        counted = house.store.read(lambda reader: reader.count_retention(EVERYTHING, house.now))
        assert counted.results.delete_count == old
        assert backlog(house) == {
            Section.RESULTS: old,
            Section.EVENTS: counted.events.delete_count,
            Section.JOBS: counted.jobs.delete_count,
        }
    assert own.ttl_requested


def test_the_backlog_is_counted_no_further_than_asked(house: House) -> None:
    house.completed(partials=4)
    house.completed(results_ttl_seconds=0, ttl_requested=True)
    house.later(seconds=1)

    assert backlog(house, at_most=3) == {Section.RESULTS: 3, Section.EVENTS: 3, Section.JOBS: 2}
    assert backlog(house, at_most=1) == dict.fromkeys(Section, 1)


def test_a_store_says_who_it_is(house: House) -> None:
    facts = house.store.read(lambda reader: reader.facts())

    assert facts.store_id == "store-1"
    assert facts.created_at is not None
    assert facts.schema_revision == house.store.info().schema_revision
