from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.errors import LeaseLostError, PayloadTooLargeError, ResultExpiredError
from async_delivery.domain.failure import failure
from async_delivery.domain.job import AttemptOutcome, JobStatus
from async_delivery.domain.result import View, seal
from async_delivery.engine import inputs, jobs, notifications, results, runs
from async_delivery.engine.estimates import Estimates
from async_delivery.engine.rescue import rescue
from async_delivery.engine.runs import Report
from async_delivery.engine.runtime import Policy, Runtime, new_id
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, BETA, claimed, completed, published, submitted


def test_a_rescued_jobs_first_worker_cannot_overwrite_the_second(rt: Runtime) -> None:
    submitted(rt)
    first = claimed(rt, "worker-a")
    assert [job.job_id for job in rescue(rt, alive=[])] == [first.job.job_id]
    second = claimed(rt, "worker-b")

    with pytest.raises(LeaseLostError):
        completed(rt, first, {"from": "a"})

    assert completed(rt, second, {"from": "b"}).status is JobStatus.COMPLETED


def test_a_refused_write_is_told_to_whoever_counts(rt: Runtime) -> None:
    submitted(rt)
    first = claimed(rt)
    rescue(rt, alive=[])
    heard: list[tuple[str, dict[str, Any]]] = []
    detach = telemetry.attach(lambda name, values: heard.append((name, values)))

    with pytest.raises(LeaseLostError):
        completed(rt, first)
    detach()

    assert heard == [("write.refused", {"job_id": first.job.job_id, "attempt": 1})]


def test_a_subscriber_that_breaks_breaks_nobody_else(rt: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str, values: dict[str, Any]) -> None:
        raise RuntimeError("observer down")

    detach = telemetry.attach(broken)
    submitted(rt)
    done = completed(rt, claimed(rt))
    detach()

    assert done.status is JobStatus.COMPLETED
    assert capsys.readouterr().err.count("observer down") == 1


def test_rescue_leaves_the_attempts_of_living_workers_alone(rt: Runtime, clock: FakeClock) -> None:
    submitted(rt)
    run = claimed(rt, "worker-a")
    clock.advance(seconds=3600)

    assert rescue(rt, alive=["worker-a"]) == []
    assert completed(rt, run).status is JobStatus.COMPLETED


def test_a_heartbeat_prolongs_the_lease_and_brings_the_cancel(rt: Runtime, clock: FakeClock) -> None:
    submitted(rt)
    run = claimed(rt, "worker-a")
    assert run.job.fence is not None
    fences = {run.job.job_id: run.job.fence}
    (before,) = runs.heartbeat(rt, "worker-a", fences)
    jobs.cancel(rt, ALPHA, run.job.job_id, "tenant", None)
    clock.advance(seconds=10)

    (renewal,) = runs.heartbeat(rt, "worker-a", fences)

    assert (before.held, before.cancel_requested) == (True, False)
    assert (renewal.held, renewal.cancel_requested) == (True, True)
    lease = jobs.find(rt, ALPHA, run.job.job_id).lease
    assert lease is not None
    assert lease.expires_at == clock.now() + timedelta(seconds=rt.policy.lease_seconds)


def test_a_heartbeat_tells_a_worker_what_it_has_lost(rt: Runtime) -> None:
    submitted(rt)
    run = claimed(rt, "worker-a")
    assert run.job.fence is not None
    rescue(rt, alive=[])
    claimed(rt, "worker-b")

    (renewal,) = runs.heartbeat(rt, "worker-a", {run.job.job_id: run.job.fence})

    assert not renewal.held


def test_partials_can_be_read_on_the_way_and_the_last_word_is_the_final_one(rt: Runtime) -> None:
    submitted(rt)
    run = claimed(rt)
    first = published(rt, run, {"step": 1}, percent=40.0, stage="one").result_id
    assert first is not None
    projection, _, body = results.permalink(rt, ALPHA, first, View.LATEST)
    assert (body, projection.resolved.is_final) == (b'{"step":1}', False)

    done = completed(rt, run, {"step": 2})

    latest, _, body = results.permalink(rt, ALPHA, first, View.LATEST)
    assert (body, latest.resolved.result_id) == (b'{"step":2}', done.result_id)
    requested, _, body = results.permalink(rt, ALPHA, first, View.REQUESTED)
    assert (body, requested.resolved.result_id) == (b'{"step":1}', first)
    assert [r.result_seq for r in results.list_results(rt, ALPHA, done.job_id)] == [1, 2]


def test_results_are_gone_for_readers_the_moment_they_expire(rt: Runtime, clock: FakeClock) -> None:
    submitted(rt, results_ttl_seconds=60)
    done = completed(rt, claimed(rt))
    assert done.result_id is not None

    clock.advance(seconds=59)
    results.permalink(rt, ALPHA, done.result_id, View.LATEST)
    clock.advance(seconds=1)

    with pytest.raises(ResultExpiredError):
        results.permalink(rt, ALPHA, done.result_id, View.LATEST)
    assert results.list_results(rt, ALPHA, done.job_id) == []


