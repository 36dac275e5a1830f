from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from async_delivery import telemetry
from async_delivery.domain.failure import Failure, FailureCode
from async_delivery.engine import jobs, rescue, runs
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.traces import Traces
from async_delivery.testing import FakeClock
from tests.api.support import Web
from tests.engine.support import ALPHA, claimed, completed, published, submitted
from tests.system.live import LiveServer

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


class Tracing:
    """One process that traces: hears facts while it is entered, and has its spans afterwards."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._traces = Traces(SimpleSpanProcessor(self._exporter), "1.2.3")

    def __enter__(self) -> Tracing:
        self._detach = telemetry.attach(self._traces.hear)
        return self

    def __exit__(self, *_: object) -> None:
        self._detach()
        assert self._traces.close()

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


def trace_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context
    return format_trace_id(context.trace_id)


def id_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context
    return format_span_id(context.span_id)


def parent_of(span: ReadableSpan) -> str | None:
    return format_span_id(span.parent.span_id) if span.parent else None


def attribute(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(f"async_delivery.{name}")


def submitted_over_http(rt: Runtime, **headers: str) -> str:
    with Web(rt) as web:
        answer = web.submit(headers={"X-Request-Id": "req-1", **headers})
    assert answer.status_code == 202
    return str(answer.json()["job"]["job_id"])


# ---------------------------------------------------------------- one trace


def test_a_job_is_one_trace_from_its_request_through_its_attempt_to_its_result(
    rt: Runtime, clock: FakeClock
) -> None:
    with Tracing() as tracing:
        job_id = submitted_over_http(rt)
        clock.advance(seconds=2)
        run = claimed(rt)
        clock.advance(seconds=3)
        partial = published(rt, run, 1)
        clock.advance(seconds=4)
        done = completed(rt, run, 2)

    request, job = tracing.one("POST /analyze"), tracing.one("job count")
    attempt = tracing.one("attempt count")
    assert len(tracing.spans) == 3
    assert len({trace_of(span) for span in tracing.spans}) == 1
    assert [parent_of(span) for span in (request, job, attempt)] == [None, id_of(request), id_of(job)]
    assert [attribute(span, "job_id") for span in (request, job, attempt)] == [job_id] * 3
    assert (request.kind, attempt.kind) == (SpanKind.SERVER, SpanKind.CONSUMER)
    assert attribute(request, "request_id") == "req-1"
    assert attribute(job, "result_id") == done.result_id
    assert job.start_time
    assert job.end_time
    assert attempt.start_time
    assert (job.end_time - job.start_time, attempt.start_time - job.start_time) == (9 * 10**9, 2 * 10**9)
    assert attempt.end_time == job.end_time
    told = [(event.name, (event.attributes or {})["async_delivery.result_id"]) for event in attempt.events]
    assert told == [("job.partial_published", partial.result_id), ("job.completed", done.result_id)]


def test_the_callers_trace_is_taken_over(rt: Runtime) -> None:
    with Tracing() as tracing:
        submitted_over_http(rt, traceparent=SAMPLED)
        completed(rt, claimed(rt), 1)

    assert {trace_of(span) for span in tracing.spans} == {TRACE}
    assert parent_of(tracing.one("POST /analyze")) == CALLER
    assert parent_of(tracing.one("job count")) == id_of(tracing.one("POST /analyze"))


@pytest.mark.parametrize(
    "header", ["", "00-0-0-01", f"00-{'0' * 32}-{CALLER}-01", f"ff-{TRACE}-{CALLER}-01", "\x1b[2J"]
)
def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(rt: Runtime, header: str) -> None:
    with Tracing() as tracing:
        submitted_over_http(rt, traceparent=header)
        completed(rt, claimed(rt), 1)

    (trace,) = {trace_of(span) for span in tracing.spans}
    assert len(tracing.spans) == 3
    assert trace != TRACE
    assert parent_of(tracing.one("POST /analyze")) is None


def test_every_attempt_is_a_span_of_the_same_trace_with_its_outcome(rt: Runtime, clock: FakeClock) -> None:
    reason = Failure(FailureCode.ANALYSIS_ERROR.value, "no", retryable=True)

    with Tracing() as tracing:
        submitted_over_http(rt)
        run = claimed(rt)
        assert run.job.fence
        runs.fail(rt, ALPHA, run.job.job_id, run.job.fence, reason, again=True)
        clock.advance(seconds=600)
        run = claimed(rt)
        assert run.job.fence
        runs.release(rt, ALPHA, run.job.job_id, run.job.fence)
        claimed(rt)
        clock.advance(seconds=rt.policy.lease_seconds + 1)
        rescue.rescue(rt, [])
        completed(rt, claimed(rt), 1)

    attempts = tracing.named("attempt count")
    assert [attribute(span, "outcome") for span in attempts] == ["failed", "released", "lost", "completed"]
    assert [attribute(span, "attempt") for span in attempts] == [1, 2, 3, 4]
    assert {parent_of(span) for span in attempts} == {id_of(tracing.one("job count"))}
    assert len({id_of(span) for span in tracing.spans}) == 6
    failed, _, lost, ended = attempts
    assert [span.status.status_code for span in (failed, lost)] == [StatusCode.ERROR] * 2
    assert ended.status.status_code is StatusCode.UNSET
    assert [(span.attributes or {})["error.type"] for span in (failed, lost)] == [
        "analysis_error",
        "worker_lost",
    ]


def test_a_job_that_fails_is_a_span_in_error_without_the_words_of_its_failure(rt: Runtime) -> None:
    reason = Failure(FailureCode.INVALID_INPUT.value, "patients.csv is bad", retryable=False)

    with Tracing() as tracing:
        submitted_over_http(rt)
        run = claimed(rt)
        assert run.job.fence
        runs.fail(rt, ALPHA, run.job.job_id, run.job.fence, reason, again=False)

    job = tracing.one("job count")
    assert (job.status.status_code, (job.attributes or {})["error.type"]) == (
        StatusCode.ERROR,
        "invalid_input",
    )
    assert "patients" not in "".join(span.to_json() for span in tracing.spans)


def test_a_job_canceled_before_it_ran_is_told_without_an_attempt(rt: Runtime) -> None:
    with Tracing() as tracing:
        job = submitted(rt)
        jobs.cancel(rt, ALPHA, job.job_id, "tenant", None)

    assert [span.name for span in tracing.spans] == ["job count"]
    assert attribute(tracing.one("job count"), "status") == "canceled"


def test_another_process_adds_to_the_same_trace(rt: Runtime) -> None:
    with Tracing() as api:
        submitted_over_http(rt)
    with Tracing() as first_worker:
        run = claimed(rt)
    with Tracing() as second_worker:
        completed(rt, run, 1)

    (request,) = api.spans
    attempt, job = second_worker.one("attempt count"), second_worker.one("job count")
    assert first_worker.spans == []
    assert trace_of(request) == trace_of(job) == trace_of(attempt)
    assert (parent_of(job), parent_of(attempt)) == (id_of(request), id_of(job))


def test_a_retry_belongs_to_the_trace_that_the_first_job_was_submitted_in(rt: Runtime) -> None:
    with Tracing() as tracing, Web(rt) as web:
        job_id = submitted_over_http(rt, traceparent=SAMPLED)
        web.post(f"/analyze/jobs/{job_id}/cancel")
        again = web.post(f"/analyze/jobs/{job_id}/retry").json()["job"]["job_id"]
        completed(rt, claimed(rt), 1)

    (second,) = [span for span in tracing.named("job count") if attribute(span, "job_id") == again]
    assert attribute(second, "retry_of") == job_id
    assert trace_of(second) == TRACE
    assert parent_of(second) == id_of(tracing.one("POST /analyze/jobs/{job_id}/retry"))


# ---------------------------------------------------------------- what is no span


def test_of_reads_only_those_that_belong_to_a_callers_trace_are_spans(rt: Runtime) -> None:
    submitted(rt, correlation_id="cor-1")
    done = completed(rt, claimed(rt), 1)
    path = f"/analyze/results/{done.result_id}?view=latest&secret=1"

    with Tracing() as tracing, Web(rt) as web:
        web.get(path)
        web.get(path, headers={"traceparent": SAMPLED})
        web.get(path, headers={"traceparent": "nonsense"})
        web.get(path, headers=[("X-Org-Id", ALPHA), ("traceparent", SAMPLED), ("traceparent", SAMPLED)])

    (span,) = tracing.spans
    assert (span.name, trace_of(span), parent_of(span)) == ("GET /analyze/results/{result_id}", TRACE, CALLER)
    assert attribute(span, "correlation_id") == "cor-1"
    assert (span.attributes or {})["http.response.status_code"] == 200
    assert "secret" not in span.to_json()


def test_a_caller_who_samples_nothing_gets_no_spans(rt: Runtime) -> None:
    with Tracing() as tracing:
        submitted_over_http(rt, traceparent=UNSAMPLED)
        completed(rt, claimed(rt), 1)

    assert tracing.spans == []


def test_a_sampled_share_takes_whole_traces(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")

    with Tracing() as tracing:
        for _ in range(60):
            submitted_over_http(rt)
            completed(rt, claimed(rt), 1)

    traces = [trace_of(span) for span in tracing.spans]
    assert {traces.count(trace) for trace in traces} == {3}
    assert 10 <= len(set(traces)) <= 50


def test_a_replayed_submit_does_not_take_the_place_of_the_first(rt: Runtime) -> None:
    with Tracing() as tracing:
        submitted_over_http(rt, traceparent=SAMPLED, **{"Idempotency-Key": "k"})
        submitted_over_http(rt, traceparent=SAMPLED, **{"Idempotency-Key": "k"})
        completed(rt, claimed(rt), 1)

    first, second = tracing.named("POST /analyze")
    assert (attribute(second, "job_id"), parent_of(second)) == (None, CALLER)
    assert parent_of(tracing.one("job count")) == id_of(first) != id_of(second)


# ---------------------------------------------------------------- a real server, a real collector


class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        received = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                received.append(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.mark.slow
def test_a_server_sends_its_traces_where_the_variable_says(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    server = LiveServer(tmp_path, "--slots", "1").start()
    answer = server.ask(
        "POST",
        "/analyze",
        {"analysis": "selftest"},
        headers={"traceparent": SAMPLED, "X-Request-Id": "req-9"},
    )

    assert server.stop() == 0

    assert answer.status == 200
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"POST /analyze", "job selftest", "attempt selftest"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["attempt selftest"].parent_span_id == spans["job selftest"].span_id
    assert "req-9" in str(spans["POST /analyze"].attributes)
    assert "async-delivery" in str(collector.requests[0].resource_spans[0].resource)


@pytest.mark.slow
def test_a_collector_that_is_not_there_costs_the_traces_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    server = LiveServer(tmp_path, "--slots", "1").start()

    answer = server.ask("POST", "/analyze", {"analysis": "selftest"})

    assert answer.status == 200
    assert server.stop() == 0
    assert "not all traces could be sent" in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.slow
def test_opentelemetrys_own_switch_turns_the_traces_off(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    server = LiveServer(tmp_path, "--slots", "1").start()

    answer = server.ask("POST", "/analyze", {"analysis": "selftest"})

    assert answer.status == 200
    assert server.stop() == 0
    assert collector.requests == []
