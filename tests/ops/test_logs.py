from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.cleanup import Runner
from async_delivery.domain.failure import Failure, FailureCode
from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.engine import jobs, runs
from async_delivery.engine.retention import run_cleanup
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.facts import FACTS
from async_delivery.ops.logs import json_line
from async_delivery.ops.repeats import Repeats
from async_delivery.testing import FakeClock
from tests.api.support import Web
from tests.engine.support import ALPHA, claimed, completed, submitted
from tests.ops.logbook import ANSWERED, DEADLINE_SECONDS, Page


def test_an_answered_request_is_one_line_with_what_an_operator_searches_for(page: Page) -> None:
    began = datetime.now(UTC)

    with page.log():
        telemetry.emit("http.answered", **{**ANSWERED, "at": time.perf_counter()})

    (record,) = page.records()
    assert abs((datetime.fromisoformat(record.pop("ts")) - began).total_seconds()) < DEADLINE_SECONDS
    assert record == {
        "level": "info",
        "event": "http.answered",
        "request_id": "r-1",
        "correlation_id": "c-1",
        "route": "/analyze/results/{result_id}",
        "method": "GET",
        "status": 200,
        "ms": 1.234,
        "bytes": 512,
        "org_id": "alpha",
    }


def test_the_time_of_a_line_is_utc_with_milliseconds(page: Page) -> None:
    with page.log():
        telemetry.emit("http.answered", **ANSWERED)

    assert re.match(r'\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":', page.text())


def test_the_line_of_a_submit_names_the_job_it_made(page: Page, rt: Runtime) -> None:
    with page.log(), Web(rt) as web:
        answer = web.submit(headers={"X-Request-Id": "req-7", "X-Correlation-Id": "cor-7"})

    (record,) = page.records("http.answered")
    job = answer.json()["job"]
    assert (record["request_id"], record["correlation_id"]) == ("req-7", "cor-7")
    assert (record["job_id"], record["status"], record["org_id"]) == (job["job_id"], 202, ALPHA)


def test_reads_of_a_job_and_its_result_carry_the_correlation_id_of_the_submit(
    page: Page, rt: Runtime
) -> None:
    job = submitted(rt, correlation_id="cor-8")
    done = completed(rt, claimed(rt), 1)

    with page.log(), Web(rt) as web:
        web.get(f"/analyze/results/{done.result_id}")
        web.get(f"/analyze/jobs/{job.job_id}")
        web.get("/analyze/jobs/nobodys")

    found = [(one["route"], one.get("correlation_id")) for one in page.records("http.answered")]
    assert found == [
        ("/analyze/results/{result_id}", "cor-8"),
        ("/analyze/jobs/{job_id}", "cor-8"),
        ("/analyze/jobs/{job_id}", None),
    ]


def test_the_end_of_a_job_is_told_with_its_outcome_and_its_length(
    page: Page, rt: Runtime, clock: FakeClock
) -> None:
    with page.log():
        job = submitted(rt)
        run = claimed(rt)
        clock.advance(seconds=2.5)
        done = completed(rt, run, 1)

    (record,) = page.records("job.completed")
    assert (record["level"], record["job_id"], record["result_id"]) == ("info", job.job_id, done.result_id)
    assert (record["status"], record["attempt"], record["seconds"]) == ("completed", 1, 2.5)


def test_a_failed_attempt_is_told_with_its_code_and_not_with_its_words(page: Page, rt: Runtime) -> None:
    submitted(rt)
    run = claimed(rt)
    assert run.job.fence
    reason = Failure(FailureCode.ANALYSIS_ERROR.value, "row 7 of patients.csv is bad", retryable=False)

    with page.log("debug"):
        runs.fail(rt, ALPHA, run.job.job_id, run.job.fence, reason, again=False)

    (record,) = page.records("attempt.failed")
    assert (record["status"], record["error_code"]) == ("failed", "analysis_error")
    assert "patients" not in page.text()


def test_a_cleanup_is_told_with_its_counts_and_as_an_error_where_it_did_not_get_through(
    page: Page, rt: Runtime, clock: FakeClock
) -> None:
    with page.log():
        report = run_cleanup(rt.store, RetentionPolicy(), runner=Runner.SCRIPT, now=clock.now())
        broken = replace(report, errors=("stopped half-way: disk full",))
        telemetry.emit("cleanup.finished", report=broken, runner=Runner.SERVER)

    good, bad = page.records("cleanup.finished")
    assert (good["level"], good["runner"], good["exit_code"]) == ("info", "script", 0)
    assert (good["results_deleted"], good["events_kept"]) == (0, 0)
    assert "errors" not in good
    assert (bad["level"], bad["exit_code"], bad["errors"]) == ("error", 2, ["stopped half-way: disk full"])


def test_a_forkserver_is_news_only_where_the_one_before_it_died(page: Page) -> None:
    with page.log("warning"):
        telemetry.emit("forkserver.started", pid=1, again=False, seconds=0.1)
        telemetry.emit("forkserver.started", pid=2, again=True, seconds=0.1)

    assert [(record["level"], record["pid"]) for record in page.records()] == [("warning", 2)]


