"""deploy/systemd and deploy/cron: the units are valid, and what they start works where they start it."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cronsim import CronSim

from async_delivery.domain.retention import ExitCode
from async_delivery.settings import BY_NAME, Settings
from tests.docs.pages import ROOT
from tests.ops import manifests
from tests.system.live import DEADLINE_SECONDS, LiveServer, eventually

SYSTEMD = sorted((ROOT / "deploy/systemd").iterdir())
CRON = ROOT / "deploy/cron/async-delivery"
INSTALLED = "/opt/async-delivery"


def unit(name: str) -> configparser.ConfigParser:
    """A unit file of deploy/systemd."""
    return manifests.unit(ROOT / "deploy/systemd" / name)


def here(text: str) -> str:
    """A command of an installation, for this checkout."""
    assert INSTALLED in text
    return text.replace(INSTALLED, str(ROOT))


def verified(folder: Path) -> str:
    """What systemd says against the units in a folder."""
    program = shutil.which("systemd-analyze")
    assert program is not None
    done = subprocess.run(
        [program, "verify", "--man=no", *map(str, sorted(folder.iterdir()))],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a server that has stopped."""
    server = LiveServer(tmp_path_factory.mktemp("at-rest"), "--slots", "1").start()
    server.ended(server.submit(stages=1, stage_seconds=0))
    assert server.stop() == 0
    return server.folder


def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    for path in SYSTEMD:
        assert unit(path.name).sections()[0] == "Unit"
        (tmp_path / path.name).write_text(path.read_text().replace(INSTALLED, str(ROOT)))
    if shutil.which("systemd-analyze") is None:
        return  # parsed, which is what can be done without systemd

    assert verified(tmp_path) == ""

    service = tmp_path / "async-delivery.service"
    service.write_text(service.read_text().replace("Restart=on-failure", "Restart=now-and-then"))
    assert "now-and-then" in verified(tmp_path)


def test_the_service_is_given_the_time_it_needs_to_stop() -> None:
    service, settings = unit("async-delivery.service")["Service"], Settings()
    longest = settings.drain_grace_seconds + settings.cancel_grace_seconds + settings.kill_grace_seconds

    assert int(service["TimeoutStopSec"]) > 2 * longest
    assert service["KillMode"] == "mixed"


@pytest.mark.slow
def test_the_service_starts_a_server_with_the_settings_of_its_environment(tmp_path: Path) -> None:
    command = here(unit("async-delivery.service")["Service"]["ExecStart"]).split()
    server = LiveServer(tmp_path)

    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "ASYNC_DELIVERY_PORT": str(server.port), "ASYNC_DELIVERY_SLOTS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server.process = process
    try:
        eventually(server.answers, "the service does not answer")
        assert server.ended(server.submit(stages=1, stage_seconds=0))["status"] == "completed"
    finally:
        assert server.stop() == 0


@pytest.mark.slow
def test_the_timer_runs_a_cleanup_that_works(at_rest: Path) -> None:
    timer, service = unit("async-delivery-cleanup.timer"), unit("async-delivery-cleanup.service")["Service"]
    command = shlex.split(here(service["ExecStart"]))

    done = subprocess.run(command, cwd=at_rest, capture_output=True, timeout=DEADLINE_SECONDS, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads((at_rest / "artifacts/async/retention-timer.json").read_text())["dry_run"] is False
    assert service["SuccessExitStatus"] == str(ExitCode.BUSY.value)
    # A timer without a Unit= starts the service of its own name.
    assert "Unit" not in timer["Timer"]
    assert timer["Timer"]["Persistent"] == "true"


@pytest.mark.slow
def test_cron_runs_the_same_cleanup_once_a_night(at_rest: Path) -> None:
    (line,) = [each for each in CRON.read_text().split("\n") if re.match(r"[\d*]", each)]
    *fields, user, command = line.split(maxsplit=6)
    folder = re.search(r"cd (\S+) &&", command)
    assert folder
    assert user == "async-delivery"
    assert "%" not in command  # cron would make a line end of it

    times = CronSim(" ".join(fields), datetime(2026, 3, 1, tzinfo=UTC))
    assert [next(times).isoformat() for _ in range(2)] == [
        "2026-03-01T03:17:00+00:00",
        "2026-03-02T03:17:00+00:00",
    ]

    done = subprocess.run(
        ["/bin/sh", "-c", here(command).replace(folder[1], str(at_rest))],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert json.loads((at_rest / "artifacts/async/retention-cron.json").read_text())["dry_run"] is False


def test_timer_and_cron_name_the_setting_that_makes_room_for_them() -> None:
    for path in (ROOT / "deploy/systemd/async-delivery-cleanup.service", CRON):
        named = re.findall(r"\((\w+) = \"off\"\)", path.read_text())
        assert [BY_NAME[name].parse("off").is_off for name in named] == [True]


def test_timer_cron_and_runbook_clean_up_by_the_same_rule() -> None:
    runbook = (ROOT / "docs/api/async-v1.md").read_text()
    options = re.compile(r"--(?:store-file|results-ttl-seconds|events-ttl-seconds) \S+")
    wanted = sorted(set(options.findall(runbook)))

    for text in (unit("async-delivery-cleanup.service")["Service"]["ExecStart"], CRON.read_text()):
        assert sorted(options.findall(text)) == wanted
