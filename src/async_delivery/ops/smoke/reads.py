"""The checks that ask the server: health, a job, its result and its notifications."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from async_delivery.domain.job import JobStatus
from async_delivery.domain.notification import Channel
from async_delivery.domain.signal import HTTP_5XX_RATE, Level
from async_delivery.domain.tenant import DEFAULT_ORG
from async_delivery.ops.checks import CheckFailed
from async_delivery.ops.probe import Answer, UnreachableError, not_ready, segment
from async_delivery.ops.smoke.plan import Plan

_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.05, 0.5
_REQUEST = {
    "analysis": "selftest",
    "query": "smoke staging",
    "params": {"stages": 2, "stage_seconds": 0},
    "labels": {"smoke": "staging"},
    "options": {"async_mode": {"requested": True}},
}


class Reads:
    """The server's side of a checklist. Remembers the job that is looked at."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._probe = plan, plan.probe
        self._job: dict[str, Any] = {}
        self.server_version: str | None = None
        self.job_id: str | None = None
        self.result_id: str | None = None

    @property
    def known_job(self) -> tuple[str, str] | None:
        """(org_id, job_id) of a job that the server has shown."""
        return (self._plan.org_id or DEFAULT_ORG, self._job["job_id"]) if self._job else None

    # ------------------------------------------------------------ health
    def health(self) -> str:
        answer = self._get("/health")
        body = answer.body
        if body.get("ok") is not True or not isinstance(body.get("version"), str):
            raise CheckFailed(
                f"{answer.said()}, but not as this service would; is another program on that port?"
            )
        self.server_version = body["version"]
        return f"200, version {body['version']}, {answer.seconds * 1000:.0f} ms"

    # ------------------------------------------------------------ a job of one's own
    def run_a_job(self) -> str:
        """Submit a selftest and follow it to its end."""
        began = monotonic()
        answer = self._ok(self._reach(lambda: self._probe.post("/analyze", _REQUEST)), 202)
        self.job_id = str(answer.body["job"]["job_id"])
        job = self._follow(self.job_id, began)
        if job["status"] != JobStatus.COMPLETED:
            raise CheckFailed(
                f"job {self.job_id} ended as {job['status']} instead of completed: {job.get('error_code')}:"
                f" {job.get('error_message')}; look at GET /analyze/jobs/{self.job_id}/logs"
            )
        return f"job {self.job_id} completed in {monotonic() - began:.1f} s"

    def _follow(self, job_id: str, began: float) -> dict[str, Any]:
        pause = _POLL_SECONDS
        while True:
            self._job = dict(self._get(f"/analyze/jobs/{segment(job_id)}").body["job"])
            if JobStatus(self._job["status"]).terminal:
                return self._job
            if monotonic() - began > self._plan.timeout_seconds:
                raise CheckFailed(self._overdue())
            self._plan.sleep(pause)
            pause = min(_LONGEST_POLL_SECONDS, 2 * pause)

    def _overdue(self) -> str:
        status, waited = self._job["status"], f"{self._plan.timeout_seconds:g} s"
        if status == JobStatus.QUEUED:
            return (
                f"job {self.job_id} is still queued after {waited}: no worker has taken it; look whether workers run"
                f" (serve without --no-workers, or worker){self._not_ready()}"
            )
        return (
            f"job {self.job_id} is still {status} after {waited} ({self._job.get('progress_percent')} %,"
            f" attempt {self._job.get('attempt')}); look at the load of the machine, or give --timeout more"
            f"{self._not_ready()}"
        )

    def _not_ready(self) -> str:
        """What /health/ready has to say to it, where there is such a route."""
        try:
            faults = not_ready(self._probe.get("/health/ready"))
        except UnreachableError:
            return ""
        return f"; /health/ready says: {'; '.join(faults)}" if faults else ""

    # ------------------------------------------------------------ a job that is there
    def current_job(self) -> str:
        """The job to read: the one that was named, or the tenant's newest completed one."""
        tenant = self._plan.org_id or DEFAULT_ORG
        named = self._plan.job_id
        if named is None:
            jobs = self._get("/analyze/jobs", status="completed", limit="1").body["jobs"]
            if not jobs:
                raise CheckFailed(
                    f"tenant {tenant} has no completed job; check --org, or name a job of the tenant with --job"
                )
            named = str(jobs[0]["job_id"])
        self.job_id = named
        answer = self._get(f"/analyze/jobs/{segment(named)}")
        job = dict(answer.body["job"])
        status = JobStatus(job["status"])
        if status is JobStatus.COMPLETED and not job.get("result_id"):
            raise CheckFailed(
                f"job {named} is completed and has no result_id; look at `async-delivery store check`"
            )
        if not status.terminal:
            raise CheckFailed(f"job {named} is still {status}; name one that has ended with --job")
        self._job = job
        return f"job {named} of tenant {tenant} is {status}, {answer.seconds * 1000:.0f} ms"

    def status(self) -> str:
        job = self._job
        result_id = job.get("result_id")
        if not isinstance(result_id, str) or not result_id:
            raise CheckFailed(f"job {self.job_id} is {job['status']} and has no result_id")
        self.result_id = result_id
        return f"result_id {result_id}"

    # ------------------------------------------------------------ its result
    def permalink(self) -> str:
        self.status()
        answer = self._read_permalink()
        body = answer.body
        for name, expected in (
            ("projection_mode", "latest"),
            ("requested_result_id", self.result_id),
            ("result_id", self.result_id),
            ("job_id", self.job_id),
            ("is_final", True),
        ):
            if body.get(name) != expected:
                raise CheckFailed(
                    f"the permalink of {self.result_id} answers {name} {body.get(name)!r}, not {expected!r}"
                )
        if "result" not in body:
            raise CheckFailed(f"the permalink of {self.result_id} answers without a result")
        size = len(answer.text.encode("utf-8", "replace"))
        return f"200, projection_mode latest, {size} bytes, {answer.seconds * 1000:.0f} ms"

    def _read_permalink(self) -> Answer:
        answer = self._permalink_answer()
        if answer.status == 410:
            raise CheckFailed(
                f"result {self.result_id} has expired ({answer.body.get('expired_at')}); name a younger job with --job"
            )
        return self._ok(answer, 200)

    def _permalink_answer(self) -> Answer:
        path = f"/analyze/results/{segment(self.result_id or '')}"
        return self._reach(lambda: self._probe.get(path, {"view": "latest"}))

    # ------------------------------------------------------------ its notifications
    def notification(self) -> str:
        job_id, status = self._job["job_id"], self._job["status"]
        template = f"async.job.{status}"
        answer = self._get(
            f"/analyze/jobs/{segment(job_id)}/notifications", channel=Channel.IN_APP, limit="20"
        )
        told = answer.body["notifications"]
        instants = [each["created_at"] for each in told]
        if instants != sorted(instants, reverse=True):
            raise CheckFailed(f"the notifications of job {job_id} are not latest first")
        found = [each for each in told if each["template_key"] == template]
        if not found:
            what = f"only {', '.join(each['template_key'] for each in told)}" if told else "none at all"
            raise CheckFailed(
                f"job {job_id} is {status} and has no in_app notification {template} ({what}); look at"
                " async_notifications_terminal_jobs_without_in_app_10m and at `async-delivery store check`"
            )
        key = f"{job_id}:{Channel.IN_APP}:{template}"
        if found[0]["dedupe_key"] != key:
            raise CheckFailed(
                f"the notification of job {job_id} has the dedupe_key {found[0]['dedupe_key']}, not {key}"
            )
        return f"{template}, {found[0]['delivery_status']}"

    # ------------------------------------------------------------ after the cleanup
    def permalink_5xx(self) -> str:
        """Read the permalink once more, then see what the server counts."""
        answer = self._permalink_answer()
        # Cleaned up meanwhile is fine; an error of the server is what this check is for.
        if answer.status not in (200, 410):
            raise CheckFailed(f"after the cleanup {answer.said()}{_where_to_look(answer)}")
        signal = next(
            (
                each
                for each in self._get("/ops/signals").body["signals"]
                if each["name"] == HTTP_5XX_RATE.name
            ),
            None,
        )
        if signal is None:
            raise CheckFailed(f"GET /ops/signals does not have {HTTP_5XX_RATE.name}")
        if signal["level"] == Level.NO_DATA:
            raise CheckFailed(
                f"{HTTP_5XX_RATE.name} has no data, though the permalink was just read; is the server behind"
                " --base-url one of several processes?"
            )
        if signal["level"] != Level.OK:
            raise CheckFailed(
                f"{HTTP_5XX_RATE.name} is {signal['level']} at {signal['value']:.2%}: {signal['hint']}"
            )
        return f"{HTTP_5XX_RATE.name} is ok at {signal['value']:.2%}"

    # ------------------------------------------------------------ asking
    def _get(self, path: str, **params: str) -> Answer:
        return self._ok(self._reach(lambda: self._probe.get(path, params)), 200)

    def _reach(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except UnreachableError as exc:
            raise CheckFailed(f"{exc}; is the server running, and is --base-url right?") from exc

    def _ok(self, answer: Answer, status: int) -> Answer:
        if answer.status != status:
            raise CheckFailed(f"{answer.said()}{_where_to_look(answer)}")
        if not answer.body:
            raise CheckFailed(f"{answer.said()} without a JSON body; is another program on that port?")
        return answer


def _where_to_look(answer: Answer) -> str:
    match answer.status:
        case 400:
            return "; look at the request, and at the tenant in --org"
        case 401 | 403:
            return "; the server does not let this client act for the tenant: look at its credential and at --org"
        case 404:
            return "; unknown there, or another tenant's: check --org and --base-url"
        case 429:
            return "; a quota of the tenant is used up: try again later, or as another tenant"
        case 503:
            return "; the server stops, or its store refuses: look at /health/ready and at its log"
        case status if status >= 500:
            return "; look at the server's log for that request, then at its store"
        case _:
            return ""
