"""Cleanups of a live server as its signals tell of them: paused, forced, refused, and well again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.live import CHECKOUT, DEADLINE_SECONDS, LiveServer, eventually, run_command

SCRIPT = CHECKOUT / "scripts/run_async_retention_cleanup.py"
ALL = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")
EXIT_CODE = "async_retention_cleanup_exit_code"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "1", "--cleanup-schedule", "off").start()
    yield live
    live.stop()


def script(server: LiveServer, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *options],
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def signals(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = server.ask("GET", "/ops/signals").json()
    return found


def exit_code(server: LiveServer) -> tuple[float | None, str]:
    (found,) = [each for each in signals(server)["signals"] if each["name"] == EXIT_CODE]
    return found["value"], found["level"]


def test_a_cleanup_that_exits_1_is_critical_until_one_succeeds(server: LiveServer) -> None:
    assert exit_code(server) == (None, "no_data")

    assert script(server, "--results-ttl-seconds=-1").returncode == 1
    eventually(lambda: exit_code(server) == (1.0, "critical"), "the refused cleanup is not seen")
    asked = run_command("signals", "--base-url", f"http://127.0.0.1:{server.port}", cwd=server.folder)
    assert asked.returncode == 2
    assert f"{EXIT_CODE} 1.0" in server.ask("GET", "/metrics").body.decode()

    assert script(server).returncode == 0
    eventually(lambda: exit_code(server) == (0.0, "ok"), "the good cleanup is not seen")


def test_a_pause_binds_everyone_outlives_the_server_and_yields_to_force(server: LiveServer) -> None:
    server.ended(server.submit(stages=1, stage_seconds=0))

    paused = run_command("cleanup", "pause", "--why", "counts look wrong", "--by", "anna", cwd=server.folder)
    assert (paused.returncode, paused.stdout) == (0, "")

    refused = script(server, *ALL)
    assert refused.returncode == 3
    assert refused.stdout == ""
    assert "by anna: counts look wrong" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert run_command("cleanup", *ALL, cwd=server.folder).returncode == 3
    assert script(server, *ALL, "--dry-run").returncode == 0

    server.stop()
    server.start()
    pause = eventually(lambda: signals(server)["cleanup_pause"], "the signals know of no pause")
    assert (pause["why"], pause["by"]) == ("counts look wrong", "anna")
    ready = server.ask("GET", "/health/ready")
    assert ready.status == 200
    assert "counts look wrong" in ready.body.decode()
    assert "async_retention_cleanup_paused 1.0" in server.ask("GET", "/metrics").body.decode()

    forced = script(server, *ALL, "--force")
    assert forced.returncode == 0
    assert json.loads(forced.stdout)["results"]["delete_count"] > 0
    assert script(server, *ALL).returncode == 3

    resumed = run_command("cleanup", "resume", "--json", cwd=server.folder)
    assert json.loads(resumed.stdout)["cleanup_pause"] is None
    assert script(server, *ALL).returncode == 0
    eventually(lambda: signals(server)["cleanup_pause"] is None, "the signals still know of a pause")


def test_a_pause_says_who_where_nobody_is_named(server: LiveServer) -> None:
    made = run_command("cleanup", "pause", "--why", "because", "--json", cwd=server.folder)

    pause = json.loads(made.stdout)["cleanup_pause"]
    assert pause["why"] == "because"
    assert pause["by"]
    assert run_command("cleanup", "resume", cwd=server.folder).returncode == 0
    again = run_command("cleanup", "resume", cwd=server.folder)
    assert (again.returncode, again.stderr) == (0, "nothing was paused\n")
