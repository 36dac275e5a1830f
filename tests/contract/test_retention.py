from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.retention import RetentionPolicy, SectionCount
from async_delivery.storage import retention_jobs
from async_delivery.storage.contract import FROM_THE_START, RetentionCount, Section, Store
from tests.contract.support import ALPHA, BETA, House, deleting

# Results and events alone; what becomes of jobs is in test_retention_jobs.
ALL = RetentionPolicy(0, 0, None)
NONE = RetentionPolicy(10**8, 10**8, None)


def count(store: Store, policy: RetentionPolicy, now: datetime) -> RetentionCount:
    return store.read(lambda reader: reader.count_retention(policy, now))


@dataclass
class Swept:
    rows: Counter[Section]
    sizes: Counter[Section]
    tenants: dict[str, Counter[Section]]
    batches: int


def sweep(store: Store, policy: RetentionPolicy, now: datetime, limit: int = 1000) -> Swept:
    """Delete batch after batch, each from where the one before has left off, until nothing old is left; no batch may
    be larger than asked for."""
    swept = Swept(Counter(), Counter(), {}, 0)
    for section in Section:
        more = section is not Section.JOBS or policy.jobs_ttl_seconds is not None
        since = FROM_THE_START
        while more:
            deleted = store.write(deleting(section, policy, now, limit, since))
            since = deleted.reached
            assert deleted.count <= limit
            assert deleted.count == sum(deleted.per_tenant.values())
            swept.rows[section] += deleted.count
            swept.sizes[section] += deleted.bytes
            for org_id, number in deleted.per_tenant.items():
                swept.tenants.setdefault(org_id, Counter())[section] += number
            swept.batches += 1
            more = deleted.more
    return swept


def test_only_ended_jobs_are_touched(house: House) -> None:
    active = [house.submit(), house.running(), house.partial(house.running(), 1)]
    waiting_again = house.fail(house.partial(house.running(), 2), again=True, retry_after_seconds=9)
    ended = [house.completed(partials=1), house.fail(house.running()), house.cancel(house.submit())]
    house.later(days=1000)

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now)

    assert (found.terminal_job_count, found.active_job_count) == (3, 4)
    assert (found.results.total, found.results.eligible_terminal, found.results.delete_count) == (4, 2, 2)
    assert found.events.delete_count == sum(job.event_seq for job in ended)
    assert found.events.total == sum(job.event_seq for job in [*ended, *active, waiting_again])
    assert swept.rows == {Section.RESULTS: 2, Section.EVENTS: found.events.delete_count}
    for job in active:
        assert len(house.events(job)) == job.event_seq
    assert house.violations() == []


def test_a_deleted_result_leaves_its_row_as_the_receipt(house: House) -> None:
    job = house.completed(payload={"x": 1}, partials=1)
    assert job.result_id is not None
    result_id = job.result_id
    house.later(days=30)

    sweep(house.store, ALL, house.now)

    found = house.store.read(lambda reader: reader.find_result(ALPHA, result_id))
    assert found is not None
    assert found.result.deleted_at == house.now
    assert house.store.read(lambda reader: reader.find_body(ALPHA, result_id)) is None
    assert house.store.read(lambda reader: reader.list_results(ALPHA, job.job_id)) == []
    newest = house.store.read(lambda reader: reader.newest_result(ALPHA, job.job_id))
    assert newest == found.result
    # The job and what was told of its end are not what a cleanup is for.
    assert house.stored(job) == job
    assert len(house.store.read(lambda reader: reader.list_notifications(ALPHA, job.job_id, None, 9))) == 1


def test_a_second_run_deletes_nothing_and_counts_nothing(house: House) -> None:
    house.completed(partials=2)
    house.cancel(house.submit())

    first = sweep(house.store, ALL, house.now)
    again = count(house.store, ALL, house.now)
    second = sweep(house.store, ALL, house.now)

    assert sum(first.rows.values()) > 0
    assert (again.results.total, again.events.total) == (0, 0)
    assert sum(second.rows.values()) == 0
    assert second.batches == 2


