"""A real server in processes of its own, and a client that trusts nothing of the product's code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import psutil

COMMAND = str(Path(sys.executable).parent / "async-delivery")
CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0


def eventually(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of ``condition``; fails when none came in time."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"after {seconds:g} s: {what}")
        time.sleep(0.02)
    return found


class Answer:
    """One HTTP answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)


class LiveServer:
    """``async-delivery serve`` on a scratch store. ``folder`` outlives restarts."""

    command = "serve"

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        self.store_file = folder / "runtime/async_jobs/store.v1.json"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        self.launch()
        return self.ready()

    def launch(self) -> None:
        """Start it, without waiting."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, self.command, "--port", str(self.port), *self.options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> Self:
        """Wait until it answers."""
        eventually(self.answers, "the server does not answer: " + self.log()[-2000:])
        return self

    def log(self) -> str:
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log()[-2000:]}")
        try:
            return self.ask("GET", "/health").status == 200
        except OSError:
            return False

    def processes(self) -> list[psutil.Process]:
        """The server and everything it started."""
        assert self.process is not None
        try:
            server = psutil.Process(self.process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill_everything(self) -> None:
        """SIGKILL for the server and all its processes, as nearly at once as can be."""
        assert self.process is not None
        victims = self.processes()
        for victim in victims:
            try:
                os.kill(victim.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(timeout=DEADLINE_SECONDS)
        _, alive = psutil.wait_procs(victims[1:], timeout=DEADLINE_SECONDS)
        assert not alive

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else 0
        self.process.terminate()
        return self.process.wait(timeout=DEADLINE_SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        org: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {"Content-Type": "application/json", **(headers or {})}
        if org is not None:
            sent["X-Org-Id"] = org
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), sent)
            got = connection.getresponse()
            return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            connection.close()

    def submit(self, analysis: str = "selftest", *, org: str | None = None, **params: Any) -> str:
        body = {"analysis": analysis, "params": params, "options": {"async_mode": {"requested": True}}}
        answer = self.ask("POST", "/analyze", body, org=org)
        assert answer.status == 202, answer.body
        job_id: str = answer.json()["job"]["job_id"]
        return job_id

    def job(self, job_id: str, *, org: str | None = None) -> dict[str, Any]:
        answer = self.ask("GET", f"/analyze/jobs/{job_id}", org=org)
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()["job"]
        return found

    def ended(self, job_id: str, *, org: str | None = None) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.job(job_id, org=org)
            return job if job["status"] in ("completed", "failed", "canceled") else None

        found: dict[str, Any] = eventually(look, f"job {job_id} has not ended")
        return found


def run_command(
    *arguments: str, cwd: Path, timeout: float = DEADLINE_SECONDS
) -> subprocess.CompletedProcess[str]:
    """``async-delivery`` with ``arguments``."""
    return subprocess.run(
        [COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
