"""What every command has in common: exit codes, one line for what is wrong, and a quick start."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from async_delivery import __version__
from async_delivery.cli.app import cli, run
from tests.system.live import COMMAND

UNREACHABLE = ("--base-url", "http://127.0.0.1:1")
START_SECONDS = 0.5


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ASYNC_DELIVERY_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("ask", ["--help", "-h"])
def test_help_lists_every_command(ask: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([ask]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert [name for name in cli.commands if f"\n  {name} " not in said.out] == []


@pytest.mark.parametrize("name", list(cli.commands))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"async-delivery {name}" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"async-delivery {__version__}\n"


@pytest.mark.parametrize("args", [[], ["store"]])
def test_without_a_command_the_help_comes_on_stderr(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Usage: ")


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["nix"], "No such command 'nix'"),
        (["submit", "--nix"], "No such option '--nix'"),
        (["submit", "no-such.csv"], "there is no file no-such.csv"),
        (["submit", "--params", "{"], "--params is not JSON"),
        (["submit", "--params", "[1]"], "--params must be a JSON object"),
        (["submit", "--params", '{"a": NaN}'], "NaN is no JSON number"),
        (["submit", "--params", "[" * 100_000], "--params is not JSON"),
        (["submit", "--params", "{}", "--params-file", "x"], "not both"),
        (["submit", "--params-file", "no-such.json"], "cannot read no-such.json"),
        (["submit", "--label", "a"], "'a' is not of the form K=V"),
        (["submit", "--label", "a=b", "--label", "a=c"], "--label: a is given twice"),
        (["submit", "--label", "k=\udcff"], "'--label': holds bytes that are no text"),
        (["submit", "--query", "\udcff"], "'--query': holds bytes that are no text"),
        (["submit", "--params", '{"a":"\udcff"}'], "'--params': holds bytes that are no text"),
        (["submit", "--params", '{"a":"\\ud800"}'], "--params is not JSON"),
        (["submit", "--params", '{"a":1e999}'], "--params is not JSON"),
        (["submit", "--idempotency-key", "\udcff"], "'--idempotency-key': holds bytes that are no text"),
        (["submit", "--idempotency-key", ""], "'--idempotency-key': must not be empty"),
        (["submit", "--analysis", ""], "'--analysis': must not be empty"),
        (["submit", "--timeout", "0"], "'--timeout': must be longer than 0"),
        (["submit", "/"], "/ is a folder"),
        (["submit", "/tmp/\udcff.csv"], "there is no file"),
        (["submit", "-", "--params-file", "-"], "cannot both be standard input"),
        (["cancel", "x", "--reason", "\udcff"], "'--reason': holds bytes that are no text"),
        (["wait", "\udcff"], "'JOB': holds bytes that are no text"),
        (["watch", ""], "'JOB': must not be empty"),
        (["result", "\udcff"], "'RESULT_OR_JOB': holds bytes that are no text"),
        (["jobs", "--label", "x"], "'x' is not of the form K=V"),
        (["jobs", "--label", "k=\udcff"], "'--label': holds bytes that are no text"),
        (["jobs", "--org", "\udcff"], "'--org': holds bytes that are no text"),
        (["jobs", "--org", ""], "'--org': must not be empty"),
        (["jobs", "--base-url", ""], "'--base-url': must not be empty"),
        (["jobs", "--base-url", "http://\udcff"], "'--base-url': holds bytes that are no text"),
        (["jobs", "--base-url", "http://127.0.0.1:1\n"], "is not a URL such as"),
        (["jobs", "--base-url", "http://127.0.0.1:1?a=b"], "is not a URL such as"),
        (["jobs", "--base-url", "http://x" * 5_000], "is not a URL such as"),
        (["submit", "--timeout", "soon"], "'soon' is not a duration"),
        (["submit", "--ttl", "-1"], "'-1' is not a duration"),
        (["submit", "--priority", "now"], "'now' is not one of"),
        (["submit", "--idempotency-key", "ä"], "must be printable ASCII"),
        (["jobs", "--status", "done"], "'done' is not one of"),
        (["jobs", "--org", "a b"], "--org: must be 1 to 128 characters"),
        (["jobs", "--base-url", "localhost:8080"], "is not a URL such as"),
        (["jobs", "--base-url", "http://[::1"], "is not a URL such as"),
        (["wait"], "Missing argument 'JOB'"),
        (["result", "x", "--view", "newest"], "'newest' is not one of"),
        (["cleanup", "stop"], "'stop' is not"),
        (["cleanup", "pause"], "pause needs --why"),
        (["cleanup", "pause", "--why", ""], "why: must be one line"),
        (["cleanup", "resume", "--why", "x"], "--why and --by belong to pause"),
        (["cleanup", "--results-ttl-seconds", "-5"], "'-5' is not a duration"),
        (["serve", "--port", "x", "--slots", "0"], "--slots: '0' is not a whole number"),
        (["serve", "--config", "no-such.toml"], "there is no file no-such.toml"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_code_2(
    args: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert part in said.err
    assert len(said.err.splitlines()) == 1


def test_a_variable_with_a_fault_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASYNC_DELIVERY_ORG", "a/b")

    assert run(["jobs"]) == 2
    assert "ASYNC_DELIVERY_ORG: must be" in capsys.readouterr().err


def test_a_setting_that_does_not_exist_is_told_once_and_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASYNC_DELIVERY_STORE_FLIE", "x")

    assert run(["store", "init"]) == 0
    assert "did you mean ASYNC_DELIVERY_STORE_FILE?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [["submit", "--params", "{}"], ["wait", "x"], ["watch", "x"], ["result", "x"], ["jobs"], ["cancel", "x"]],
)
def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*args, *UNREACHABLE]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "async-delivery: no server answers at http://127.0.0.1:1 ([Errno 111] Connection refused)\n"
    )


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "async_delivery", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"async-delivery {__version__}\n"


def test_submit_loads_nothing_of_the_server() -> None:
    program = (
        "import sys; from async_delivery.cli.app import run; "
        f"run(['submit', '--params', '{{}}', {UNREACHABLE[0]!r}, {UNREACHABLE[1]!r}]); "
        "print(*(name for name in ('fastapi', 'uvicorn', 'sqlalchemy', 'alembic', 'pydantic', 'duckdb', "
        "'async_delivery.api', 'async_delivery.engine', 'async_delivery.storage', 'async_delivery.worker') "
        "if name in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_submit_starts_in_less_than_half_a_second() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, "submit", "--params", "{}", *UNREACHABLE], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Of the processor: what other programs take meanwhile is not the command's.
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < START_SECONDS


def test_a_reader_that_goes_away_is_no_failure_of_the_program() -> None:
    shown = subprocess.Popen([COMMAND, "serve", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert shown.stdout
    assert shown.stderr
    shown.stdout.close()

    said = shown.stderr.read()
    shown.stderr.close()

    assert said == b""
    assert shown.wait() in {0, 141}
