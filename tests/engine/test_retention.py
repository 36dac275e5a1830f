from __future__ import annotations

from datetime import timedelta

import pytest

from async_delivery.domain.errors import NotFoundError, ResultExpiredError, StoreBusyError, ValidationError
from async_delivery.domain.job import Job
from async_delivery.domain.result import View
from async_delivery.domain.retention import DEFAULT_JOBS_TTL_SECONDS, ExitCode, RetentionReport
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import jobs, results
from async_delivery.engine.retention import cleanup_retention
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, BETA, claimed, completed, published, submitted


def ended(rt: Runtime, org_id: OrgId = ALPHA, partials: int = 1, **asked: object) -> Job:
    submitted(rt, org_id, **asked)
    run = claimed(rt)
    for number in range(partials):
        published(rt, run, {"partial": number})
    return completed(rt, run, {"final": True})


def swept(
    rt: Runtime,
    results_ttl: int,
    events_ttl: int,
    *,
    dry_run: bool = False,
    jobs_ttl: int | None = DEFAULT_JOBS_TTL_SECONDS,
) -> RetentionReport:
    return cleanup_retention(
        rt.store,
        results_ttl_seconds=results_ttl,
        events_ttl_seconds=events_ttl,
        jobs_ttl_seconds=jobs_ttl,
        dry_run=dry_run,
        now=rt.clock.now(),
    )


def test_cleanup_takes_what_is_old_and_a_second_run_takes_nothing(rt: Runtime, clock: FakeClock) -> None:
    old = ended(rt)
    clock.advance(seconds=100)
    young = ended(rt, BETA)
    clock.advance(seconds=50)

    first = swept(rt, 120, 120)
    second = swept(rt, 120, 120)

    assert (first.results.delete_count, first.results.kept_count, first.results.total) == (2, 2, 4)
    assert first.events.delete_count == old.event_seq
    assert first.per_tenant == {"alpha": {"results": 2, "events": old.event_seq, "jobs": 0}}
    assert (first.terminal_job_count, first.exit_code) == (2, ExitCode.DONE)
    assert (second.results.delete_count, second.events.delete_count, second.results.total) == (0, 0, 2)
    assert young.result_id is not None
    results.permalink(rt, BETA, young.result_id, View.LATEST)
    assert old.result_id is not None
    with pytest.raises(ResultExpiredError):
        results.permalink(rt, ALPHA, old.result_id, View.LATEST)


def test_a_dry_run_counts_exactly_what_the_live_run_then_deletes(rt: Runtime, clock: FakeClock) -> None:
    for number in range(7):
        ended(rt, partials=number % 3)
        clock.advance(seconds=10)
    held = ended(rt)
    jobs.hold(rt, ALPHA, held.job_id, True)
    submitted(rt)

    dry = swept(rt, 35, 55, dry_run=True)
    live = swept(rt, 35, 55)

    assert dry.dry_run
    assert dry.results == live.results
    assert dry.events == live.events
    assert dry.per_tenant == live.per_tenant
    assert live.results.delete_count > 0


def test_only_terminal_jobs_are_touched_even_with_a_ttl_of_zero(rt: Runtime, clock: FakeClock) -> None:
    submitted(rt)
    running = claimed(rt)
    partial = published(rt, running, {"n": 1})
    submitted(rt, BETA)
    clock.advance(seconds=10**6)

    report = swept(rt, 0, 0)

    assert (report.results.delete_count, report.events.delete_count) == (0, 0)
    assert report.active_job_count == 2
    assert partial.result_id is not None
    results.permalink(rt, ALPHA, partial.result_id, View.REQUESTED)


def test_the_clock_of_retention_is_the_end_of_the_job(rt: Runtime, clock: FakeClock) -> None:
    submitted(rt)
    run = claimed(rt)
    published(rt, run, {"early": True})
    clock.advance(seconds=4 * 86400)
    completed(rt, run)

    report = swept(rt, 3 * 86400, 3 * 86400)

    assert (report.results.delete_count, report.events.delete_count) == (0, 0)


def test_a_held_job_is_kept_and_counted_and_goes_after_the_hold(rt: Runtime, clock: FakeClock) -> None:
    job = ended(rt)
    jobs.hold(rt, ALPHA, job.job_id, True)
    clock.advance(seconds=10)

    kept = swept(rt, 0, 0)
    jobs.hold(rt, ALPHA, job.job_id, False)
    gone = swept(rt, 0, 0)

    assert (kept.results.held_count, kept.results.delete_count) == (2, 0)
    assert gone.results.delete_count == 2


def test_a_ttl_the_tenant_asked_for_holds_against_the_cleanups(rt: Runtime, clock: FakeClock) -> None:
    asked_long = ended(rt, results_ttl_seconds=1000, partials=0)
    ended(rt, results_ttl_seconds=10, partials=0)
    clock.advance(seconds=50)

    report = swept(rt, 40, 40)
    none_short = swept(rt, 400, 400)

    assert (report.results.delete_count, none_short.results.delete_count) == (1, 0)
    assert asked_long.result_id is not None
    results.permalink(rt, ALPHA, asked_long.result_id, View.LATEST)


