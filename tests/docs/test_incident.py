"""docs/howto/incident.md can be followed: its commands run as they stand, and what it says is what the code has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.domain.triage import ErrorClass
from tests.docs.pages import code, fences, read, rows
from tests.system.live import COMMAND, LiveServer

PAGE = "docs/howto/incident.md"
# triage finds something in a result that is not there; the others end well.
FINDS_SOMETHING = "--result"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "2").start()
    yield live
    live.stop()


def test_its_commands_run_as_they_stand_one_after_the_other(server: LiveServer) -> None:
    environ = {
        **os.environ,
        "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
        "ASYNC_DELIVERY_BASE_URL": f"http://127.0.0.1:{server.port}",
    }
    commands = [fence.text for fence in fences(read(PAGE)) if fence.language == "sh"]

    for command in commands:
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", command],
            cwd=server.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == (1 if FINDS_SOMETHING in command else 0), f"{command}\n{done.stderr}"

    assert len(commands) == 6
    folder = server.folder / "artifacts/async"
    (incident,) = folder.glob("incident-*")
    assert {"report.md", "findings.json"} <= {path.name for path in incident.iterdir()}
    assert len(list(folder.glob("doctor-*.tar.gz"))) == 1
    assert len(list(folder.glob("smoke-staging-*.json"))) == 1


def test_it_names_the_error_classes_there_are() -> None:
    assert [code(row[0])[0] for row in rows(read(PAGE))] == [each.value for each in ErrorClass]
