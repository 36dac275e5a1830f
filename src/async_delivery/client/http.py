"""The client itself: one method for each thing a tenant does. Imports httpx2 and ``domain``, nothing of the server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from async_delivery.client.errors import ConnectionFailed, Unavailable, WaitTimeout
from async_delivery.client.values import (
    Event,
    Job,
    JobPage,
    Result,
    Submitted,
    events_from,
    job_from,
    result_from,
)
from async_delivery.client.wire import Told, decoded, first_line, job_of, refusal_of, segment

DEFAULT_BASE_URL = "http://127.0.0.1:8080"
# One long poll; the server holds an answer for at most 60 s.
POLL_SECONDS = 25.0
# How long a job is waited for while its server is away: a restart is over sooner.
RECONNECT_SECONDS = 30.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Client:
    """Speaks to one server as one tenant. Not to be shared between threads. A context manager.

    timeout_seconds   patience with one answer, beyond what a long poll asks for
    sleep             waits between two polls; for tests
    """

    def __init__(
        self,
        base_url: str = DEFAULT_BASE_URL,
        *,
        org_id: str | None = None,
        timeout_seconds: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"X-Org-Id": org_id} if org_id else {}
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout_seconds
        self._sleep = sleep
        # A proxy of the environment is for other machines: one's own server is asked directly.
        trust_env = (urlsplit(self.base_url).hostname or "") not in _LOOPBACK
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers={**headers, "User-Agent": "async-delivery-client"},
            trust_env=trust_env,
            timeout=httpx2.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    # ------------------------------------------------------------ what tenants do

    def health(self) -> Mapping[str, Any]:
        """The body of ``GET /health``."""
        return decoded(self._read("/health"), dict)

    def analyses(self) -> Sequence[Mapping[str, Any]]:
        """The catalogue."""
        return decoded(self._read("/analyses"), lambda body: list(body["analyses"]))

    def submit(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Submitted:
        """Submit ``request`` (the body of ``POST /analyze``) and return once it is accepted."""
        headers = self._submission_headers(idempotency_key)
        return self._submitted(self._send("POST", "/analyze", json=request, headers=headers))

    def submit_file(
        self,
        request: Mapping[str, Any],
        file: Path,
        *,
        filename: str | None = None,
        idempotency_key: str | None = None,
        sent: Callable[[int], None] = lambda _bytes: None,
    ) -> Submitted:
        """``submit`` with an upload, streamed from disk; ``sent`` hears how many bytes were read so far.

        filename   what the server is told it is called; its own name where None

        Raises OSError if the file cannot be read.
        """
        with Told(file, sent) as stream:
            parts = {
                "request": (None, json.dumps(request).encode(), "application/json"),
                # A name may hold bytes that are no text.
                "file": (os.fsencode(filename or file.name).decode("utf-8", "replace"), stream),
            }
            headers = self._submission_headers(idempotency_key)
            return self._submitted(self._send("POST", "/analyze", files=parts, headers=headers))

    def job(self, job_id: str) -> Job:
        """The job as it stands."""
        return job_of(self._read(f"/analyze/jobs/{segment(job_id)}"))

    def jobs(
        self,
        *,
        statuses: Sequence[str] = (),
        analysis: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """One page of the tenant's jobs, newest first."""
        asked: list[tuple[str, str | int]] = [("limit", limit)]
        asked += [("status", status) for status in statuses]
        asked += [(f"label.{key}", value) for key, value in (labels or {}).items()]
        asked += [(name, value) for name, value in (("analysis", analysis), ("cursor", cursor)) if value]
        return decoded(
            self._read("/analyze/jobs", params=asked),
            lambda body: JobPage(tuple(job_from(raw) for raw in body["jobs"]), body.get("next_cursor")),
        )

    def changes(self, job_id: str, *, timeout_seconds: float | None = None) -> Iterator[Job]:
        """The job as it stands, then each state in which it was seen to change, the terminal one last.

        Long-polls, also over a restart of the server. Raises WaitTimeout after ``timeout_seconds``.
        """
        began = heard = time.monotonic()
        job = self.job(job_id)
        yield job
        while not job.terminal:
            left = POLL_SECONDS
            if timeout_seconds is not None:
                left = min(left, timeout_seconds - (time.monotonic() - began))
                if left <= 0:
                    raise WaitTimeout(job, timeout_seconds)
            try:
                newer = self._newer(job, left)
            except (ConnectionFailed, Unavailable):
                if time.monotonic() - heard > RECONNECT_SECONDS:
                    raise
                self._sleep(min(0.5, left))
                continue
            heard = time.monotonic()
            if newer is not None:
                job = newer
                yield job

    def wait(
        self,
        job_id: str,
        *,
        timeout_seconds: float | None = None,
        changed: Callable[[Job], None] = lambda _job: None,
    ) -> Job:
        """The job once it has ended; ``changed`` hears of every change on the way. Raises WaitTimeout."""
        job: Job | None = None
        for job in self.changes(job_id, timeout_seconds=timeout_seconds):
            changed(job)
        assert job is not None  # noqa: S101  changes yields at least once
        return job

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """All events with event_seq > ``after``, ascending, page by page."""
        path = f"/analyze/jobs/{segment(job_id)}/events"
        while page := decoded(self._read(path, params={"after": after}), events_from):
            yield from page
            after = page[-1].event_seq

    def results(self, job_id: str) -> Sequence[Mapping[str, Any]]:
        """What snapshots the job has, ascending by result_seq, without their bodies."""
        answer = self._read(f"/analyze/jobs/{segment(job_id)}/results")
        return decoded(answer, lambda body: list(body["results"]))

    def result(self, result_id: str, *, view: str = "latest") -> Result:
        """A snapshot. Raises ResultExpired, NotFound."""
        answer = self._read(f"/analyze/results/{segment(result_id)}", params={"view": view})
        return decoded(answer, lambda body: result_from(body, answer.content))

    def notifications(
        self, job_id: str, *, channel: str | None = None, limit: int = 50
    ) -> Sequence[Mapping[str, Any]]:
        """The job's notifications, newest first."""
        asked = {"limit": limit, **({"channel": channel} if channel else {})}
        path = f"/analyze/jobs/{segment(job_id)}/notifications"
        return decoded(self._read(path, params=asked), lambda body: list(body["notifications"]))

    def cancel(self, job_id: str, *, reason: str | None = None) -> Job:
        """Cancel the job, or ask its worker to; the job as it stands afterwards."""
        body = {"reason": reason} if reason else {}
        # Cancelling twice is the same as once, so a broken connection may repeat it.
        path = f"/analyze/jobs/{segment(job_id)}/cancel"
        return job_of(self._send("POST", path, json=body, again=True))

    def retry(self, job_id: str) -> Submitted:
        """A new job with the same request."""
        return self._submitted(self._send("POST", f"/analyze/jobs/{segment(job_id)}/retry", json={}))

    def erase(self, job_id: str) -> None:
        """Erase an ended job and all that belongs to it."""
        self._send("DELETE", f"/analyze/jobs/{segment(job_id)}")

    # ------------------------------------------------------------ how it is asked

    def _newer(self, job: Job, seconds: float) -> Job | None:
        """The job at its next change, or None if there was none within ``seconds``."""
        began = time.monotonic()
        headers = {"Prefer": f"wait={max(1, round(seconds))}"}
        if job.etag:
            headers["If-None-Match"] = job.etag
        answer = self._read(
            f"/analyze/jobs/{segment(job.job_id)}", headers=headers, timeout=self._timeout + seconds
        )
        newer = None if answer.status_code == 304 else job_of(answer)
        if newer is None or newer.etag == job.etag:
            # A server or proxy that answers at once must not be asked in a tight loop.
            self._sleep(max(0.0, min(0.5, seconds) - (time.monotonic() - began)))
            return newer if newer and newer.status is not job.status else None
        return newer

    def _submission_headers(self, idempotency_key: str | None) -> dict[str, str]:
        headers = {"Prefer": "respond-async"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return headers

    def _submitted(self, answer: httpx2.Response) -> Submitted:
        replayed = answer.headers.get("Idempotency-Replayed") == "true"
        return decoded(answer, lambda body: Submitted(job_from(body["job"]), replayed, body))

    def _read(self, path: str, **asked: Any) -> httpx2.Response:
        return self._send("GET", path, again=True, **asked)

    def _send(self, method: str, path: str, *, again: bool = False, **asked: Any) -> httpx2.Response:
        if asked.get("timeout"):
            asked["timeout"] = httpx2.Timeout(asked["timeout"], connect=5.0)
        with self._plain_errors():
            try:
                answer = self._http.request(method, path, **asked)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                if not again:
                    raise
                # A kept-alive connection that the server had closed meanwhile looks like this.
                answer = self._http.request(method, path, **asked)
        if answer.status_code >= 400:
            raise refusal_of(answer)
        return answer

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as exc:
            raise ConnectionFailed(f"no server answers at {self.base_url} ({first_line(exc)})") from exc
        except httpx2.TimeoutException as exc:
            raise ConnectionFailed(f"{self.base_url} did not answer in time") from exc
        except (httpx2.TransportError, httpx2.InvalidURL, httpx2.DecodingError) as exc:
            raise ConnectionFailed(f"{self.base_url}: {first_line(exc)}") from exc
