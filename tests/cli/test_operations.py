"""The commands of operation where things go wrong around them: files that cannot be read or written, odd folders."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

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


# ---------------------------------------------------------------- smoke


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
        "server_unreachable": f"async-delivery serve --store-file {store}",
        "cleanup_paused": f"async-delivery cleanup resume --store-file {store}",
    }


def test_an_incident_whose_name_is_a_files_is_refused_also_with_update(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("artifacts/async").mkdir(parents=True)
    Path("artifacts/async/incident-INC-1").touch()

    assert run(["triage", "--base-url", NOWHERE, "--incident", "INC-1", "--update"]) == 2
    assert "artifacts/async/incident-INC-1 is no folder" in capsys.readouterr().err


def test_an_artefact_with_numbers_that_json_does_not_know_is_damaged_and_passed_on_to_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("artifacts/async").mkdir(parents=True)
    Path("artifacts/async/retention-live.json").write_text('{"dry_run": false, "results": NaN}')

    assert run(["triage", "--base-url", NOWHERE, "--json"]) == 1

    said = capsys.readouterr().out
    assert "NaN" not in said
    assert "retention-live.json: is damaged: it is not JSON" in said
