"""A dry run changes no byte: of a store at rest, of one in use, of one whose server was killed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from async_delivery.storage.opening import Mode, open_store
from tests.contract.support import House
from tests.storage.processes import WRITE_FOREVER, acknowledged, ended, started, until
from tests.storage.support import new_store_file, sqlite_store

DRY_RUN = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.opening import Mode, open_store

store = open_store(Path(sys.argv[1]) / "store.v1.json", Mode.READ_ONLY)
now = datetime(2100, 1, 1, tzinfo=timezone.utc)
found = store.read(lambda reader: reader.count_retention(RetentionPolicy(0, 0), now))
store.close()
print(found.results.delete_count, found.events.delete_count)
"""


def prints(folder: Path) -> dict[str, str]:
    """SHA-256 and last change of every file of the store but the log's index."""
    return {
        path.name: f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns} {path.stat().st_ino}"
        for path in folder.iterdir()
        if not path.name.endswith(("-shm", ".lock")) and not path.name.startswith("acknowledged")
    }


def counted(folder: Path) -> tuple[int, int]:
    results, events = ended(started(DRY_RUN, folder)).split()
    return int(results), int(events)


def test_of_a_store_at_rest_not_even_a_file_appears_beside_it(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    house.completed(partials=1)
    house.store.close()
    before, names = prints(tmp_path), set(os.listdir(tmp_path))

    assert counted(tmp_path) == (2, 4)

    assert prints(tmp_path) == before
    assert set(os.listdir(tmp_path)) == names


def test_of_a_store_in_use_the_database_and_the_log_stay_as_they_are(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    house.completed(partials=1)
    before = prints(tmp_path)
    assert "store.v1.sqlite3-wal" in before

    assert counted(tmp_path) == (2, 4)

    assert prints(tmp_path) == before
    house.completed()
    assert house.violations() == []
    house.store.close()


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_of_a_store_whose_server_was_killed_the_hot_log_stays_as_it_is(tmp_path: Path, index: str) -> None:
    new_store_file(tmp_path)
    process = started(WRITE_FOREVER, tmp_path, "server", Mode.SERVE.value, 10**9)
    until(lambda: len(acknowledged(tmp_path, "server")) > 10)
    process.kill()
    process.communicate(timeout=60)
    if index == "lost":
        (tmp_path / "store.v1.sqlite3-shm").unlink()
    before = prints(tmp_path)
    assert (tmp_path / "store.v1.sqlite3-wal").stat().st_size > 0
    completed = sum(state[0] == "completed" for state in acknowledged(tmp_path, "server").values())

    results, events = counted(tmp_path)

    assert results >= 2 * completed > 0
    assert events >= 4 * completed
    assert prints(tmp_path) == before


def test_a_reader_that_began_at_rest_sees_what_is_written_later(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    reader = House(open_store(tmp_path / "store.v1.json", Mode.READ_ONLY))
    assert reader.violations() == []
    writer = House(open_store(tmp_path / "store.v1.json", Mode.SERVE))

    job = writer.completed(payload="x" * 100_000)

    assert reader.stored(job) == job
    writer.store.close()
    assert reader.stored(job) == job
    assert reader.violations() == []
    reader.store.close()


def test_a_read_that_is_overtaken_by_a_writer_is_done_again(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    reader = open_store(tmp_path / "store.v1.json", Mode.READ_ONLY)
    writer = House(open_store(tmp_path / "store.v1.json", Mode.SERVE))
    runs = []

    def look(_: object) -> int:
        runs.append(1)
        if len(runs) == 1:
            writer.submit()
        return len(runs)

    assert reader.read(look) == 2
    assert reader.info().counts["jobs"] == 1
    reader.close()
    writer.store.close()
