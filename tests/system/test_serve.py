"""``async-delivery serve`` as its operator meets it: start, refusals, signals, restarts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from async_delivery import __version__
from async_delivery.wiring.protocol import MAX_HEAD_BYTES
from tests.system.live import COMMAND, DEADLINE_SECONDS, LiveServer, eventually, run_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """For what leaves a server as it was."""
    live = LiveServer(tmp_path_factory.mktemp("shared"), "--slots", "1").start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "2", "--drain-grace-seconds", "30")
    yield live
    live.stop()


def refused(folder: Path, *options: str, port: int = 0) -> subprocess.CompletedProcess[str]:
    """``serve`` with what it must refuse."""
    return run_command("serve", "--port", str(port), *options, cwd=folder)


# ---------------------------------------------------------------- start


def test_one_line_says_where_it_answers_once_it_does(tmp_path: Path) -> None:
    with subprocess.Popen(
        [COMMAND, "serve", "--port", "0", "--slots", "1"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        # What is no line of the log is for people.
        line = next(line for line in process.stderr if not line.startswith("{"))
        found = re.match(
            rf"async-delivery {re.escape(__version__)} on http://127\.0\.0\.1:(\d+), store "
            r"runtime/async_jobs/store\.v1\.json, 1 slot, analyses: .*selftest",
            line,
        )
        assert found, line
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=5) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(64).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0
        rest = [json.loads(line) for line in process.stderr]
        assert {"server.started", "server.ended"} <= {record["event"] for record in rest}
        assert {record["level"] for record in rest} == {"info"}


def test_a_first_start_makes_the_store_and_a_second_one_keeps_it(server: LiveServer) -> None:
    server.start()
    first = json.loads(server.store_file.read_text())
    job_id = server.submit(stages=1, stage_seconds=0)
    done = server.ended(job_id)

    assert server.stop() == 0
    server.start()

    assert json.loads(server.store_file.read_text()) == first
    assert server.job(job_id)["result_id"] == done["result_id"]
    assert server.ask("GET", f"/analyze/results/{done['result_id']}").status == 200


def test_the_server_says_nothing_of_what_it_is_made_of(shared: LiveServer) -> None:
    headers = shared.ask("GET", "/health").headers

    assert "server" not in headers


def test_settings_come_from_the_environment_and_a_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "async-delivery.toml").write_text('default_analysis = "selftest"\nstore_file = "here.json"\n')
    monkeypatch.setenv("ASYNC_DELIVERY_MAX_BODY_BYTES", "300")
    server = LiveServer(tmp_path).start()
    try:
        assert (tmp_path / "here.json").is_file()
        submitted = server.ask("POST", "/analyze", {"params": {"stages": 0}})
        assert submitted.status == 200
        assert server.ask("POST", "/analyze", {"query": "x" * 300}).status == 413
    finally:
        server.stop()


def test_without_workers_jobs_wait(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--no-workers").start()
    try:
        job_id = server.submit(stages=0)
        # Nothing can be waited for: it is what does not happen that counts, as long as a job would take.
        answer = server.ask("GET", f"/analyze/jobs/{job_id}", headers={"Prefer": "wait=1"})
        assert answer.json()["job"]["status"] == "queued"
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_other_names_of_this_machine_can_be_listened_on(tmp_path: Path, host: str) -> None:
    with subprocess.Popen(
        [COMMAND, "serve", "--host", host, "--port", "0"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        lines = iter(process.stderr.readline, "")
        said = next((line for line in lines if "http://" in line or "cannot" in line), "nothing")
        process.send_signal(signal.SIGTERM)

    if host == "::1" and "cannot listen" in said:
        assert not Path("/proc/net/if_inet6").read_text().strip(), said
    else:
        assert ("http://[::1]:" if host == "::1" else "http://127.0.0.1:") in said
        assert process.returncode == 0


def test_the_server_cleans_up_by_itself_and_keeps_the_reports(tmp_path: Path) -> None:
    options = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0", "--cleanup-schedule", "10s")
    server = LiveServer(tmp_path, *options).start()
    folder = tmp_path / "artifacts/async"
    try:
        job = server.ended(server.submit(stages=2, stage_seconds=0))

        def reports() -> list[dict[str, Any]]:
            return [json.loads(path.read_text()) for path in folder.glob("retention-*.json")]

        eventually(lambda: sum(report["results"]["delete_count"] for report in reports()) == 3, "no cleanup")
        assert server.ask("GET", f"/analyze/results/{job['result_id']}").status == 410
        assert server.job(job["job_id"])["status"] == "completed"
    finally:
        server.stop()


# ---------------------------------------------------------------- refusals at start


def test_a_taken_port_is_refused_in_one_line(server: LiveServer, tmp_path: Path) -> None:
    server.start()

    done = refused(tmp_path, "--store-file", "other.json", port=server.port)

    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {server.port}: Address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "other.json").exists()


def test_a_second_server_on_the_same_store_is_refused_and_the_first_goes_on(server: LiveServer) -> None:
    server.start()
    assert server.process

    done = refused(server.folder)

    assert done.returncode == 1
    assert f"served already by process {server.process.pid}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert server.ended(server.submit(stages=0))["status"] == "completed"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_is_refused_without_a_trusted_proxy(tmp_path: Path, host: str) -> None:
    done = refused(tmp_path, "--host", host)

    # An address of another machine cannot be listened on at all, which is as good a reason.
    assert (done.returncode, "--trusted-proxy" in done.stderr) in {(2, True), (1, False)}
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_behind_a_trusted_proxy_only_that_proxy_is_believed(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--host", "0.0.0.0", "--trusted-proxy", "10.0.0.0/8").start()
    try:
        assert server.ask("GET", "/analyze/jobs", org="alpha").status == 403
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["--analysis", "no_such_module:f"], 2, "no_such_module"),
        (["--default-analysis", "no-such"], 2, "there is no no-such, only profile, selftest"),
        (["--lease-seconds", "10", "--heartbeat-seconds", "5"], 2, "at least three times"),
        (["--data-root", "no-such-folder"], 2, "there is no folder no-such-folder"),
        (["--work-dir", "/proc/nowhere"], 1, "cannot start"),
        (["--store-url", "mysql://x"], 1, "is not known"),
        (["--store-url", "postgresql://u:secret@h/d"], 1, "a password does not belong"),
        (["--host", "no such host"], 2, "not a host name"),
        (["--store-file", "/proc/nowhere/store.json"], 1, "cannot be made"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(
    tmp_path: Path, options: list[str], code: int, part: str
) -> None:
    done = refused(tmp_path, *options)

    assert done.returncode == code
    assert part in done.stderr
    assert "secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the store file is empty"),
        ('{"kind": "async-deliv', "damaged or truncated"),
        ('{"name": "something else"}', "not a store file of this program"),
        ('{"kind": "async-delivery-store", "schema_version": 2}', "newer version"),
        ('{"schema_version": 3, "jobs": {}, "results": {}}', "async-delivery store convert"),
    ],
)
def test_a_store_file_that_is_none_is_refused_and_left_alone(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "store.json"
    file.write_text(text)

    done = refused(tmp_path, "--store-file", "store.json")

    assert done.returncode == 1
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert file.read_text() == text
    assert list(tmp_path.iterdir()) == [file]


def test_a_server_whose_lock_file_was_removed_accepts_nothing_and_lets_no_second_start(
    server: LiveServer,
) -> None:
    server.start()
    assert server.process
    job_id = server.submit(stages=0)
    server.ended(job_id)
    body = {"analysis": "selftest", "params": {"stages": 0}}
    (server.store_file.parent / "store.v1.sqlite3.lock").unlink()

    answer = server.ask("POST", "/analyze", body, headers={"Prefer": "respond-async"})
    second = refused(server.folder)

    assert answer.status == 503
    assert answer.json()["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert second.returncode == 1
    assert f"process {server.process.pid} on this machine" in second.stderr
    assert server.ask("GET", "/health").status == 200
    assert server.job(job_id)["status"] == "completed"


def test_a_server_whose_database_was_deleted_accepts_nothing(server: LiveServer) -> None:
    server.start()
    job_id = server.submit(stages=0)
    server.ended(job_id)
    body = {"analysis": "selftest", "params": {"stages": 0}}
    for path in server.store_file.parent.glob("store.v1.sqlite3*"):
        if path.suffix != ".lock":
            path.unlink()

    answer = server.ask("POST", "/analyze", body, headers={"Prefer": "respond-async"})

    assert answer.status == 503
    assert "is gone" in answer.json()["message"]
    assert server.ask("GET", "/health").status == 200
    eventually(
        lambda: server.ask("GET", f"/analyze/jobs/{job_id}").status == 503, "reads go on from a deleted file"
    )
    eventually(lambda: "writing is refused: " in server.log(), "the log does not say it")
    assert server.log().count("writing is refused: ") == 1


def test_a_damaged_database_is_refused_at_the_start_in_one_sentence(server: LiveServer) -> None:
    server.start()
    server.ended(server.submit(stages=0))
    server.stop()
    database = server.store_file.parent / "store.v1.sqlite3"
    with closing(sqlite3.connect(database)) as connection:
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        pages = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'jobs'").fetchall()
    with database.open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * page_bytes)
            file.write(b"\xff" * 64)

    done = refused(server.folder)

    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert "store check" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_whose_database_is_gone_is_refused_and_not_made_anew(server: LiveServer) -> None:
    server.start()
    server.stop()
    for path in server.store_file.parent.glob("*.sqlite3*"):
        path.unlink()

    done = refused(server.folder)

    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert list(server.store_file.parent.glob("*.sqlite3")) == []


# ---------------------------------------------------------------- signals and restarts


def test_sigterm_lets_the_running_job_end_and_takes_no_new_one(server: LiveServer) -> None:
    server.start()
    assert server.process
    job_id = server.submit(stages=20, stage_seconds=0.1)
    eventually(lambda: server.job(job_id)["status"] == "partial", "it runs")

    server.process.terminate()
    body = {"analysis": "selftest", "options": {"async_mode": {"requested": True}}}
    answer = eventually(
        lambda: (got := server.ask("POST", "/analyze", body)).status == 503 and got, "no 503 while draining"
    )

    assert answer.json()["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0
    assert server.ask("GET", f"/analyze/jobs/{job_id}").status == 200
    assert server.process.wait(DEADLINE_SECONDS) == 0
    server.start()
    job = server.job(job_id)
    assert (job["status"], job["attempt"]) == ("completed", 1)


def test_a_job_longer_than_the_grace_is_given_back_and_runs_again_at_no_cost(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--drain-grace-seconds", "0.1", "--cancel-grace-seconds", "1").start()
    job_id = server.submit(stages=30, stage_seconds=0.1)
    eventually(lambda: server.job(job_id)["status"] == "partial", "it runs")

    assert server.stop() == 0
    server.start()
    try:
        job = server.ended(job_id)
        events = server.ask("GET", f"/analyze/jobs/{job_id}/events?limit=200").json()["events"]
    finally:
        server.stop()

    assert (job["status"], job["error_count"]) == ("completed", 0)
    assert [e["payload_json"]["reason"] for e in events if e["event_type"] == "job.requeued"] == ["drained"]


def test_a_second_signal_ends_it_at_once_and_loses_nothing(server: LiveServer) -> None:
    server.start()
    assert server.process
    job_id = server.submit(stages=600, stage_seconds=0.1)
    eventually(lambda: server.job(job_id)["status"] == "partial", "it runs")
    everything = server.processes()

    server.process.send_signal(signal.SIGINT)
    eventually(lambda: server.ask("POST", "/analyze", {}).status == 503, "it drains")
    server.process.send_signal(signal.SIGINT)

    assert server.process.wait(DEADLINE_SECONDS) == 1
    assert "Traceback" not in server.log()
    eventually(
        lambda: not [p for p in everything if p.is_running() and p.status() != "zombie"], "children live"
    )
    server.start()
    eventually(lambda: server.job(job_id)["attempt"] == 2, "it runs again")
    server.ask("POST", f"/analyze/jobs/{job_id}/cancel", {})
    assert server.ended(job_id)["status"] == "canceled"


def test_an_idle_server_stops_in_a_moment_although_clients_hold_connections(server: LiveServer) -> None:
    server.start()
    job_id = server.submit(stages=0)
    etag = eventually(
        lambda: (
            server.job(job_id)["status"] == "completed"
            and server.ask("GET", f"/analyze/jobs/{job_id}").headers["etag"]
        ),
        "it ends",
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_SECONDS) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(64).startswith(b"HTTP/1.1 200")
        waiting = threading.Thread(
            target=lambda: server.ask(
                "GET",
                f"/analyze/jobs/{job_id}",
                headers={"Prefer": "wait=60", "If-None-Match": etag},
            ),
            daemon=True,
        )
        waiting.start()
        began = time.monotonic()

        assert server.stop() == 0

        # Ten times what was measured; the drain grace alone would be 30 s.
        assert time.monotonic() - began < 20
        waiting.join(DEADLINE_SECONDS)


def test_kill_9_and_a_restart_keep_everything(server: LiveServer) -> None:
    server.start()
    ended = server.ended(server.submit(stages=2, stage_seconds=0, payload_bytes=100))
    before = server.ask("GET", f"/analyze/results/{ended['result_id']}").body
    running = server.submit(stages=20, stage_seconds=0.05)
    eventually(lambda: server.job(running)["status"] == "partial", "it runs")
    waiting = [server.submit(stages=1, stage_seconds=0) for _ in range(5)]

    server.kill_everything()
    server.start()

    assert server.ask("GET", f"/analyze/results/{ended['result_id']}").body == before
    assert {server.ended(job_id)["status"] for job_id in [running, *waiting]} == {"completed"}
    assert run_command("store", "check", cwd=server.folder).returncode == 0


# ---------------------------------------------------------------- the wire


def exchange(server: LiveServer, data: bytes) -> tuple[bytes, dict[str, Any]]:
    """The head and the JSON body of the answer to raw bytes, on a connection that the server then closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_SECONDS) as client:
        client.sendall(data)
        got = b""
        while piece := client.recv(65_536):
            got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Org-Id: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (MAX_HEAD_BYTES + 1),
        b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEAD_BYTES // 5),
    ],
)
def test_what_is_no_http_gets_the_one_error_body_and_the_server_goes_on(
    shared: LiveServer, data: bytes
) -> None:
    head, body = exchange(shared, data)

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    assert (body["ok"], body["code"], body["status"]) == (False, "bad_request", 400)
    assert body["request_id"].encode() in head
    assert shared.ask("GET", "/health").status == 200


