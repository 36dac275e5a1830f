"""The commands of a tenant, from submit to result, against a live server."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from async_delivery.analyses.data import PENGUINS
from tests.cli.conftest import Ran
from tests.system.live import COMMAND, DEADLINE_SECONDS, LiveServer, eventually

Command = Callable[..., Ran]


def params(**given: Any) -> tuple[str, ...]:
    return ("--analysis", "selftest", "--params", json.dumps({"stages": 1, "stage_seconds": 0, **given}))


def environment(server: LiveServer, org: str) -> dict[str, str]:
    return {
        **os.environ,
        "ASYNC_DELIVERY_BASE_URL": f"http://127.0.0.1:{server.port}",
        "ASYNC_DELIVERY_ORG": org,
    }


def test_a_file_is_submitted_followed_and_its_tables_are_shown(command: Command) -> None:
    submitted = command("submit", str(PENGUINS), "--label", "team=a", "--ttl", "1d", "--timeout", "5m")

    assert submitted.code == 0, submitted.err
    said = dict(line.split(maxsplit=1) for line in submitted.out.splitlines())
    assert said["status"] == "completed"
    assert said["link"].endswith(f"/analyze/results/{said['result']}")
    assert "completed 100.0 %" in submitted.err

    shown = command("result", said["job"])
    assert shown.code == 0
    assert "bill_length_mm" in shown.out
    assert "Most frequent values" in shown.out
    assert command("result", said["result"]).out == shown.out


def test_without_waiting_only_the_id_is_on_stdout(command: Command) -> None:
    submitted = command("submit", "--no-wait", *params())

    assert submitted.code == 0
    job_id = submitted.out.strip()
    assert command("wait", job_id).code == 0
    assert json.loads(command("wait", job_id, "--json").out)["job_id"] == job_id


def test_what_is_wished_for_reaches_the_server(command: Command) -> None:
    job = json.loads(
        command(
            *("submit", "--json", *params(), "--label", "a=1", "--label", "b=x=y"),
            *("--timeout", "90s", "--priority", "expedite", "--query", "what"),
        ).out
    )

    assert job["labels"] == {"a": "1", "b": "x=y"}
    assert job["status"] == "completed"
    assert job["timeout_seconds"] == 90


def test_params_come_from_a_file_or_standard_input(
    command: Command, server: LiveServer, org: str, tmp_path: Path
) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"stages": 2, "stage_seconds": 0}')

    job = json.loads(command("submit", "--json", "--analysis", "selftest", "--params-file", str(file)).out)
    piped = subprocess.run(
        [COMMAND, "submit", "--json", "--analysis", "selftest", "--params-file", "-"],
        input=file.read_text(),
        env=environment(server, org),
        capture_output=True,
        text=True,
        check=True,
    )

    assert job["partial_count"] == json.loads(piped.stdout)["partial_count"] == 2


def test_params_that_break_the_schema_are_all_named_on_one_line(command: Command) -> None:
    refused = command(
        "submit", "--analysis", "selftest", "--params", '{"stages": -3, "x": 1, "outcome": "nix"}'
    )

    assert refused.code == 1
    assert len(refused.err.splitlines()) == 1
    assert refused.err.startswith("async-delivery: bad_request (400): ")
    assert all(word in refused.err for word in ("stages", "'x'", "outcome"))


def test_a_job_that_fails_is_exit_code_1_with_its_error(command: Command) -> None:
    failed = command("submit", *params(outcome="fail"))

    assert failed.code == 1
    assert "analysis_error" in failed.out
    assert command("wait", failed.out.split()[1]).code == 1


def test_the_same_key_leads_to_the_same_job(command: Command) -> None:
    first = command("submit", "--no-wait", "--idempotency-key", "once", *params())
    again = command("submit", "--no-wait", "--idempotency-key", "once", *params())
    other = command("submit", "--no-wait", "--idempotency-key", "once", *params(stages=2))

    assert again.out == first.out
    assert "was submitted before" in again.err
    assert other.code == 1
    assert "idempotency_key_reused (422)" in other.err


def test_watch_shows_every_event_with_the_links_of_partial_results(command: Command) -> None:
    job_id = command("submit", "--no-wait", *params(stages=3)).out.strip()

    watched = command("watch", job_id)
    lines = command("watch", job_id, "--json").out.splitlines()

    assert watched.code == 0
    assert watched.out.count("job.partial") == 3
    assert watched.out.count("?view=requested") == 3
    assert [json.loads(line)["event_seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert json.loads(lines[-1])["event_type"] == "job.completed"


def test_a_result_comes_byte_for_byte(command: Command, server: LiveServer, org: str, tmp_path: Path) -> None:
    job = json.loads(command("submit", "--json", *params()).out)
    sent = server.ask("GET", f"/analyze/results/{job['result_id']}", org=org).body
    file = tmp_path / "result.json"

    written = command("result", job["job_id"], "--output", str(file))

    assert written.code == 0
    assert file.read_bytes() == sent
    assert command("result", job["job_id"], "--json").out.encode() == sent + b"\n"
    assert command("result", job["job_id"], "--output", str(tmp_path / "no/such/place")).code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_requested_partial_is_that_partial(command: Command, server: LiveServer, org: str) -> None:
    job = json.loads(command("submit", "--json", *params(stages=2)).out)
    listed = server.ask("GET", f"/analyze/jobs/{job['job_id']}/results", org=org).json()["results"]

    first = json.loads(command("result", listed[0]["result_id"], "--view", "requested", "--json").out)
    latest = json.loads(command("result", listed[0]["result_id"], "--json").out)

    assert (first["result_kind"], latest["result_kind"]) == ("partial", "final")


@pytest.mark.parametrize("name", ["wait", "watch", "result", "cancel", "retry"])
def test_an_unknown_job_and_another_tenants_are_the_same(command: Command, name: str) -> None:
    job_id = command("submit", "--no-wait", *params()).out.strip()

    foreign = command(name, job_id, "--org", "a-stranger")
    unknown = command(name, job_id[:-1] + ("0" if job_id[-1] != "0" else "1"), "--org", "a-stranger")

    assert foreign.code == unknown.code == 1
    assert "not found" in foreign.err or "there is no" in foreign.err
    assert foreign.err[: foreign.err.find(job_id[:8])] == unknown.err[: unknown.err.find(job_id[:8])]


def test_a_running_job_is_canceled_and_then_submitted_again(command: Command) -> None:
    job_id = command("submit", "--no-wait", *params(stages=600, stage_seconds=0.1)).out.strip()
    eventually(lambda: json.loads(command("jobs", "--json").out)["jobs"][0]["status"] == "partial", "it runs")

    asked = command("cancel", job_id, "--reason", "enough")
    ended = command("wait", job_id)
    again = command("cancel", job_id)

    assert asked.code == again.code == 0
    assert "asked to stop" in asked.out
    assert ended.code == 1
    assert "canceled" in ended.out
    assert again.out == f"job {job_id} is canceled\n"
    retried = command("retry", job_id, "--no-wait").out.strip()
    assert retried != job_id
    assert command("cancel", retried).code == 0


def test_patience_that_ends_is_exit_code_1_and_the_job_goes_on(command: Command) -> None:
    job_id = command("submit", "--no-wait", *params(stages=600, stage_seconds=0.1)).out.strip()

    gave_up = command("wait", job_id, "--timeout", "0.2s")

    assert gave_up.code == 1
    assert "it goes on" in gave_up.err
    assert command("cancel", job_id).code == 0


def test_jobs_are_listed_newest_first_and_filtered(command: Command) -> None:
    ids = [command("submit", "--no-wait", "--label", f"n={n % 2}", *params()).out.strip() for n in range(3)]
    for job_id in ids:
        command("wait", job_id)

    table = command("jobs")
    heads, *lines = table.out.splitlines()

    assert heads.split()[:2] == ["JOB", "STATUS"]
    assert [line.split()[0] for line in lines] == ids[::-1]
    assert [job["job_id"] for job in json.loads(command("jobs", "--label", "n=0", "--json").out)["jobs"]] == [
        ids[2],
        ids[0],
    ]
    assert json.loads(command("jobs", "--status", "failed", "--json").out) == {"jobs": [], "more": False}
    assert json.loads(command("jobs", "--limit", "2", "--json").out)["more"] is True


def test_the_analyses_are_listed(command: Command) -> None:
    listed = json.loads(command("analyses", "--json").out)["analyses"]

    assert {"profile", "selftest"} <= {each["name"] for each in listed}
    assert all(each["name"] in command("analyses").out for each in listed)


def test_ctrl_c_ends_the_following_and_not_the_job(command: Command, server: LiveServer, org: str) -> None:
    job_id = command("submit", "--no-wait", *params(stages=600, stage_seconds=0.1)).out.strip()
    watching = subprocess.Popen(
        [COMMAND, "watch", job_id],
        env=environment(server, org),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout
    watching.stdout.readline()

    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=DEADLINE_SECONDS)

    assert watching.returncode == 130
    assert "the job goes on" in err
    assert "Traceback" not in err
    assert server.job(job_id, org=org)["status"] in {"running", "partial"}
    assert command("cancel", job_id).code == 0


def test_on_a_terminal_there_is_a_bar(server: LiveServer, org: str) -> None:
    ours, theirs = pty.openpty()
    submitted = subprocess.Popen(
        [COMMAND, "submit", *params(stages=3, stage_seconds=0.05)],
        env={**environment(server, org), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    try:
        while piece := os.read(ours, 65_536):
            drawn += piece
    except OSError:
        pass  # how Linux says that the other end of a terminal is closed
    os.close(ours)
    out, _ = submitted.communicate(timeout=DEADLINE_SECONDS)

    assert submitted.returncode == 0
    assert b"completed" in out
    assert b"\x1b[" not in out
    assert "━".encode() in drawn
    assert b"100 %" in drawn


def test_what_an_analysis_says_cannot_steer_a_terminal(command: Command) -> None:
    job_id = command("submit", "--no-wait", *params(), "--label", "k=\x1b[2J").out.strip()
    command("wait", job_id)

    assert "\x1b" not in command("jobs").out
    assert command("result", "\x1b[2Jx").err.count("\x1b") == 0


def test_output_in_a_pipe_that_closes_early_leaves_no_traceback(
    command: Command, server: LiveServer, org: str
) -> None:
    job_id = command("submit", "--no-wait", *params(payload_bytes=2_000_000)).out.strip()
    command("wait", job_id)

    done = subprocess.run(
        ["/bin/sh", "-c", f"{COMMAND} result {job_id} --json | head -c 10"],
        env={**environment(server, org), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert done.stderr == ""
    assert len(done.stdout) == 10


def test_a_program_that_answers_otherwise_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    program = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.BaseHTTPRequestHandler); "
    program += "print(s.server_port, flush=True); s.handle_request()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as other:
        assert other.stdout
        from async_delivery.cli.app import run

        code = run(["jobs", "--base-url", f"http://127.0.0.1:{other.stdout.readline().strip()}"])

    said = capfd.readouterr()
    assert code == 1
    assert len(said.err.splitlines()) == 1
    assert "unexpected_answer (501)" in said.err
