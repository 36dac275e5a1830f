"""What this process counts, in Prometheus' terms: a subscriber of telemetry that turns facts into series.

No label ever names a job, a result or a tenant. Series that count are there with 0 from the start, so that a rate
sees the first event. What is in the store is another collector's (``stock``). Imports domain and telemetry.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from async_delivery.domain.job import Job, JobId
from async_delivery.ops.answers import Answers
from async_delivery.ops.windows import Window

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("completed", "failed", "canceled", "released", "lost")

_JOB_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
# An attempt whose end is never told (its lease was lost) must not be remembered for ever.
_MAX_STARTED = 10_000

Handler = Callable[[dict[str, Any]], None]


class Metrics:
    """The series of one process. ``hear`` is a telemetry subscriber.

    routes      (template, method) of every route, for the zeros
    analyses    names in the catalogue
    chores      names of the chores that run here
    """

    def __init__(
        self,
        version: str,
        *,
        routes: Iterable[tuple[str, str]] = (),
        analyses: Iterable[str] = (),
        chores: Iterable[str] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        self._answers = Answers(routes)
        self._started: dict[JobId, float] = {}
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(self._answers)
        self._build(version)
        self._zeros(list(analyses), list(chores))
        self._handlers: dict[str, Handler] = {
            "http.answered": self._answers.add,
            "attempt.started": self._attempt_started,
            "job.completed": lambda values: self._attempt_ended(values["job"], "completed"),
            "job.canceled": lambda values: self._attempt_ended(values["job"], "canceled"),
            "attempt.failed": lambda values: self._attempt_ended(values["job"], "failed"),
            "attempt.released": lambda values: self._attempt_ended(values["job"], "released"),
            "attempt.lost": self._attempt_lost,
            "write.refused": lambda values: self._refused.inc(),
            "chore.failed": lambda values: self._chores.labels(values["chore"]).inc(),
            "log.behind": lambda values: self._dropped.inc(values["count"]),
        }

    def hear(self, name: str, values: dict[str, Any]) -> None:
        """Take in one fact; those that nothing counts cost one look-up."""
        handler = self._handlers.get(name)
        if handler is not None:
            handler(values)

    @property
    def window(self) -> Window:
        """The permalink's last minutes."""
        return self._answers.window

    def expose(self) -> bytes:
        """All of it as Prometheus' text format."""
        return generate_latest(self.registry)

    # ------------------------------------------------------------ the series
    def _build(self, version: str) -> None:
        registry = self.registry
        info = Gauge(
            "async_delivery_build_info", "Always 1; what runs.", ["version", "python"], registry=registry
        )
        info.labels(version, platform.python_version()).set(1)
        self._wait = Histogram(
            "async_wait_seconds",
            "From submit to the first start of a job.",
            ["analysis"],
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._run = Histogram(
            "async_run_seconds",
            "From start to end of an attempt that completed, failed or was canceled.",
            ["analysis"],
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._attempts = Counter(
            "async_attempts", "Ended attempts by outcome.", ["analysis", "outcome"], registry=registry
        )
        self._lost = Counter(
            "async_attempts_lost", "Attempts taken back from a worker that died.", registry=registry
        )
        self._refused = Counter(
            "async_stale_writes_refused",
            "Writes refused because another attempt had taken over the job.",
            registry=registry,
        )
        self._chores = Counter(
            "async_chore_failures", "Runs of a chore that ended in an error.", ["chore"], registry=registry
        )
        self._dropped = Counter(
            "async_log_lines_dropped", "Log lines that stderr did not take in time.", registry=registry
        )

    def _zeros(self, analyses: list[str], chores: list[str]) -> None:
        for analysis in analyses:
            self._wait.labels(analysis)
            self._run.labels(analysis)
            for outcome in OUTCOMES:
                self._attempts.labels(analysis, outcome)
        for chore in chores:
            self._chores.labels(chore)

    # ------------------------------------------------------------ facts
    def _attempt_started(self, values: dict[str, Any]) -> None:
        job: Job = values["job"]
        if len(self._started) >= _MAX_STARTED:
            self._started.clear()
        self._started[job.job_id] = monotonic()
        if job.attempt == 1 and job.started_at is not None:
            waited = (job.started_at - job.submitted_at).total_seconds()
            self._wait.labels(job.analysis).observe(max(0.0, waited))

    def _attempt_ended(self, job: Job, outcome: str) -> None:
        began = self._started.pop(job.job_id, None)
        # A cancel that found its attempt failing ends the job as canceled.
        told = "canceled" if str(job.status) == "canceled" else outcome
        self._attempts.labels(job.analysis, told).inc()
        if began is not None and told in ("completed", "failed", "canceled"):
            self._run.labels(job.analysis).observe(monotonic() - began)

    def _attempt_lost(self, values: dict[str, Any]) -> None:
        job: Job = values["job"]
        self._started.pop(job.job_id, None)
        self._lost.inc()
        self._attempts.labels(job.analysis, "lost").inc()