def test_a_failed_job_keeps_its_partials_and_says_why(rt: Runtime) -> None:
    job = submitted(rt)
    run = claimed(rt)
    assert run.job.fence is not None
    partial = published(rt, run, {"step": 1}).result_id

    failed = runs.fail(
        rt,
        ALPHA,
        job.job_id,
        run.job.fence,
        failure("no_data", "the table is empty"),
        again=False,
        log="hello\n",
    )

    assert (failed.status, failed.result_id) == (JobStatus.FAILED, partial)
    assert failed.error is not None
    assert failed.error.code == "no_data"
    assert jobs.logs(rt, ALPHA, job.job_id) == [(1, "hello\n")]
    (told,) = notifications.list_notifications(rt, ALPHA, job.job_id, None, 10)
    assert told.payload["error_code"] == "no_data"


def test_a_failed_attempt_waits_for_its_backoff_and_then_runs_again(rt: Runtime, clock: FakeClock) -> None:
    job = submitted(rt)
    run = claimed(rt)
    assert run.job.fence is not None
    runs.fail(rt, ALPHA, job.job_id, run.job.fence, failure("busy", "later", retryable=True), again=True)

    assert runs.claim(rt, "worker-a", 1) == []
    clock.advance(seconds=1.0)  # half of two seconds
    assert claimed(rt).job.attempt == 2


def test_attempts_are_kept_with_their_outcomes(rt: Runtime) -> None:
    job = submitted(rt)
    first = claimed(rt)
    assert first.job.fence is not None
    runs.release(rt, ALPHA, job.job_id, first.job.fence)
    second = claimed(rt)
    assert second.job.fence is not None
    runs.lose(rt, ALPHA, job.job_id, second.job.fence)
    claimed(rt)
    rescue(rt, alive=[])
    completed(rt, claimed(rt))

    kept = rt.store.read(lambda reader: reader.list_attempts(ALPHA, job.job_id))

    assert [one.attempt for one in kept] == [1, 2, 3, 4]
    assert [one.outcome for one in kept] == [
        AttemptOutcome.RELEASED,
        AttemptOutcome.LOST,
        AttemptOutcome.LOST,
        AttemptOutcome.COMPLETED,
    ]
    assert jobs.find(rt, ALPHA, job.job_id).error_count == 0


def test_progress_that_says_nothing_new_writes_nothing(rt: Runtime) -> None:
    job = submitted(rt)
    run = claimed(rt)
    assert run.job.fence is not None
    for _ in range(3):
        runs.progress(rt, ALPHA, job.job_id, run.job.fence, Report(percent=10.0, stage="s"))

    assert jobs.find(rt, ALPHA, job.job_id).event_seq == 3  # queued, running, one progress


def test_tenants_take_turns(rt: Runtime) -> None:
    for _ in range(20):
        submitted(rt, ALPHA)
    completed(rt, claimed(rt))
    submitted(rt, BETA)

    order = [claimed(rt).job.org_id for _ in range(3)]

    assert BETA in order[:2]


def test_a_stored_file_reaches_the_worker_byte_for_byte(rt: Runtime, tmp_path: Path) -> None:
    chunks = [b"x" * 1000, b"", b"y" * 500]
    file = inputs.keep_input(rt, ALPHA, "data.csv", None, chunks, 10_000)
    submitted(rt, input=file)

    run = claimed(rt)
    assert run.input == file
    inputs.fetch_input(rt, file, tmp_path / "input")

    assert (tmp_path / "input").read_bytes() == b"".join(chunks)


def test_a_file_over_the_limit_is_refused_and_not_entered(rt: Runtime) -> None:
    with pytest.raises(PayloadTooLargeError):
        inputs.keep_input(rt, ALPHA, "big", None, [b"x" * 600, b"x" * 600], 1000)


def test_estimates_come_from_what_the_analysis_took_lately(rt: Runtime, clock: FakeClock) -> None:
    job = submitted(rt)
    assert Estimates(rt).eta_seconds(job) is None
    for seconds in (10.0, 30.0, 20.0):
        run = claimed(rt)
        clock.advance(seconds=seconds)
        completed(rt, run)
        submitted(rt)

    estimates = Estimates(rt)
    running = claimed(rt).job
    clock.advance(seconds=5)

    assert estimates.eta_seconds(submitted(rt)) == pytest.approx(20.0)
    assert estimates.eta_seconds(running) == pytest.approx(15.0)
    assert estimates.retry_after_seconds(running) == 8


def test_a_lease_that_one_late_heartbeat_could_lose_is_refused() -> None:
    with pytest.raises(ValueError, match="lease_seconds"):
        Policy(lease_seconds=20.0, heartbeat_seconds=10.0)


def test_ids_are_uuids_of_version_7_in_order_of_time_with_random_tails() -> None:
    made = [new_id() for _ in range(1000)]

    assert len({text[14:] for text in made}) == 1000
    assert all(len(text) == 36 and text[14] == "7" and text[19] in "89ab" for text in made)
    assert [text[:13] for text in made] == sorted(text[:13] for text in made)
    assert len({text[19] for text in made}) == 4


def test_the_body_that_was_sealed_is_the_body_that_is_read(rt: Runtime) -> None:
    payload = {"ä": ["\u2028", 1.5, -0.0, 2**60], "long": "x" * 300_000}
    submitted(rt)
    done = completed(rt, claimed(rt), payload)
    assert done.result_id is not None

    projection, _, body = results.permalink(rt, ALPHA, done.result_id, View.REQUESTED)

    assert body == seal(payload).data
    assert projection.resolved.sha256 == seal(payload).sha256