def test_the_cutoff_is_exact_and_counts_from_the_end_of_the_job(house: House) -> None:
    job = house.running()
    house.later(days=5)
    house.complete(job)
    policy = RetentionPolicy(60, 120, None)
    ended = house.now

    def going(at: datetime) -> tuple[int, int]:
        found = count(house.store, policy, at)
        return found.results.delete_count, found.events.delete_count

    step = timedelta(microseconds=1)
    assert going(ended + timedelta(seconds=60) - step) == (0, 0)
    assert going(ended + timedelta(seconds=60)) == (1, 0)
    assert going(ended + timedelta(seconds=120) - step) == (1, 0)
    assert going(ended + timedelta(seconds=120)) == (1, 3)
    assert sum(sweep(house.store, policy, ended + timedelta(seconds=60) - step).rows.values()) == 0
    assert sweep(house.store, policy, ended + timedelta(seconds=60)).rows == {
        Section.RESULTS: 1,
        Section.EVENTS: 0,
    }


def test_a_ttl_that_the_tenant_asked_for_goes_before_the_policys(house: House) -> None:
    short = house.completed(ttl_requested=True, results_ttl_seconds=10)
    longer = house.completed(ttl_requested=True, results_ttl_seconds=10_000)
    plain = house.completed(results_ttl_seconds=10)
    policy = RetentionPolicy(1000, 10**8, None)

    def kept() -> list[str]:
        return [job.job_id for job in (short, longer, plain) if house.results(job)]

    assert sum(sweep(house.store, policy, house.later(seconds=9)).rows.values()) == 0
    sweep(house.store, policy, house.later(seconds=1))
    assert kept() == [longer.job_id, plain.job_id]
    sweep(house.store, policy, house.later(seconds=990))
    assert kept() == [longer.job_id]
    found = count(house.store, ALL, house.now)
    assert found.results.delete_count == 0
    sweep(house.store, policy, house.later(seconds=9000))
    assert kept() == []


def test_a_held_job_is_kept_and_counted_until_the_hold_is_lifted(house: House) -> None:
    job = house.completed(partials=1)
    house.completed()
    house.store.write(lambda tx: tx.set_hold(ALPHA, job.job_id, True))

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now)

    assert (found.results.held_count, found.events.held_count) == (2, job.event_seq)
    assert found.results.kept_count == 2
    assert swept.rows == {Section.RESULTS: 1, Section.EVENTS: 3}
    house.store.write(lambda tx: tx.set_hold(ALPHA, job.job_id, False))
    assert sweep(house.store, ALL, house.now).rows == {Section.RESULTS: 2, Section.EVENTS: job.event_seq}


def test_a_hold_that_is_not_old_yet_is_not_counted_as_held(house: House) -> None:
    job = house.completed()
    house.store.write(lambda tx: tx.set_hold(ALPHA, job.job_id, True))

    found = count(house.store, NONE, house.now)

    assert (found.results.held_count, found.results.total) == (0, 1)


def test_tenants_are_counted_apart(house: House) -> None:
    house.completed(ALPHA, partials=2)
    house.completed(BETA)
    house.submit("gamma")

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now)

    assert found.per_tenant == {
        ALPHA: {"results": 3, "events": 5, "jobs": 0},
        BETA: {"results": 1, "events": 3, "jobs": 0},
    }
    assert {
        org: {str(name): counts[name] for name in Section} for org, counts in swept.tenants.items()
    } == found.per_tenant


