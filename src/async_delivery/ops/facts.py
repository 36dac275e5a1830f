"""What the log says of each fact of telemetry: the level, and which of its values. What is not named here stays out.

A fact may carry a whole job, and a job carries a tenant's words: labels, messages, reasons. So fields are chosen one
by one, and docs/reference/logs.md is compared with this table. Imports ``domain``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from async_delivery.domain.job import Job

Values = Mapping[str, Any]
Pick = Callable[[Values], Any]

REQUEST = "http.answered"
MESSAGE = "log.message"
DROPPED = "log.behind"


@dataclass(frozen=True, slots=True)
class Told:
    """How one fact is told.

    level    debug, info, warning or error
    fields   name in the log -> value; one that is None is left out
    meaning  one sentence, for the reference
    worse    the level for values that are worse than usual, None for the others
    alike    values by which one is the same as another, that is told at most once a minute, with its ``count``;
             empty: each is told
    """

    level: str
    fields: Mapping[str, Pick]
    meaning: str
    worse: Callable[[Values], str | None] | None = None
    alike: tuple[str, ...] = ()


def _given(*names: str) -> dict[str, Pick]:
    return {name: _one(name) for name in names}


def _one(name: str) -> Pick:
    return lambda values: values.get(name)


def _job(pick: Callable[[Job], Any]) -> Pick:
    return lambda values: pick(values["job"])


def _report(pick: Callable[[Any], Any]) -> Pick:
    return lambda values: pick(values["report"])


def _seconds(values: Values) -> float:
    return round(float(values["seconds"]), 3)


def _ms(values: Values) -> float:
    return round(float(values["seconds"]) * 1000, 3)


def _since_submit(job: Job) -> float | None:
    return (
        round((job.finished_at - job.submitted_at).total_seconds(), 3)
        if job.finished_at is not None
        else None
    )


_OF_A_JOB: Mapping[str, Pick] = {
    "job_id": _job(lambda job: job.job_id),
    "org_id": _job(lambda job: job.org_id),
    "correlation_id": _job(lambda job: job.correlation_id),
    "analysis": _job(lambda job: job.analysis),
    "attempt": _job(lambda job: job.attempt or None),
    "status": _job(lambda job: job.status.value),
}
_ENDED: Mapping[str, Pick] = {
    **_OF_A_JOB,
    "result_id": _job(lambda job: job.result_id),
    "seconds": _job(_since_submit),
}


FACTS: Mapping[str, Told] = {
    REQUEST: Told(
        "info",
        {
            **_given("request_id", "correlation_id"),
            "route": lambda values: values.get("route") or "unmatched",
            **_given("method", "status"),
            "ms": _ms,
            **_given("bytes", "org_id"),
            "job_id": lambda values: values["job"].job_id if values.get("job") else None,
        },
        "A request was answered, or its client left (status 499).",
    ),
    "job.submitted": Told("debug", _OF_A_JOB, "A job was accepted and is durable."),
    "job.completed": Told("info", _ENDED, "A job has its final result."),
    "job.canceled": Told("info", _ENDED, "A job was stopped on request."),
    "job.cancel_requested": Told(
        "info", _OF_A_JOB, "A job is to be canceled; one that was still waiting is canceled with it."
    ),
    "job.progressed": Told("debug", _OF_A_JOB, "An analysis reported how far it is."),
    "job.partial_published": Told(
        "debug",
        {**_OF_A_JOB, "result_id": _job(lambda job: job.result_id)},
        "A job has a new partial result.",
    ),
    "job.erased": Told("info", _given("job_id", "org_id"), "An ended job was deleted by its tenant."),
    "attempt.started": Told("debug", _OF_A_JOB, "A worker began to execute a job."),
    "attempt.failed": Told(
        "info",
        {**_ENDED, "error_code": _job(lambda job: job.error.code if job.error else None)},
        "An attempt ended in an error; `status` tells whether the job will be tried again.",
    ),
    "attempt.released": Told(
        "info", _OF_A_JOB, "A worker that stops, or has not begun it yet, gave a job back."
    ),
    "attempt.lost": Told("warning", _OF_A_JOB, "A job was taken back from a worker that died."),
    "write.refused": Told(
        "warning",
        _given("job_id", "attempt"),
        "A write of an attempt that no longer owns its job was refused.",
    ),
    "cleanup.finished": Told(
        "info",
        {
            **_given("runner"),
            "exit_code": _report(lambda report: int(report.exit_code)),
            "seconds": _report(
                lambda report: round((report.finished_at - report.started_at).total_seconds(), 3)
            ),
            "results_deleted": _report(lambda report: report.results.delete_count),
            "results_kept": _report(lambda report: report.results.kept_count),
            "events_deleted": _report(lambda report: report.events.delete_count),
            "events_kept": _report(lambda report: report.events.kept_count),
            "jobs_deleted": _report(lambda report: report.jobs.delete_count),
            "jobs_kept": _report(lambda report: report.jobs.kept_count),
            "errors": _report(lambda report: list(report.errors) or None),
        },
        "A cleanup ran; at level error if it did not get through.",
        lambda values: "error" if int(values["report"].exit_code) else None,
    ),
    "cleanup.refused": Told(
        "warning", _given("runner", "exit_code", "error"), "A cleanup was refused, and nothing was deleted."
    ),
    "cleanup.skipped": Told(
        "info",
        _given("reason", "why", "by"),
        "The server's own cleanup gave way: cleanups are `paused`, another one is `busy`, a server sharing the store"
        " has `done` it, or the `clock` was put forward by more than an hour.",
    ),
    "cleanup.paused": Told("warning", _given("why", "by"), "An operator paused the cleanups."),
    "cleanup.resumed": Told("info", _given("why", "by"), "The pause, put on with these words, was lifted."),
    "server.started": Told("info", _given("version", "url", "pid"), "The server answers requests."),
    "server.ended": Told("info", _given("pid"), "The server answers no more and winds up."),
    "worker.started": Told(
        "info",
        _given("worker_id", "slots", "rescued", "orphaned_workdirs"),
        "A worker takes jobs; how many jobs and folders of dead ones it found.",
    ),
    "worker.ended": Told("info", _given("worker_id"), "A worker takes no more jobs."),
    "forkserver.started": Told(
        "debug",
        {**_given("pid", "again"), "seconds": _seconds},
        "The process that children come from runs; at level warning if the one before it died.",
        lambda values: "warning" if values.get("again") else None,
    ),
    "child.started": Told(
        "debug",
        {**_given("analysis", "pid"), "seconds": _seconds},
        "A process for the attempts of an analysis runs.",
    ),
    "child.ended": Told("debug", _given("analysis", "reason", "attempts", "dead"), "Such a process ended."),
    "store.weak": Told(
        "warning",
        _given("warning"),
        "The database is set up so that a promise may break: at start, and when it becomes so.",
    ),
    "store.away": Told(
        "warning",
        _given("error"),
        "The database does not answer, or ended the connection; it is asked again every few seconds.",
    ),
    "store.back": Told("info", {"seconds": _seconds}, "It answers again, after so long."),
    "ray.ready": Told(
        "info",
        {**_given("pid", "address", "nodes", "local"), "seconds": _seconds},
        "Ray is reached, and jobs of analyses for Ray are taken; `local` if the worker started it.",
    ),
    "ray.failed": Told(
        "warning",
        _given("error"),
        "Ray could not be reached or started; tried again, and no job for it is taken meanwhile.",
    ),
    "ray.lost": Told(
        "warning", _given("error"), "The way to Ray broke off; its attempts are lost and run again."
    ),
    "ray.missing": Told(
        "warning", _given("analyses"), "These analyses need the extra `ray`, which is not installed here."
    ),
    "claim.failed": Told(
        "warning",
        _given("error", "count"),
        "A worker could not ask the store for jobs: so often since this was told last, at most once a minute.",
    ),
    "fork.failed": Told(
        "warning",
        _given("error", "count"),
        "No process could be started for an attempt: so often since this was told last, at most once a minute.",
        alike=("error",),
    ),
    "slot.failed": Told(
        "error", _given("job_id", "error"), "A fault of the service itself broke an attempt off."
    ),
    "heartbeat.failed": Told(
        "warning",
        _given("error", "count"),
        "Leases could not be renewed, so often since this was told last; tried again at once.",
    ),
    "lease.lost": Told(
        "warning",
        {**_OF_A_JOB, **_given("reason")},
        "A worker ended the process of an attempt that is no longer its own: it could not renew the lease in time"
        " (`not_renewed`), or the job was taken back from it (`taken`).",
    ),
    "workdir.kept": Told("warning", _given("path"), "The folder of an attempt could not be removed."),
    "chore.finished": Told("debug", {**_given("chore"), "seconds": _seconds}, "A chore ran."),
    "chore.failed": Told(
        "error",
        {**_given("chore", "error"), "seconds": _seconds, **_given("count")},
        "A chore broke off, and comes again: so often with this error since it was told last, at most once a minute.",
        alike=("chore", "error"),
    ),
    MESSAGE: Told(
        "info",
        _given("logger", "message", "request_id", "error", "stack"),
        "A record of Python's logging, at its own level: of this service, its HTTP server, or a library.",
    ),
    DROPPED: Told(
        "warning",
        _given("count"),
        "So many lines were lost because stderr did not take them in time.",
    ),
}
