"""Readers that take their time: while one holds a snapshot, SQLite's log cannot begin anew."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from async_delivery.storage import sqlite_files
from async_delivery.storage.sqlite_files import connect_reader, size_of
from tests.contract.support import House
from tests.reliability.disk import MIB
from tests.reliability.hostile import message
from tests.reliability.slow import Frozen
from tests.storage.support import database_of, sqlite_store
from tests.system.live import COMMAND, LiveServer

# The log begins anew after a thousand pages of 4 KiB, and a transaction or two more.
USUAL_LOG_BYTES = 6 * MIB
# What it is cut back to once it begins anew, sixteen times smaller than it is outside of this test.
LOG_LIMIT_BYTES = 4 * MIB


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "1")
    try:
        yield live.start()
    finally:
        live.stop()


def wal_of(folder: Path) -> Path:
    return folder / "store.v1.sqlite3-wal"


@pytest.mark.slow
def test_slow_downloads_and_exports_hold_no_snapshot(server: LiveServer) -> None:
    def run_one(payload_bytes: int) -> str:
        job_id = server.submit(stages=1, stage_seconds=0, payload_bytes=payload_bytes)
        return str(server.ended(job_id)["result_id"])

    result_id, job_id = run_one(8 * MIB), server.submit(stages=1, stage_seconds=30)
    asked = [
        message("GET", f"/analyze/results/{result_id}".encode()),
        message("GET", f"/analyze/jobs/{job_id}/events".encode()),
    ]
    server.ask("POST", f"/analyze/jobs/{job_id}/cancel")
    export = [COMMAND, "store", "export", "--store-file", str(server.store_file)]
    with Frozen(server.port, asked * 3), subprocess.Popen(export, stdout=subprocess.PIPE) as exporting:
        try:
            assert exporting.stdout is not None
            assert exporting.stdout.read(1) == b"{"  # it prints now, and nobody takes the rest
            size_before = size_of(wal_of(server.store_file.parent))
            for _ in range(8):
                run_one(MIB)
            # Eight mebibytes in one transaction may have left it larger, but it has not grown by the eight since.
            assert size_of(wal_of(server.store_file.parent)) <= max(size_before, USUAL_LOG_BYTES)
        finally:
            exporting.kill()


@pytest.mark.slow
def test_a_log_that_a_long_reader_made_grow_shrinks_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_files, "_MEBIBYTE", MIB // 16)
    with closing(sqlite_store(tmp_path)) as store:
        house = House(store)
        wal = database_of(tmp_path).with_name(database_of(tmp_path).name + "-wal")
        with closing(connect_reader(database_of(tmp_path))) as reader:
            reader.execute("BEGIN")
            jobs = count_jobs(reader)
            grow(lambda: house.completed(payload={"x": "y" * (MIB)}), wal)
            assert count_jobs(reader) == jobs, "it has a snapshot"
        for _ in range(2):
            house.completed(
                payload={"x": "y" * (4 * MIB)}
            )  # the first works the log in, the second begins it anew

        assert size_of(wal) <= LOG_LIMIT_BYTES + MIB
        assert house.violations() == []


def count_jobs(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


def grow(step: Callable[[], object], wal: Path) -> None:
    for _ in range(30):
        step()
        if size_of(wal) > LOG_LIMIT_BYTES + 4 * MIB:
            return
    raise AssertionError(f"the log has only {size_of(wal)} bytes, so nothing held it")