def test_pipelined_and_large_requests_are_no_large_heads(shared: LiveServer) -> None:
    body = json.dumps({"analysis": "selftest", "query": "x" * 9_000, "params": {"stages": 0}}).encode()
    post = b"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nPrefer: respond-async\r\n"
    post += b"Content-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", shared.port), timeout=DEADLINE_SECONDS) as client:
        client.sendall(post * 20 + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b""
        while piece := client.recv(65_536):
            got += piece

    assert got.count(b"HTTP/1.1 202 ") == 20
    assert got.count(b"HTTP/1.1 200 ") == 1


def test_without_options_it_listens_on_this_machine_only(shared: LiveServer) -> None:
    assert shared.process

    opened = Path(f"/proc/{shared.process.pid}/net/tcp").read_text().splitlines()[1:]
    listening = {line.split()[1] for line in opened if line.split()[3] == "0A"}

    assert f"0100007F:{shared.port:04X}" in listening
    assert f"00000000:{shared.port:04X}" not in listening


def test_the_serving_process_knows_no_secret_that_its_analyses_could_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "not-for-analyses")
    monkeypatch.setenv("SHOWN", "yes")
    (tmp_path / "peek.py").write_text(
        "import os\nfrom async_delivery.plugins import analysis\n\n"
        "@analysis('peek', version='1')\ndef peek(params, context):\n"
        "    return {'secret': os.environ.get('PGPASSWORD'), 'shown': os.environ.get('SHOWN')}\n"
    )
    server = LiveServer(tmp_path, "--analysis", "peek:peek", "--keep-env", "SHOWN").start()
    try:
        job = server.ended(server.submit("peek"))
        assert job["status"] == "completed", job
        result = server.ask("GET", f"/analyze/results/{job['result_id']}").json()["result"]
    finally:
        server.stop()

    assert result == {"secret": None, "shown": "yes"}
    assert "peek" not in sys.modules
    assert os.environ["PGPASSWORD"] == "not-for-analyses"
