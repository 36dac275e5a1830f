"""``store`` and ``cleanup``: what an operator does with a store file."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from async_delivery.cli.app import run
from tests.system.live import LiveServer


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("ASYNC_DELIVERY_"):
            monkeypatch.delenv(name)


def test_a_new_store_is_made_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "init", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert run(["store", "info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)

    file = json.loads((tmp_path / "runtime/async_jobs/store.v1.json").read_text())
    assert made["store_id"] == info["store_id"] == file["store_id"]
    assert made["database"] == file["database"] == "sqlite:store.v1.sqlite3"
    assert info["counts"]["jobs"] == 0
    assert info["dialect"] == "sqlite"


def test_the_database_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "init", "--store-file", "a/s.json", "--store-url", "sqlite:../data.db"]) == 0
    assert (tmp_path / "data.db").is_file()
    assert run(["store", "check", "--store-file", "a/s.json"]) == 0
    assert "every invariant holds" in capsys.readouterr().out


def test_nothing_is_made_over_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.json").write_text("mine")

    assert run(["store", "init", "--store-file", "s.json"]) == 1

    said = capsys.readouterr()
    assert said.out == ""
    assert "exists already" in said.err
    assert (tmp_path / "s.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["info", "check"])
def test_a_store_that_is_not_there_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["store", name]) == 1

    said = capsys.readouterr()
    assert "there is no store file" in said.err
    assert len(said.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_described_and_checked_beside_its_server(
    server: LiveServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ended(server.submit(stages=1, stage_seconds=0))

    assert run(["store", "check", "--store-file", str(server.store_file)]) == 0
    assert "every invariant holds" in capsys.readouterr().out
    assert run(["store", "info", "--store-file", str(server.store_file)]) == 0
    assert "synchronous=FULL" in capsys.readouterr().out


def test_a_broken_invariant_is_named_and_exit_code_1(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = LiveServer(tmp_path, "--slots", "1").start()
    job_id = other.submit(stages=2, stage_seconds=0)
    other.ended(job_id)
    other.stop()
    with sqlite3.connect(other.store_file.with_name("store.v1.sqlite3")) as database:
        changed = database.execute(
            "UPDATE jobs SET progress_percent = 40 WHERE status = 'completed'"
        ).rowcount
        assert changed == 1
        deleted = database.execute("DELETE FROM events WHERE event_seq = 2").rowcount
        assert deleted == 1
    database.close()

    assert run(["store", "check"]) == 1
    text = capsys.readouterr()
    assert run(["store", "check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)

    assert found["ok"] is False
    assert text.out.splitlines() == found["violations"]
    assert any(job_id in violation for violation in found["violations"])
    assert "invariants are broken" in text.err


def test_cleanup_shows_a_table_for_people_and_json_for_programs(
    server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ended(server.submit(stages=1, stage_seconds=0))
    dry = ["cleanup", "--store-file", str(server.store_file), "--dry-run", "--results-ttl-seconds", "0"]

    assert run(dry) == 0
    table = capsys.readouterr()
    assert run([*dry, "run", "--json", "--output-json", "report.json"]) == 0
    report = json.loads(capsys.readouterr().out)

    assert "WOULD DELETE" in table.out
    row = next(line.split() for line in table.out.splitlines() if line.startswith("results "))
    assert [int(cell) for cell in row[1:4]] == [
        report["results"][name] for name in ("total", "delete_count", "kept_count")
    ]
    assert report["results"]["delete_count"] > 0
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_cleanup_that_is_refused_is_exit_code_1_and_wrong_usage_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["cleanup", "--store-file", "no-such.json"]) == 1
    assert run(["cleanup", "--results-ttl-seconds", "x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_settings_file_of_the_folder_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "async-delivery.toml").write_text('store_file = "it/s.json"\nstore_url = "sqlite:d.db"\n')

    assert run(["store", "init"]) == 0

    assert (tmp_path / "it/s.json").is_file()
    assert (tmp_path / "it/d.db").is_file()