def test_a_permalink_is_410_while_the_job_is_kept_and_unknown_afterwards(
    rt: Runtime, clock: FakeClock
) -> None:
    job = ended(rt)
    assert job.result_id is not None
    clock.advance(seconds=89 * 86_400)
    first = cleanup_retention(
        rt.store, results_ttl_seconds=604_800, events_ttl_seconds=259_200, now=clock.now()
    )
    with pytest.raises(ResultExpiredError):
        results.permalink(rt, ALPHA, job.result_id, View.LATEST)

    clock.advance(seconds=86_400)
    second = cleanup_retention(
        rt.store, results_ttl_seconds=604_800, events_ttl_seconds=259_200, now=clock.now()
    )

    assert (first.jobs.delete_count, first.jobs.kept_count) == (0, 1)
    assert (second.jobs.delete_count, second.jobs.kept_count) == (1, 0)
    assert second.per_tenant == {ALPHA: {"results": 0, "events": 0, "jobs": 1}}
    for view in View:
        with pytest.raises(NotFoundError):
            results.permalink(rt, ALPHA, job.result_id, view)
    with pytest.raises(NotFoundError):
        jobs.find(rt, ALPHA, job.job_id)


def test_a_dry_run_counts_the_jobs_of_a_whole_store_that_would_be_emptied(
    rt: Runtime, clock: FakeClock
) -> None:
    for number in range(30):
        ended(rt, ALPHA if number % 3 else BETA, partials=number % 3)
        clock.advance(seconds=1)
    submitted(rt)

    dry = swept(rt, 5, 7, jobs_ttl=10, dry_run=True)
    live = swept(rt, 5, 7, jobs_ttl=10)
    again = swept(rt, 5, 7, jobs_ttl=10)

    assert dry.jobs == live.jobs
    assert dry.per_tenant == live.per_tenant
    assert live.jobs.delete_count == 21
    assert again.jobs.delete_count == 0


def test_jobs_are_kept_for_ever_where_it_is_said_so(rt: Runtime, clock: FakeClock) -> None:
    ended(rt)
    clock.advance(seconds=10**9)

    report = swept(rt, 0, 0, jobs_ttl=None)

    assert (report.results.delete_count, report.jobs.delete_count) == (2, 0)
    artefact = report.to_json()
    assert (artefact["ttl_seconds"]["jobs"], artefact["jobs"]["cutoff"]) == (None, None)
    with pytest.raises(ValidationError):
        swept(rt, 0, 0, jobs_ttl=-1)


def test_many_rows_go_in_many_small_batches_and_none_is_left(rt: Runtime, clock: FakeClock) -> None:
    for _ in range(120):
        ended(rt, partials=3)
    clock.advance(seconds=1)

    report = swept(rt, 0, 0)

    assert report.results.delete_count == report.results.total == 480
    assert swept(rt, 0, 0).events.total == 0


def test_a_stopped_cleanup_reports_what_stands_and_the_next_one_finishes(
    rt: Runtime, clock: FakeClock
) -> None:
    for _ in range(60):
        ended(rt, partials=3)
    clock.advance(seconds=1)
    asked = iter([False, True])

    half = cleanup_retention(
        rt.store, results_ttl_seconds=0, events_ttl_seconds=0, now=clock.now(), stop=lambda: next(asked)
    )
    rest = swept(rt, 0, 0)

    assert half.exit_code is ExitCode.PARTIAL
    assert 0 < half.results.delete_count < 240
    assert half.results.delete_count + rest.results.delete_count == 240


def test_two_cleanups_at_once_are_refused(rt: Runtime) -> None:
    with rt.store.cleanup_lock(), pytest.raises(StoreBusyError):
        swept(rt, 0, 0)


def test_a_bad_ttl_is_refused_before_anything_is_touched(rt: Runtime, clock: FakeClock) -> None:
    ended(rt)
    clock.advance(seconds=1)

    with pytest.raises(ValidationError):
        swept(rt, -1, 0)
    assert swept(rt, 0, 0, dry_run=True).results.delete_count == 2


def test_the_artefact_has_every_field_of_the_contract(rt: Runtime, clock: FakeClock) -> None:
    ended(rt)
    clock.advance(seconds=1)
    rt.clock.now()

    artefact = swept(rt, 0, 3600, dry_run=True).to_json()

    assert set(artefact) == {
        "runner", "store_file", "started_at", "finished_at", "duration_seconds", "dry_run", "now",
        "terminal_job_count", "active_job_count", "ttl_seconds", "results", "events", "jobs", "per_tenant",
        "errors",
    }  # fmt: skip
    assert set(artefact["results"]) == {
        "total", "eligible_terminal", "delete_count", "kept_count", "skipped_missing_timestamp",
        "held_count", "bytes", "cutoff",
    }  # fmt: skip
    assert artefact["ttl_seconds"] == {"results": 0, "events": 3600, "jobs": 7_776_000}
    assert set(artefact["jobs"]) == set(artefact["results"])
    assert artefact["results"]["bytes"] == len(b'{"partial":0}') + len(b'{"final":true}')
    assert (clock.now() - timedelta(seconds=3600)).isoformat(timespec="milliseconds") in artefact["events"][
        "cutoff"
    ].replace("Z", "+00:00")