def test_bytes_are_those_of_the_bodies_and_payloads(house: House) -> None:
    house.completed(payload="ü" * 500)

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now)

    assert found.results.bytes == 2 * 500 + 2
    assert swept.sizes == {Section.RESULTS: found.results.bytes, Section.EVENTS: found.events.bytes}
    assert found.events.bytes > 0


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_batches_that_go_on_where_the_one_before_has_ended_leave_nothing_out(
    house: House, limit: int
) -> None:
    # Several end at the same instant, and a batch may end between them.
    for _ in range(4):
        for own_ttl in (False, True, False):
            house.completed(partials=1, ttl_requested=own_ttl, results_ttl_seconds=5)
        house.later(seconds=10)
    house.later(days=1)
    found = count(house.store, ALL, house.now)

    swept = sweep(house.store, ALL, house.now, limit)

    assert swept.rows == {Section.RESULTS: 24, Section.EVENTS: found.events.delete_count}
    left = count(house.store, ALL, house.now)
    assert left.results.total == left.events.total == 0
    assert house.violations() == []


def test_a_count_without_what_is_going_finds_the_same_stock(house: House) -> None:
    held = house.completed(partials=1)
    house.store.write(lambda tx: tx.set_hold(ALPHA, held.job_id, True))
    house.completed()
    house.running()
    house.later(days=30)
    whole = count(house.store, ALL, house.now)

    found = house.store.read(lambda reader: reader.count_retention(ALL, house.now, going=False))

    def without_going(section: SectionCount) -> SectionCount:
        return replace(section, delete_count=0, bytes=0)

    assert min(whole.results.delete_count, whole.events.delete_count, whole.results.held_count) > 0
    assert found == replace(
        whole,
        results=without_going(whole.results),
        events=without_going(whole.events),
        jobs=without_going(whole.jobs),
        per_tenant={},
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_a_long_log_is_deleted_from_the_front_in_small_batches(house: House, limit: int) -> None:
    job = house.running()
    for number in range(20):
        job = house.progress(job, number)
    job = house.complete(job)
    house.later(seconds=1)
    house.completed()

    deleted = house.store.write(lambda tx: tx.delete_old(Section.EVENTS, ALL, house.now, limit))

    left = house.store.read(lambda reader: reader.list_events(ALPHA, job.job_id, 0, 99))
    assert deleted.more
    assert [event.event_seq for event in left] == list(range(deleted.count + 1, job.event_seq + 1))
    assert house.violations() == []
    rest = sweep(house.store, ALL, house.now, limit)
    assert rest.rows[Section.EVENTS] + deleted.count == job.event_seq + 3
    assert house.violations() == []


@pytest.mark.parametrize(("most", "batches"), [(250, [2, 2]), (101, [1, 1, 1, 1])])
def test_large_bodies_go_in_batches_of_their_bytes_and_one_alone_in_any_case(
    house: House, monkeypatch: pytest.MonkeyPatch, most: int, batches: list[int]
) -> None:
    # Each of these is 102 bytes; the one of a job with a TTL of its own has no room beside the others.
    for own_ttl in (False, False, False, True):
        house.completed(payload="x" * 100, ttl_requested=own_ttl, results_ttl_seconds=0)
    house.later(days=1)
    monkeypatch.setattr(retention_jobs, "MAX_BATCH_BYTES", most)

    deleted = [house.store.write(deleting(Section.RESULTS, ALL, house.now, 100))]
    while deleted[-1].more:
        since = deleted[-1].reached
        deleted.append(house.store.write(deleting(Section.RESULTS, ALL, house.now, 100, since)))

    assert [batch.count for batch in deleted] == batches


def test_a_job_with_many_results_is_cleaned_in_small_batches(house: House) -> None:
    house.completed(partials=10)

    swept = sweep(house.store, ALL, house.now, limit=3)

    assert swept.rows[Section.RESULTS] == 11
    assert house.violations() == []


Step = tuple[str, str, bool, int, int, bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from([ALPHA, BETA, "gamma"]),
        st.sampled_from(["queued", "running", "completed", "failed", "canceled", "requeued"]),
        st.booleans(),
        st.integers(0, 200),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=12,
)


def played(house: House, step: Step) -> Job:
    org_id, ending, own_ttl, ttl, partials, held = step
    job = house.running(org_id, ttl_requested=own_ttl, results_ttl_seconds=ttl)
    for number in range(partials):
        job = house.partial(job, "x" * number)
    endings: dict[str, Callable[[Job], Job]] = {
        "completed": lambda it: house.complete(it, {"ttl": ttl}),
        "failed": house.fail,
        "requeued": house.release,
    }
    if ending in endings:
        job = endings[ending](job)
    elif ending == "canceled":
        job = house.cancel(house.release(job))
    elif ending == "queued":
        job = house.submit(org_id)
    if held:
        house.store.write(lambda tx: tx.set_hold(job.org_id, job.job_id, True))
        job = replace(job, held=True)
    house.later(seconds=ttl % 17)
    return job


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=STEPS,
    results_ttl=st.integers(0, 120),
    events_ttl=st.integers(0, 120),
    jobs_ttl=st.none() | st.integers(0, 120),
    limit=st.integers(1, 9),
)
def test_a_live_run_deletes_exactly_what_the_dry_run_counted(
    house: House, steps: list[Step], results_ttl: int, events_ttl: int, jobs_ttl: int | None, limit: int
) -> None:
    for step in steps:
        played(house, step)
    policy = RetentionPolicy(results_ttl, events_ttl, jobs_ttl)

    found = count(house.store, policy, house.now)
    swept = sweep(house.store, policy, house.now, limit)
    after = count(house.store, policy, house.now)

    assert swept.rows[Section.RESULTS] == found.results.delete_count
    assert swept.rows[Section.EVENTS] == found.events.delete_count
    assert swept.rows[Section.JOBS] == found.jobs.delete_count
    assert swept.sizes[Section.RESULTS] == found.results.bytes
    assert swept.sizes[Section.EVENTS] == found.events.bytes
    assert swept.sizes[Section.JOBS] == found.jobs.bytes
    assert {
        org: {str(name): counts[name] for name in Section}
        for org, counts in swept.tenants.items()
        if any(counts.values())
    } == found.per_tenant
    assert (after.results.delete_count, after.events.delete_count, after.jobs.delete_count) == (0, 0, 0)
    assert (after.jobs.total, after.jobs.held_count) == (found.jobs.kept_count, found.jobs.held_count)
    assert (after.results.total, after.events.total) == (found.results.kept_count, found.events.kept_count)
    assert after.results.held_count == found.results.held_count
    assert house.violations() == []