@pytest.mark.parametrize(
    ("event", "values"), [("chore.failed", {"chore": "rescue", "seconds": 1}), ("fork.failed", {})]
)
def test_a_trouble_that_lasts_is_told_at_once_and_then_once_a_minute_with_its_count(
    page: Page, monkeypatch: pytest.MonkeyPatch, event: str, values: dict[str, Any]
) -> None:
    began = time.time_ns()
    with page.log():
        for second in (0, 1, 2, 59, 60, 61, 119, 120):
            monkeypatch.setattr(time, "time_ns", lambda second=second: began + second * 10**9)
            telemetry.emit(event, error="OSError(28)", **values)
        telemetry.emit(event, error="OSError(5)", **values)

    told = [(record["error"], record["count"]) for record in page.records(event)]
    assert told == [("OSError(28)", 1), ("OSError(28)", 4), ("OSError(28)", 3), ("OSError(5)", 1)]


def test_a_trouble_is_told_again_at_once_when_the_clock_was_set_back() -> None:
    repeats = Repeats()

    assert [repeats.count("full", second * 10**9) for second in (100, 101, 50, 51)] == [1, None, 2, None]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_nothing_below_the_level_is_said(page: Page, rt: Runtime, level: str) -> None:
    with page.log(level):
        submitted(rt)
        completed(rt, claimed(rt), 1)
        telemetry.emit("worker.ended", worker_id="w")
        telemetry.emit("write.refused", job_id="j", attempt=1)
        telemetry.emit("chore.failed", chore="prune", error="OSError(28)", seconds=1.0)
        for name in ("debug", "info", "warning", "error"):
            logging.getLogger("a.library").log(logging.getLevelName(name.upper()), "one of %s", name)

    order = ["debug", "info", "warning", "error"]
    said = [record["level"] for record in page.records()]
    assert set(said) == set(order[order.index(level) :])
    assert len(page.records("log.message")) == len(set(said))


def test_a_fact_that_the_table_does_not_know_gives_away_its_name_alone(page: Page) -> None:
    with page.log("debug"):
        telemetry.emit("vault.opened", password="canary")
    with page.log("info"):
        telemetry.emit("vault.opened", password="canary")

    (record,) = page.records()
    assert sorted(record) == ["event", "level", "ts"]


def test_records_of_logging_keep_their_level_logger_and_words(page: Page) -> None:
    with page.log():
        logging.getLogger("uvicorn.error").warning("%d sockets left", 3)
        logging.getLogger("x").error("bad arguments: %d", "no number")

    first, second = page.records()
    assert (first["event"], first["level"], first["logger"]) == ("log.message", "warning", "uvicorn.error")
    assert first["message"] == "3 sockets left"
    assert second["message"] == "bad arguments: %d"


def _reads_a_number(text: str) -> int:
    return int(text)


def test_an_exception_is_one_line_with_its_stack_causes_first(page: Page) -> None:
    with page.log():
        try:
            try:
                _reads_a_number("canary")
            except ValueError as exc:
                raise OSError(28, "No space left on device") from exc
        except OSError:
            logging.getLogger("x").exception("it broke", extra={"request_id": "r-9"})

    (record,) = page.records()
    assert (record["message"], record["request_id"]) == ("it broke", "r-9")
    assert record["error"] == "OSError: [Errno 28] No space left on device"
    stack = record["stack"]
    assert stack[1].endswith(" _reads_a_number")
    assert re.search(r"test_logs\.py:\d+ ", stack[0])
    assert stack.index("ValueError") < stack.index(record["error"])


def test_members_of_a_group_and_endless_causes_are_told_and_bounded(page: Page) -> None:
    one, two = OSError("first"), OSError("second")
    one.__cause__, two.__cause__ = two, one

    with page.log():
        logging.getLogger("x").error("group", exc_info=ExceptionGroup("both", [one, RuntimeError("third")]))

    (record,) = page.records()
    assert {"OSError: first", "OSError: second", "RuntimeError: third"} <= set(record["stack"])
    assert len(record["stack"]) < 10


def test_a_failure_behind_a_route_is_joined_to_its_request(page: Page, rt: Runtime, monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such table: jobs")

    monkeypatch.setattr(jobs, "list_jobs", broken)

    with page.log(), Web(rt) as web:
        answer = web.get("/analyze/jobs", headers={"X-Request-Id": "req-500"})

    (fault,), (line,) = page.records("log.message"), page.records("http.answered")
    assert answer.status_code == 500
    assert fault["request_id"] == line["request_id"] == "req-500"
    assert (fault["level"], fault["error"], line["status"]) == (
        "error",
        "RuntimeError: no such table: jobs",
        500,
    )


def test_every_field_of_every_fact_about_a_job_can_be_told_of_every_state(rt: Runtime) -> None:
    queued = submitted(rt)
    run = claimed(rt)
    failed = replace(
        run.job, status=JobStatus.FAILED, error=Failure(FailureCode.TIMEOUT.value, "late", retryable=True)
    )
    done = completed(rt, run, 1)

    for job in (queued, run.job, failed, done):
        for name, told in FACTS.items():
            if name.startswith(("job.", "attempt.")) and name != "job.erased":
                fields = {key: pick({"job": job}) for key, pick in told.fields.items()}
                assert fields["job_id"] == job.job_id
                json_line(fields)


def test_a_submit_is_a_fact_once_and_not_again_for_its_replay(rt: Runtime) -> None:
    told: list[Job] = []
    detach = telemetry.attach(
        lambda name, values: told.append(values["job"]) if name == "job.submitted" else None
    )

    first = submitted(rt, idempotency_key="k")
    submitted(rt, idempotency_key="k")
    detach()

    assert [job.job_id for job in told] == [first.job_id]
