"""A full disk under a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.disk import MIB, fill, free_bytes, small_disk
from tests.system.live import CHECKOUT, DEADLINE_SECONDS, Answer, LiveServer, eventually, run_command

DISK_BYTES = 32 * MIB
# Their results are more than the reserve and the air around it, so that a cleanup makes room for new jobs.
OLD_JOBS = 30
SUBMISSION = {
    "analysis": "selftest",
    "params": {"stages": 1, "stage_seconds": 0, "payload_bytes": 300_000},
    "options": {"async_mode": {"requested": True}},
}


class FullDisk:
    """A server whose store lies on a small disk, and what was asked of it."""

    def __init__(self, server: LiveServer, disk: Path) -> None:
        self.server, self.disk = server, disk
        self.accepted: list[str] = []
        self.unread: list[str] = []
        self.faults: list[str] = []

    def submit(self) -> Answer:
        answer = self.server.ask("POST", "/analyze", SUBMISSION)
        if answer.status == 202:
            self.accepted.append(answer.json()["job"]["job_id"])
        elif answer.status not in (503, 507) or int(answer.headers.get("retry-after", "0")) < 1:
            self.faults.append(f"{answer.status} {answer.headers} {answer.body!r}")
        return answer

    def until_refused(self) -> None:
        """Take all the room, and go on until nothing new is taken."""
        refused = 0
        while refused < 3:
            fill(self.disk)
            refused = 0 if self.submit().status == 202 else refused + 1

    def read_everything(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            for path in ("", "/events", "/results", "/notifications"):
                self._read(f"/analyze/jobs/{job_id}{path}")
            if result_id := self.server.job(job_id)["result_id"]:
                self._read(f"/analyze/results/{result_id}")
        for path in ("/health", "/analyze/jobs", "/metrics", "/ops/signals"):
            self._read(path)

    def _read(self, path: str) -> None:
        answer = self.server.ask("GET", path)
        if answer.status != 200:
            self.unread.append(f"{path}: {answer.status} {answer.body[:200]!r}")

    def unended(self) -> list[str]:
        """Accepted jobs that do not come to their good end, whatever time they are given."""
        left, until = self.accepted, time.monotonic() + DEADLINE_SECONDS
        while left and time.monotonic() < until:
            left = [job_id for job_id in left if self.server.job(job_id)["status"] != "completed"]
            time.sleep(0.05)
        return left

    def litter(self) -> list[str]:
        """Files on the disk that are neither the store's own nor the worker's lock."""
        own = {"store.v1.json", "filler"}
        database = {f"store.v1.sqlite3{suffix}" for suffix in ("", "-wal", "-shm", ".lock", ".ballast")}
        found = [path for path in self.disk.rglob("*") if path.is_file() and not path.match("work/w-*.lock")]
        return [str(path) for path in found if path.name not in own | database]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullDisk]:
    disk = tmp_path / "runtime"
    with small_disk(disk, DISK_BYTES):
        server = LiveServer(tmp_path, "--slots", "2", "--ballast-bytes", "64MiB")
        try:
            server.start()
            yield FullDisk(server, disk)
        finally:
            server.stop()


def clean_up(server: LiveServer) -> tuple[bool, str]:
    """The script, live, for everything that has ended: whether it deleted all that, and what it said."""
    done = subprocess.run(
        [
            sys.executable,
            str(CHECKOUT / "scripts/run_async_retention_cleanup.py"),
            *("--store-file", str(server.store_file)),
            *("--results-ttl-seconds", "0", "--events-ttl-seconds", "0"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode != 0:
        return False, said
    report = json.loads(done.stdout)
    return not report["errors"] and report["results"]["delete_count"] >= OLD_JOBS, said


@pytest.mark.slow
def test_a_full_disk_stops_new_jobs_only_and_a_cleanup_helps(full: FullDisk, score: Score) -> None:
    server = full.server
    for _ in range(OLD_JOBS):
        full.submit()
    for job_id in full.accepted:
        server.ended(job_id)
    running = server.submit(stages=40, stage_seconds=0.1)
    full.accepted.append(running)
    eventually(lambda: server.job(running)["status"] == "partial", "the long job has not begun")

    # While the disk is full.
    full.until_refused()
    full.read_everything(full.accepted[:OLD_JOBS])
    assert server.ask("GET", "/health/ready").status == 503
    unended = full.unended()
    print(*unended)
    score("R23.running", "sqlite", len(unended), cases=len(full.accepted))
    assert full.litter() == []

    # Room comes back.
    (full.disk / "filler").unlink()
    began = time.monotonic()
    eventually(lambda: full.submit().status == 202, "no job is accepted although there is room", 60)
    recovery = time.monotonic() - began
    server.ended(full.accepted[-1])

    # Full again, and nobody makes room but the cleanup.
    full.until_refused()
    assert free_bytes(full.disk) < 4 * MIB
    cleaned, said = clean_up(server)
    print(said)
    score("R23.retention", "sqlite", 100 * cleaned, cases=1)
    eventually(lambda: full.submit().status == 202, "no job is accepted after the cleanup", 60)
    for job_id in full.accepted:
        assert server.ended(job_id)["status"] == "completed"

    assert full.faults == []
    assert server.stop() == 0
    checked = run_command("store", "check", "--store-file", str(server.store_file), cwd=server.folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert full.unread == []
    score("R23.reads", "sqlite", len(full.unread), cases=OLD_JOBS)
    score("R23.litter", "sqlite", len(full.litter()), cases=1)
    score("R23.recovery", "sqlite", recovery, cases=1)


def test_a_server_that_cannot_write_an_end_stops_when_told_to(tmp_path: Path) -> None:
    disk = tmp_path / "runtime"
    with small_disk(disk, 16 * MIB):
        server = LiveServer(tmp_path, "--slots", "1", "--ballast-bytes", "0", "--drain-grace-seconds", "3")
        try:
            server.start()
            job_id = server.submit(stages=2, stage_seconds=1, payload_bytes=4 * MIB)
            eventually(lambda: server.job(job_id)["status"] == "partial", "the job has not begun")
            fill(disk)

            # Within the grace the job comes to its end, for which there is no room.
            began = time.monotonic()
            assert server.stop() == 0
            seconds = time.monotonic() - began
        finally:
            server.stop()
    # The grace and what an end takes on a busy machine, but not the lease of thirty seconds, over and over.
    assert seconds < 18
