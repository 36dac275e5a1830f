"""The program as a process: its standard files, Ctrl-C at any moment, and data that comes through a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.live import COMMAND, LiveServer, eventually

UNREACHABLE = "http://127.0.0.1:1"
DATA = "a,b\n1,2\n3,4\n"


@pytest.fixture
def environment(server: LiveServer, org: str) -> dict[str, str]:
    url = f"http://127.0.0.1:{server.port}"
    return {**os.environ, "ASYNC_DELIVERY_BASE_URL": url, "ASYNC_DELIVERY_ORG": org, "AD": COMMAND}


def shell(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """``script`` in bash, where $AD is the program."""
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


# ---------------------------------------------------------------- standard files
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_missing_standard_file_is_no_failure(closed: str, environment: dict[str, str]) -> None:
    done = shell(f"$AD jobs {closed}", environment)

    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr


def test_files_of_a_program_without_standard_files_get_other_numbers() -> None:
    program = (
        "import os; from async_delivery.cli.process import prepare; "
        "[os.close(n) for n in (0, 1, 2)]; prepare(); os._exit(os.open(os.devnull, os.O_RDONLY))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode > 2


def test_a_smoke_that_nobody_reads_goes_on_to_its_end_and_its_artefact(
    environment: dict[str, str], tmp_path: Path
) -> None:
    smoke = f"cd {tmp_path} && $AD smoke staging --no-retention"

    read_by_nobody = shell(f"set -o pipefail; {smoke} | true", environment)
    to_a_full_disk = shell(f"{smoke} >/dev/full", environment)

    assert read_by_nobody.returncode == 0
    assert to_a_full_disk.returncode == 1
    assert "cannot write the output: No space left on device" in to_a_full_disk.stderr
    assert len(list(tmp_path.glob("artifacts/async/smoke-staging-*.json"))) == 2


def test_a_terminal_that_knows_ascii_only_gets_every_name_all_the_same(environment: dict[str, str]) -> None:
    ascii_only = {**environment, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}

    done = shell(f"$AD triage --base-url {UNREACHABLE} --tenant-id jürgen", ascii_only)

    assert done.returncode == 1
    assert "unexpected" not in done.stderr
    assert "next step: " in done.stdout


@pytest.mark.parametrize("args", ["jobs", "jobs --json", "--help", "submit --analysis selftest --no-wait"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(
    args: str, unbuffered: str, environment: dict[str, str]
) -> None:
    done = shell(f"$AD {args} >/dev/full", {**environment, "PYTHONUNBUFFERED": unbuffered})

    said = [line for line in done.stderr.splitlines() if not line.startswith("accepted;")]
    assert done.returncode == 1
    assert said == ["async-delivery: cannot write the output: No space left on device"]


def test_hints_that_cannot_be_written_stop_nothing(environment: dict[str, str]) -> None:
    done = shell("$AD submit --analysis selftest --params '{\"stages\":1}' 2>/dev/full", environment)

    assert done.returncode == 0
    assert "completed" in done.stdout


# ---------------------------------------------------------------- Ctrl-C
@pytest.mark.parametrize("presses", [1, 2, 3])
@pytest.mark.parametrize(
    "module", ["async_delivery.cli.options", "click", "json", "async_delivery.client.http"]
)
def test_ctrl_c_at_any_moment_is_one_line_at_most(module: str, presses: int) -> None:
    # The program presses its own Ctrl-C while it imports ``module``, where a slow disk would let a person do it.
    program = (
        "import os, sys, signal\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            for _ in range({presses}): os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.modules.pop('json', None); sys.meta_path.insert(0, Press())\n"
        f"sys.argv[1:] = ['jobs', '--base-url', {UNREACHABLE!r}]\n"
        "from async_delivery.cli import main; main()\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 130
    assert done.stderr in {"", "async-delivery: interrupted\n"}


@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_while_following_leaves_the_job_alone(presses: int, environment: dict[str, str]) -> None:
    following = subprocess.Popen(
        [COMMAND, "submit", "--analysis", "selftest", "--params", '{"stages":1,"stage_seconds":60}'],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert following.stderr is not None
    job_id = following.stderr.readline().split()[1]

    def press() -> bool:
        if following.poll() is None:
            following.send_signal(signal.SIGINT)
        return following.poll() is not None

    for _ in range(presses):
        press()
    said = following.stderr.read()
    following.stderr.close()

    assert following.wait(60) == 130
    assert "Traceback" not in said
    assert shell(f"$AD cancel {job_id}", environment).returncode == 0


# ---------------------------------------------------------------- where data come from
@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("printf '%b' '{data}' | $AD submit - --json", "stdin"),
        ("$AD submit <(printf '%b' '{data}') --json", None),
        ("mkfifo f.csv; printf '%b' '{data}' >f.csv & $AD submit f.csv --json", "f.csv"),
        (
            "printf '%b' '{data}' >$'a\\xff.csv'; $AD submit $'a\\xff.csv' --json",
            "a\N{REPLACEMENT CHARACTER}.csv",
        ),
    ],
)
def test_data_come_through_pipes_and_under_any_name(
    script: str,
    name: str | None,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell(
        script.replace("{data}", DATA.replace("\n", "\\n"))
        + ' | tee job.json | grep \'"status": "completed"\'',
        environment,
    )

    assert done.returncode == 0, done.stderr
    shown = shell(
        '$AD result --json $(grep -o \'"result_id": "[^"]*\' job.json | head -1 | cut -d\'"\' -f4)',
        environment,
    )
    assert '"row_count":2' in shown.stdout.replace(" ", "") or '"rows":2' in shown.stdout.replace(" ", "")
    if name is not None:
        assert name in shown.stdout


def test_a_server_without_standard_files_answers(tmp_path: Path) -> None:
    live = LiveServer(tmp_path, "--slots", "1")
    process = subprocess.Popen(
        ["bash", "-c", 'exec "$0" serve --port "$1" --slots 1 <&- >&- 2>&-', COMMAND, str(live.port)],
        cwd=tmp_path,
    )
    live.process = process
    try:
        eventually(live.answers, "the server does not answer")

        standard = [Path(f"/proc/{process.pid}/fd/{n}").readlink() for n in range(3)]
    finally:
        process.terminate()
        code = process.wait(60)

    assert standard == [Path(os.devnull)] * 3
    assert code == 0
