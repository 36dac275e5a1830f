"""Traces: the facts of a job become OpenTelemetry spans, one trace from the request that made it to its result.

Ids are derived from the job's, and its trace from the traceparent it was submitted with, so that every process that
takes part, after any restart, adds to the same trace without anything being stored for it. Spans are made on a thread
of their own. Needs the extra ``otel``; imports ``domain``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from async_delivery.domain.job import Job, JobId
from async_delivery.ops.backlog import Backlog
from async_delivery.ops.facts import REQUEST

CLOSE_SECONDS = 5.0
PREFIX = "async_delivery."
# How an attempt can end, by the fact that tells it.
OUTCOMES: Mapping[str, str] = {
    "job.completed": "completed",
    "job.canceled": "canceled",
    "attempt.failed": "failed",
    "attempt.released": "released",
    "attempt.lost": "lost",
}
_OF_JOBS = frozenset({*OUTCOMES, "attempt.started", "job.partial_published", "job.cancel_requested"})
_MAX_RUNNING = 10_000
_MAX_EVENTS = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Entry = tuple[int, str, Mapping[str, Any]]


@dataclass(slots=True)
class _Running:
    """An attempt of this process: since when (ns), and what has happened in it."""

    start_ns: int
    events: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)


class _Ids(RandomIdGenerator):
    """Gives out the ids that were set, once; random ones otherwise."""

    def __init__(self) -> None:
        self.trace_id: int | None = None
        self.span_id: int | None = None

    def generate_trace_id(self) -> int:
        given, self.trace_id = self.trace_id, None
        return given or super().generate_trace_id()

    def generate_span_id(self) -> int:
        given, self.span_id = self.span_id, None
        return given or super().generate_span_id()


class Traces:
    """Makes spans of facts and hands them to ``processor``. ``hear`` is a telemetry subscriber.

    Which traces are kept is the sampler's decision, set by OTEL_TRACES_SAMPLER; by default that of the caller's
    traceparent, and everything without one.
    """

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        self._ids = _Ids()
        resource = Resource.create()
        ours = {"service.version": version}
        # OTEL_SERVICE_NAME goes over this.
        if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
            ours["service.name"] = "async-delivery"
        resource = resource.merge(Resource(ours))
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("async_delivery", version)
        self._propagator = TraceContextTextMapPropagator()
        self._running: dict[tuple[JobId, int], _Running] = {}
        self._backlog: Backlog[Entry] = Backlog("traces", self._take_all)

    def hear(self, name: str, values: Mapping[str, Any]) -> None:
        """A fact of telemetry, on any thread. Of requests only those that made a job or belong to a caller's trace."""
        if name == REQUEST:
            if values.get("job") is None and values.get("traceparent") is None:
                return
        elif name not in _OF_JOBS:
            return
        self._backlog.put((time.time_ns(), name, values))

    def close(self) -> bool:
        """Make and send what waits, for some seconds at most. False if it could not all be sent."""
        made = self._backlog.close(CLOSE_SECONDS)
        # A collector that does not answer is tried for longer than a server takes to stop.
        sending = Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)
        return made and not sending.is_alive()

    def _take_all(self, entries: list[Entry]) -> None:
        for at_ns, name, values in entries:
            if name == REQUEST:
                self._request(at_ns, values)
            else:
                self._job(name, values["job"])

    # ------------------------------------------------------------ requests
    def _request(self, at_ns: int, values: Mapping[str, Any]) -> None:
        job: Job | None = values.get("job")
        if job is not None:
            context, trace_id = self._origin(job)
            self._ids.trace_id, self._ids.span_id = trace_id, _id("request", job.job_id)
        else:
            texts = values["traceparent"]
            context = self._remote(texts[0].decode("latin-1") if len(texts) == 1 else None)
            if not get_current_span(context).get_span_context().is_valid:
                return
        status = values["status"]
        span = self._tracer.start_span(
            f"{values['method']} {values['route']}".rstrip(),
            context,
            SpanKind.SERVER,
            _given(
                {
                    "http.request.method": values["method"],
                    "http.route": values["route"] or None,
                    "http.response.status_code": status,
                    f"{PREFIX}request_id": values["request_id"],
                    f"{PREFIX}correlation_id": values.get("correlation_id"),
                    f"{PREFIX}org_id": values["org_id"],
                    f"{PREFIX}job_id": job.job_id if job else None,
                }
            ),
            start_time=at_ns - int(values["seconds"] * 1e9),
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(at_ns)
        self._ids.trace_id = self._ids.span_id = None

    # ------------------------------------------------------------ jobs
    def _job(self, name: str, job: Job) -> None:
        key = (job.job_id, job.attempt)
        at_ns = _ns(job.updated_at)
        if name == "attempt.started":
            if len(self._running) >= _MAX_RUNNING:
                # Attempts that were taken over elsewhere are never told of again.
                del self._running[next(iter(self._running))]
            self._running[key] = _Running(at_ns)
        elif name in OUTCOMES and job.attempt:
            self._attempt_span(job, OUTCOMES[name], self._running.pop(key, _Running(at_ns)))
        elif (running := self._running.get(key)) and len(running.events) < _MAX_EVENTS:
            facts = {f"{PREFIX}result_id": job.result_id} if name == "job.partial_published" else {}
            running.events.append((name, at_ns, _given(facts)))
        if job.status.terminal:
            self._job_span(job)

    def _attempt_span(self, job: Job, outcome: str, running: _Running) -> None:
        """From claim to end. ``canceled`` may also be how the job ends whose attempt failed."""
        span = self._tracer.start_span(
            f"attempt {job.analysis}",
            self._inside(job, "job"),
            SpanKind.CONSUMER,
            {**_of(job), f"{PREFIX}attempt": job.attempt, f"{PREFIX}outcome": outcome},
            start_time=running.start_ns,
        )
        for name, at_ns, facts in running.events:
            span.add_event(name, facts, at_ns)
        if outcome == "completed" and job.result_id:
            span.add_event("job.completed", {f"{PREFIX}result_id": job.result_id}, _ns(job.updated_at))
        if outcome in {"failed", "lost"}:
            code = job.error.code if job.error and outcome == "failed" else "worker_lost"
            span.set_attribute("error.type", str(code))
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(job.updated_at))

    def _job_span(self, job: Job) -> None:
        """From submit to the end, around all attempts."""
        context = self._inside(job, "request")
        self._ids.span_id = _id("job", job.job_id)
        span = self._tracer.start_span(
            f"job {job.analysis}",
            context,
            SpanKind.INTERNAL,
            _given(
                {
                    **_of(job),
                    f"{PREFIX}status": job.status.value,
                    f"{PREFIX}attempts": job.attempt,
                    f"{PREFIX}result_id": job.result_id,
                    f"{PREFIX}retry_of": job.retry_of,
                    "error.type": str(job.error.code) if job.error else None,
                }
            ),
            start_time=_ns(job.submitted_at),
        )
        if job.status.value == "failed":
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(job.finished_at or job.updated_at))
        self._ids.span_id = None

    # ------------------------------------------------------------ ids
    def _remote(self, traceparent: str | None) -> Context:
        return self._propagator.extract({"traceparent": traceparent} if traceparent else {}, Context())

    def _origin(self, job: Job) -> tuple[Context, int]:
        """What the request that made ``job`` stands in: the caller's span or nothing, and the id of the trace."""
        context = self._remote(job.traceparent)
        found = get_current_span(context).get_span_context()
        return context, found.trace_id if found.is_valid else _id("trace", job.job_id, 16)

    def _inside(self, job: Job, what: str) -> Context:
        """The context of one of the job's own spans, which may have been made elsewhere, or not yet."""
        context, trace_id = self._origin(job)
        found = get_current_span(context).get_span_context()
        if found.is_valid:
            flags = found.trace_flags
        else:
            decision = self._provider.sampler.should_sample(None, trace_id, what).decision
            flags = TraceFlags(TraceFlags.DEFAULT if decision is Decision.DROP else TraceFlags.SAMPLED)
        parent = SpanContext(trace_id, _id(what, job.job_id), is_remote=True, trace_flags=flags)
        return set_span_in_context(NonRecordingSpan(parent), Context())


def _id(what: str, job_id: str, size: int = 8) -> int:
    """An id as random as the job's own, the same in every process. Never 0, which would be none."""
    digest = hashlib.sha256(f"{what}:{job_id}".encode()).digest()
    return int.from_bytes(digest[:size], "big") or 1


def _of(job: Job) -> dict[str, Any]:
    return {
        f"{PREFIX}job_id": job.job_id,
        f"{PREFIX}org_id": job.org_id,
        f"{PREFIX}correlation_id": job.correlation_id,
        f"{PREFIX}analysis": job.analysis,
    }


def _given(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _ns(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000
