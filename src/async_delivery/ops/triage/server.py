"""What the server says: health, readiness, signals, and the reads that tenants do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from async_delivery.domain.job import JobStatus
from async_delivery.domain.signal import (
    CLEANUP_EXIT_CODE,
    EVENTS_DELETE_COUNT,
    HTTP_5XX_RATE,
    P95_MS,
    RESULTS_DELETE_COUNT,
    WITHOUT_IN_APP,
    Level,
)
from async_delivery.domain.triage import ErrorClass, Fault
from async_delivery.ops.probe import Answer, Probe, UnreachableError, not_ready, segment
from async_delivery.ops.triage.notes import Notes
from async_delivery.ops.triage.tenant import Tenant, seen_under_another_spelling

_CLASS_OF_SIGNAL = {
    HTTP_5XX_RATE.name: ErrorClass.RESULT_READ,
    P95_MS.name: ErrorClass.RESULT_READ,
    CLEANUP_EXIT_CODE.name: ErrorClass.RETENTION,
    RESULTS_DELETE_COUNT.name: ErrorClass.RETENTION,
    EVENTS_DELETE_COUNT.name: ErrorClass.RETENTION,
    WITHOUT_IN_APP.name: ErrorClass.NOTIFICATION_READ,
}
# What to do, and the command for it, where there is one.
_START = (
    "if its process is gone, read the end of its log and start it again; otherwise correct --base-url",
    "async-delivery serve",
)
_HANGS = (
    "it listens and does not answer: if it is the server, run doctor, then restart it; or correct --base-url",
    "async-delivery doctor",
)
_MEND = ("mend what /health/ready names", None)
_STEPS: Mapping[str, tuple[str, str | None]] = {
    "store_writable": (
        "do what it says; if it says that a write does not end, end the process that holds the database",
        "async-delivery store info",
    ),
    "worker_alive": (
        "its worker hangs: keep what doctor finds, then restart the server; nothing accepted is lost",
        "async-delivery doctor",
    ),
    "queue_drained": (
        "see whether workers run and what they are busy with; start more of them if all are busy",
        "async-delivery jobs --status running",
    ),
    "not_draining": ("it was told to stop: see that it is started again, or another one in its place", None),
}
_LOG_STEP = "look in the server's log for that request, then at the store with the same time"


def ask_server(probe: Probe, tenant: Tenant, job_id: str | None, result_id: str | None, notes: Notes) -> None:
    """Ask all of it, as far as the server can be reached."""
    try:
        health = probe.get("/health")
    except UnreachableError as exc:
        notes.fact("server", "health", str(exc))
        notes.found(
            Fault.SERVER_UNREACHABLE,
            ErrorClass.RESULT_READ,
            f"nothing can be read: {exc}",
            *(_START if exc.refused else _HANGS),
        )
        return
    notes.fact("server", "health", _shown(health))
    notes.fact("server", "version", health.body.get("version"))
    if health.status != 200 or health.body.get("ok") is not True:
        notes.found(
            Fault.SERVER_UNREACHABLE,
            ErrorClass.RESULT_READ,
            f"{health.said()}: it is not this service, or something before it does not let requests through",
            "correct --base-url, or look at the proxy in front of the server",
        )
        return
    for ask in (_readiness, _signals):
        _carefully(lambda ask=ask: ask(probe, notes), notes)
    if tenant.org_id is not None:
        _carefully(lambda: Reading(probe, tenant.org_id or "", notes).read(job_id, result_id), notes)


def _carefully(ask: Any, notes: Notes) -> None:
    """A server that goes away, or answers in another form, in the middle of it is a finding too."""
    try:
        ask()
    except UnreachableError as exc:
        notes.found(
            Fault.SERVER_UNREACHABLE,
            ErrorClass.RESULT_READ,
            f"the server stopped answering meanwhile: {exc}",
            "see whether the server's process still runs, and read the end of its log",
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as exc:
        notes.found(
            Fault.RESULT_READ_FAILS,
            ErrorClass.RESULT_READ,
            f"an answer of the server has not the form it should have ({type(exc).__name__}: {exc})",
            "compare the version of the server with that of this program",
            "async-delivery --version",
        )


def _readiness(probe: Probe, notes: Notes) -> None:
    answer = probe.get("/health/ready")
    checks = answer.body.get("checks")
    if isinstance(checks, list):
        notes.fact("server", "ready", {each["name"]: each["detail"] for each in checks})
    for fault in not_ready(answer):
        name = fault.partition(":")[0]
        notes.found(
            Fault.NOT_READY, ErrorClass.NONE, f"the server is not ready: {fault}", *_STEPS.get(name, _MEND)
        )


def _signals(probe: Probe, notes: Notes) -> None:
    answer = probe.get("/ops/signals")
    if answer.status != 200:
        notes.fact("server", "signals", _shown(answer))
        return
    signals = answer.body["signals"]
    notes.fact("server", "signals", {each["name"]: f"{each['level']} ({each['value']})" for each in signals})
    if pause := answer.body.get("cleanup_pause"):
        notes.paused(pause["paused_at"], pause["by"], pause["why"])
    for each in signals:
        if each["level"] in (Level.WARNING, Level.CRITICAL):
            notes.found(
                Fault.SIGNAL,
                _CLASS_OF_SIGNAL.get(each["name"], ErrorClass.NONE),
                f"{each['name']} is {each['level']} at {each['value']:g}",
                str(each["hint"]),
                "async-delivery signals",
            )


class Reading:
    """The reads of one tenant: a job, its result, its notifications."""

    def __init__(self, probe: Probe, org_id: str, notes: Notes) -> None:
        self._probe, self._org_id, self._notes = probe, org_id, notes

    def read(self, job_id: str | None, result_id: str | None) -> None:
        """What was named; the tenant's newest jobs if nothing was."""
        if result_id is not None:
            job_id = self._permalink(result_id) or job_id
        if job_id is not None:
            self._job(job_id, read_result=result_id is None)
        elif result_id is None:
            self._newest()

    def _newest(self) -> None:
        """The newest job, and where that has not completed the newest one that has."""
        newest = self._list(limit="1")
        if newest is None:
            return
        if not newest:
            self._notes.fact("reads", "jobs", "the tenant has none")
            return
        jobs = (
            newest
            if newest[0]["status"] == JobStatus.COMPLETED
            else [*newest, *(self._list(status=JobStatus.COMPLETED.value, limit="1") or [])]
        )
        for job in jobs:
            self._job(str(job["job_id"]), read_result=True, asked_for=False)

    def _list(self, **params: str) -> list[dict[str, Any]] | None:
        answer = self._probe.get("/analyze/jobs", params)
        if answer.status != 200:
            self._refused(answer, ErrorClass.RESULT_READ)
            return None
        return list(answer.body["jobs"])

    def _job(self, job_id: str, *, read_result: bool, asked_for: bool = True) -> None:
        path = f"/analyze/jobs/{segment(job_id)}"
        answer = self._probe.get(path)
        self._notes.fact("reads", f"job {job_id}", _shown(answer))
        if answer.status != 200:
            self._refused(answer, ErrorClass.RESULT_READ, path)
            return
        job = answer.body["job"]
        self._notes.job_id = job_id
        self._notes.fact("reads", f"job {job_id}", f"{job['status']}, {_shown(answer)}")
        for name, what in (
            ("queued_at", "queued"),
            ("started_at", "started"),
            ("finished_at", job["status"]),
        ):
            self._notes.happened(job.get(name), f"job {job_id} {what}")
        status = JobStatus(job["status"])
        if status is JobStatus.COMPLETED and not job.get("result_id"):
            self._notes.found(
                Fault.RESULT_READ_FAILS,
                ErrorClass.RESULT_READ,
                f"job {job_id} is completed and has no result_id",
                "verify the store",
                "async-delivery store check",
            )
        if read_result and job.get("result_id"):
            self._permalink(str(job["result_id"]), asked_for=asked_for)
        self._notifications(job_id, status)

    # ------------------------------------------------------------ the permalink
    def _permalink(self, result_id: str, *, asked_for: bool = True) -> str | None:
        """Read it; the job it belongs to. Of one that nobody asked for it is no fault to have expired: the tenant
        has been quiet for longer than results are kept."""
        path = f"/analyze/results/{segment(result_id)}"
        answer = self._probe.get(path, {"view": "latest"})
        self._notes.result_id = result_id
        self._notes.fact("reads", f"result {result_id}", _shown(answer))
        if answer.status == 410 and not asked_for:
            return None
        if answer.status == 410:
            self._notes.found(
                Fault.RESULT_EXPIRED,
                ErrorClass.RESULT_READ,
                f"result {result_id} has expired at {answer.body.get('expired_at')}, as its TTL says",
                "tell the tenant to submit it again; where results must live longer, raise results_ttl_seconds",
            )
            return None
        if answer.status != 200:
            self._refused(answer, ErrorClass.RESULT_READ, path)
            return None
        missing = [
            name
            for name in ("result_id", "requested_result_id", "projection_mode")
            if name not in answer.body
        ]
        if missing:
            self._notes.found(
                Fault.RESULT_READ_FAILS,
                ErrorClass.RESULT_READ,
                f"GET {path} answers 200 without {', '.join(missing)}",
                "look at the proxy in front of the server, which may have changed the answer",
            )
            return None
        milliseconds = answer.seconds * 1000
        if P95_MS.warning is not None and milliseconds > P95_MS.warning:
            self._notes.found(
                Fault.RESULT_SLOW,
                ErrorClass.RESULT_READ,
                f"GET {path} took {milliseconds:.0f} ms",
                P95_MS.hint,
                "async-delivery signals",
            )
        return str(answer.body["job_id"])

    # ------------------------------------------------------------ the notifications
    def _notifications(self, job_id: str, status: JobStatus) -> None:
        path = f"/analyze/jobs/{segment(job_id)}/notifications"
        answer = self._probe.get(path, {"channel": "in_app", "limit": "20"})
        self._notes.fact("reads", f"notifications of {job_id}", _shown(answer))
        if answer.status != 200:
            self._refused(answer, ErrorClass.NOTIFICATION_READ, path)
            return
        told = [each["template_key"] for each in answer.body["notifications"]]
        self._notes.fact("reads", f"notifications of {job_id}", ", ".join(told) or "none")
        if status.terminal and f"async.job.{status}" not in told:
            self._notes.found(
                Fault.NOTIFICATION_MISSING,
                ErrorClass.NOTIFICATION_READ,
                f"job {job_id} is {status} and has no in_app notification async.job.{status}",
                f"{WITHOUT_IN_APP.hint} Verify the store to see which other jobs lack theirs.",
                "async-delivery store check",
            )

    # ------------------------------------------------------------ refusals
    def _refused(self, answer: Answer, error_class: ErrorClass, path: str | None = None) -> None:
        if answer.status == 404 and path is not None:
            self._not_there(answer, path)
            return
        fault = (
            Fault.NOTIFICATION_READ_FAILS
            if error_class is ErrorClass.NOTIFICATION_READ
            else Fault.RESULT_READ_FAILS
        )
        if answer.status in (401, 403):
            fault, step = Fault.TENANT_HEADERS, "give the caller a credential that may read for this tenant"
        elif answer.status == 400:
            fault, step = Fault.TENANT_HEADERS, "correct what the caller sends, as the answer says"
        elif answer.status == 429:
            step = "wait, or raise the quota of the tenant"
        else:
            step = _LOG_STEP
        self._notes.found(fault, error_class, answer.said(), step)

    def _not_there(self, answer: Answer, path: str) -> None:
        spelling = seen_under_another_spelling(self._probe, self._org_id, path)
        if spelling is not None:
            self._notes.found(
                Fault.OTHER_SPELLING,
                ErrorClass.RESULT_READ,
                f"GET {path} is 404 for tenant {self._org_id}, and there for tenant {spelling}: names are"
                " case-sensitive, byte by byte",
                f"let the caller send X-Org-Id: {spelling}",
                f"async-delivery triage --org {shlex.quote(spelling)}",
            )
            return
        self._notes.found(
            Fault.RESULT_NOT_FOUND,
            ErrorClass.RESULT_READ,
            f"{answer.said()}: for tenant {self._org_id} it is unknown, erased, or another's",
            "ask the caller for the tenant header and the id exactly as they were sent at submit",
        )


def _shown(answer: Answer) -> str:
    return f"{answer.status} in {answer.seconds * 1000:.0f} ms"
