"""A whole server with an analysis for Ray: served, killed, and nothing of it left. Needs the extra ``ray``."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.live import LiveServer, eventually

pytestmark = pytest.mark.long

PLANTED = """
import time
from async_delivery.plugins import Context, analysis

@analysis("on-ray", resources={"num_cpus": 0.5})
def on_ray(*, seconds: float = 0.0, context: Context) -> dict:
    context.partial({"started": True})
    time.sleep(seconds)
    return {"attempt": context.attempt}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: make test-long brings it, or pip install -r requirements/ray.txt")
    (tmp_path / "planted_on_ray.py").write_text(PLANTED)
    server = LiveServer(
        tmp_path, "--slots", "2", "--analysis", "planted_on_ray:on_ray", "--lease-seconds", "6"
    )
    server.options = (*server.options, "--heartbeat-seconds", "1")
    try:
        yield server.start()
    finally:
        server.kill_everything()


def test_a_server_killed_hard_leaves_nothing_of_ray_and_its_successor_finishes_the_job(
    server: LiveServer,
) -> None:
    assert server.process is not None
    assert server.ask("GET", "/analyses/on-ray").json()["analysis"]["limits"]["executor"] == "ray"
    job_id = server.submit("on-ray", seconds=4.0)
    eventually(lambda: server.job(job_id)["partial_count"], "not started", seconds=120.0)
    below = psutil.Process(server.process.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in below)

    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    killed_at = time.monotonic()

    # Ten times what was measured.
    eventually(lambda: not any(map(lives, below)), "something of Ray lives on", seconds=30.0)
    print(f"gone after {time.monotonic() - killed_at:.1f} s")
    server.start()
    done = eventually(lambda: ended(server, job_id), "the job did not end", seconds=120.0)
    assert done == "completed"


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def ended(server: LiveServer, job_id: str) -> str | None:
    status = str(server.job(job_id)["status"])
    return status if status in {"completed", "failed", "canceled"} else None
