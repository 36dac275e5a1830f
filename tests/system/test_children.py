"""Children of a real server: killed by hand they are replaced, and none outlives the server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.live import LiveServer, eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    server = LiveServer(tmp_path, "--slots", "2", "--fault-injection", "--default-analysis", "selftest")
    yield server.start()
    if server.process is not None and server.process.poll() is None:
        server.stop()


def below(server: LiveServer) -> list[psutil.Process]:
    """The forkserver and the children that run now."""
    return server.processes()[1:]


def child(server: LiveServer) -> psutil.Process:
    """The one child that serves the self-test."""
    found = eventually(
        lambda: [process for process in below(server) if process.name() == "ad-selftest"], "no child"
    )
    process: psutil.Process = found[0]
    return process


def gone(processes: list[psutil.Process]) -> bool:
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def event_types(server: LiveServer, job_id: str) -> list[str]:
    return [event["event_type"] for event in server.job(job_id)["events"]]


@pytest.mark.slow
def test_a_child_killed_by_hand_is_noticed_within_a_second_and_run_again_within_two(
    server: LiveServer,
) -> None:
    job_id = server.submit(stages=20, stage_seconds=0.1)
    eventually(lambda: server.job(job_id)["partial_count"], "not started")

    killed_at = time.monotonic()
    os.kill(child(server).pid, signal.SIGKILL)

    eventually(lambda: "job.attempt_failed" in event_types(server, job_id), "not noticed", seconds=1.0)
    eventually(lambda: event_types(server, job_id).count("job.running") == 2, "not run again", seconds=1.0)
    assert time.monotonic() - killed_at < 2.0
    done = server.ended(job_id)
    assert done["status"] == "completed"
    assert done["attempt"] == 2


@pytest.mark.slow
def test_no_child_and_no_forkserver_outlives_a_server_killed_with_sigkill(server: LiveServer) -> None:
    job_ids = [server.submit(outcome="hang", stages=1, stage_seconds=0) for _ in range(2)]
    for job_id in job_ids:
        eventually(lambda job_id=job_id: server.job(job_id)["partial_count"], "not started")  # type: ignore[misc]
    survivors = below(server)
    assert len(survivors) >= 3
    assert server.process is not None

    server.process.kill()
    server.process.wait()

    eventually(lambda: gone(survivors), f"{survivors} outlived the server", seconds=2.0)


@pytest.mark.slow
def test_sigterm_gives_running_attempts_back_without_cost_and_leaves_no_process(tmp_path: Path) -> None:
    options = [
        "--slots",
        "2",
        "--fault-injection",
        "--drain-grace-seconds",
        "0.2",
        "--kill-grace-seconds",
        "0.2",
    ]
    server = LiveServer(tmp_path, *options).start()
    slow = server.submit(stages=100, stage_seconds=0.2)
    stuck = server.submit(outcome="hang", stages=1, stage_seconds=0)
    for job_id in (slow, stuck):
        eventually(lambda job_id=job_id: server.job(job_id)["partial_count"], "not started")  # type: ignore[misc]
    processes = below(server)

    assert server.stop() == 0

    assert gone(processes)
    server.start()
    for job_id in (slow, stuck):
        job = server.job(job_id)
        assert job["error_count"] == 0
        assert "job.requeued" in event_types(server, job_id)
    server.kill_everything()


@pytest.mark.slow
def test_no_secret_of_the_server_is_in_any_process_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("PGPASSWORD", "canary")
    server = LiveServer(tmp_path, "--slots", "1", "--fault-injection").start()
    job_id = server.submit(stages=1, stage_seconds=2)
    eventually(lambda: server.job(job_id)["status"] == "running", "not started")
    child(server)

    blocks = {process.name(): Path(f"/proc/{process.pid}/environ").read_bytes() for process in below(server)}

    assert {"ad-forkserver", "ad-selftest"} <= blocks.keys()
    assert not [name for name, block in blocks.items() if b"canary" in block]
    server.kill_everything()


@pytest.mark.slow
def test_what_a_tenants_broken_job_does_is_not_felt_by_another_tenant(server: LiveServer) -> None:
    broken = [server.submit(org="noisy", outcome=how, stages=0) for how in ("crash", "memory", "flood")]
    good = [server.submit(org="quiet", stages=1, stage_seconds=0) for _ in range(10)]

    for job_id in good:
        job = server.ended(job_id, org="quiet")
        assert job["status"] == "completed"
        assert job["attempt"] == 1
    codes = [server.ended(job_id, org="noisy")["error_code"] for job_id in broken]
    assert codes == ["worker_crashed", "out_of_memory", None]
