"""The commands of operation where things go wrong around them: files that cannot be read or written, odd folders."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from async_delivery.cli.app import run
from async_delivery.domain.instant import format_instant

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ASYNC_DELIVERY_"):
            monkeypatch.delenv(name)


def answer(at: datetime, status: int = 200) -> str:
    record = {
        "ts": format_instant(at),
        "event": "http.answered",
        "route": "/analyze/results/{result_id}",
        "status": status,
        "ms": 2.0,
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


# ---------------------------------------------------------------- signals


def test_a_log_that_cannot_be_read_is_unknown_and_not_critical(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["signals", "--access-log", "rotated-away.log"]) == 3
    assert "cannot read rotated-away.log: No such file" in capsys.readouterr().err


def test_one_line_of_a_clock_that_ran_ahead_does_not_hide_what_is_critical(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = datetime.now(UTC)
    lines = [answer(now - timedelta(seconds=10), 500), answer(now + timedelta(days=900))]
    Path("server.log").write_text("".join(lines), encoding="utf-8")

    code = run(["signals", "--access-log", "server.log", "--json"])

    assert code == 2
    document = json.loads(capsys.readouterr().out)
    assert (document["signals"][0]["value"], document["log"]["broken"]) == (1.0, 1)


@pytest.mark.parametrize(
    "signals",
    [[{}], [1], [{"name": "n", "unit": "u", "hint": "h", "level": "fine", "value": 0}], [{"level": "ok"}]],
)
def test_signals_of_another_form_are_unknown(signals: Any, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"ok": True, "signals": signals}).encode()

    def answer_all(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with listening(answer_all) as url:
        assert run(["signals", "--base-url", url]) == 3

    said = capsys.readouterr()
    assert said.out == ""
    assert "not as this version would" in said.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "socks5://u:canary-password@proxy:1"),
        ("HTTP_PROXY", "odd://u:canary-password@proxy:1"),
        ("HTTP_PROXY", "u:canary-password@:bad::"),
        ("SSL_CERT_FILE", "canary-password.pem"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_unknown_and_a_finding(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    scheme = "https" if name == "SSL_CERT_FILE" else "http"
    url = f"{scheme}://203.0.113.1:1"

    codes = (run(["signals", "--base-url", url]), run(["triage", "--base-url", url]))

    said = capsys.readouterr()
    assert codes == (3, 1)
    assert "canary-password" not in said.out + said.err
    for text in (said.out, said.err):
        assert f"{url} cannot be asked: a proxy or a file of certificates" in text


# ---------------------------------------------------------------- smoke


def test_a_store_that_is_not_here_is_to_be_named_and_not_to_be_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(["smoke", "staging", "--base-url", NOWHERE, "--store-file", "gone/store.v1.json"])
    by_smoke = capsys.readouterr().out
    run(["triage", "--base-url", NOWHERE, "--store-file", "gone/store.v1.json"])
    by_triage = capsys.readouterr().out

    for said in (by_smoke, by_triage):
        assert "there is no store file" in said
        assert "store init" not in said


def test_a_junit_file_that_cannot_be_written_is_said_before_anything_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("a-file").touch()

    code = run(["smoke", "staging", "--base-url", NOWHERE, "--junit", "a-file/smoke.xml"])

    said = capsys.readouterr()
    assert (code, said.out) == (1, "")
    assert said.err.startswith("async-delivery: --junit: cannot write a-file/smoke.xml: ")
    assert list(Path("artifacts/async").iterdir()) == []


def test_a_red_smoke_ends_with_the_triage_of_the_same_server_store_and_tenant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = "http://user:canary-password@127.0.0.1:1"
    code = run(["smoke", "staging", "--base-url", url, "--org", "acme", "--store-file", "my stores/s.json"])

    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 1
    assert last == (
        "next: async-delivery triage --base-url http://127.0.0.1:1 --org acme --store-file 'my stores/s.json'"
    )


# ---------------------------------------------------------------- triage


def test_what_triage_found_is_told_also_where_the_incident_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("async_delivery.ops.triage.write_incident", full)

    code = run(["triage", "--base-url", NOWHERE, "--incident", "INC-1"])

    said = capsys.readouterr()
    assert code == 1
    assert said.out.startswith("error class  ")
    assert "\nnext step: " in said.out
    assert (
        said.err == "async-delivery: cannot write artifacts/async/incident-INC-1: No space left on device\n"
    )


def test_the_next_step_is_a_command_for_the_store_and_the_server_that_were_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = "elsewhere/store.v1.json"
    assert run(["store", "init", "--store-file", store]) == 0
    assert run(["cleanup", "pause", "--why", "INC-1", "--store-file", store]) == 0
    capsys.readouterr()

    assert run(["triage", "--base-url", NOWHERE, "--store-file", store, "--json"]) == 1

    found = json.loads(capsys.readouterr().out)["findings"]
    steps = {each["fault"]: each["next_step"]["command"] for each in found}
    assert steps == {
        "server_unreachable": f"async-delivery serve --port 1 --store-file {store}",
        "cleanup_paused": f"async-delivery cleanup resume --store-file {store}",
    }


@contextmanager
def listening(say: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that takes one connection after the other and does this with it; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        say(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def silent(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def endless(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\n{\r\n")
        time.sleep(0.01)


@pytest.mark.parametrize(("say", "told"), [(silent, "did not answer"), (endless, "did not end")])
def test_a_server_that_listens_and_does_not_answer_is_not_to_be_started_a_second_time(
    say: Callable[[socket.socket], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["store", "init"]) == 0
    capsys.readouterr()

    with listening(say) as url:
        assert run(["triage", "--base-url", url, "--timeout", "0.1", "--json"]) == 1

    found = json.loads(capsys.readouterr().out)
    (finding,) = found["findings"]
    assert (finding["fault"], found["error_class"]) == ("server_unreachable", "result_read")
    assert told in finding["text"]
    assert finding["next_step"]["command"] == f"async-delivery doctor --base-url {url}"


def test_a_server_that_is_gone_is_to_be_started_where_its_store_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["triage", "--base-url", NOWHERE]) == 1
    without = capsys.readouterr().out
    assert run(["store", "init"]) == 0
    assert run(["triage", "--base-url", NOWHERE]) == 1
    beside = capsys.readouterr().out

    assert without.splitlines()[-1].startswith("next step: if its process is gone")
    assert beside.splitlines()[-1] == "  async-delivery serve --port 1"


def test_an_incident_whose_name_is_a_files_is_refused_also_with_update(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("artifacts/async").mkdir(parents=True)
    Path("artifacts/async/incident-INC-1").touch()

    assert run(["triage", "--base-url", NOWHERE, "--incident", "INC-1", "--update"]) == 2
    assert "artifacts/async/incident-INC-1 is no folder" in capsys.readouterr().err


def test_a_good_artefact_of_a_clock_that_ran_ahead_does_not_hide_the_bad_one_after_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path("artifacts/async")
    folder.mkdir(parents=True)
    good: dict[str, Any] = {"dry_run": False, "results": {}, "events": {}, "errors": []}
    told: list[tuple[str, dict[str, Any]]] = [
        ("good", {"finished_at": "2999-01-01T00:00:00Z"}),
        ("bad", {"finished_at": "2026-03-01T12:00:00Z", "errors": ["disk I/O error"]}),
    ]
    for number, (name, changes) in enumerate(told):
        path = folder / f"retention-{name}.json"
        path.write_text(json.dumps({**good, **changes}))
        os.utime(path, times=(1_772_366_400 + number - 1,) * 2)

    assert run(["triage", "--base-url", NOWHERE, "--json"]) == 1

    faults = {each["fault"] for each in json.loads(capsys.readouterr().out)["findings"]}
    assert faults == {"server_unreachable", "artefact_bad"}


def test_an_artefact_with_numbers_that_json_does_not_know_is_damaged_and_passed_on_to_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("artifacts/async").mkdir(parents=True)
    Path("artifacts/async/retention-live.json").write_text('{"dry_run": false, "results": NaN}')

    assert run(["triage", "--base-url", NOWHERE, "--json"]) == 1

    said = capsys.readouterr().out
    assert "NaN" not in said
    assert "retention-live.json: is damaged: it is not JSON" in said
