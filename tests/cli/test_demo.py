"""The demo: what a newcomer sees first must work, and must say so when it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.live import CHECKOUT, DEADLINE_SECONDS

pytestmark = pytest.mark.slow


def demo(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "async_delivery.cli.demo"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), **env},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_the_demo_shows_a_job_from_submit_to_cleanup_and_leaves_nothing(tmp_path: Path) -> None:
    # Settings of another server must not lead it astray.
    done = demo(tmp_path, ASYNC_DELIVERY_PORT="1", ASYNC_DELIVERY_BASE_URL="http://127.0.0.1:1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for part in (
        *("accepted as job", "job.queued", "job.running", "job.partial schema", "job.partial correlations"),
        *("job.completed", "344 rows, 8 columns", "flipper_length_mm", "view=latest'", "async.job.completed"),
        *("results  5 of 5", "it ended with exit code 0"),
    ):
        assert part in done.stdout, part
    assert list(tmp_path.iterdir()) == []


def test_the_demo_fails_with_a_reason_when_the_server_cannot_start(tmp_path: Path) -> None:
    program = "import os, sys; 'serve' in sys.argv and (os.write(2, b'no server today'), os._exit(1))"
    (tmp_path / "sitecustomize.py").write_text(program)

    done = demo(tmp_path, PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "demo: the server did not start: no server today" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("async-delivery-demo")] == []


def test_the_checkout_has_the_demo_as_its_first_command() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()

    assert "-m async_delivery.cli.demo" in makefile