def test_what_is_counted_agrees_with_the_rule_told_in_words(house: House) -> None:
    jobs = []
    for number in range(40):
        endings = ["queued", "running", "completed", "failed", "canceled", "requeued"]
        step = (ALPHA, endings[number % 6], number % 4 == 0, number * 5, number % 3, number % 5 == 0)
        jobs.append(played(house, step))
    policy = RetentionPolicy(90, 60, 75)

    found = count(house.store, policy, house.now)

    results = events = gone = 0
    for job in map(house.stored, jobs):
        if job.finished_at is None or job.held:
            assert job.held or job.status not in {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED}
            continue
        ttl = job.results_ttl_seconds if job.ttl_requested else policy.results_ttl_seconds
        if job.finished_at + timedelta(seconds=ttl) <= house.now:
            results += job.result_seq
        if job.finished_at + timedelta(seconds=policy.events_ttl_seconds) <= house.now:
            events += job.event_seq
        longest = max(ttl if job.result_seq else 0, policy.events_ttl_seconds, policy.jobs_ttl_seconds or 0)
        gone += job.finished_at + timedelta(seconds=longest) <= house.now
    assert results > 0
    assert gone > 0
    assert (found.results.delete_count, found.events.delete_count, found.jobs.delete_count) == (
        results,
        events,
        gone,
    )
