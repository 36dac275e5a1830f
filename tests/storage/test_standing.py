"""Files that are deleted or replaced under a process that has them open, and files that are damaged."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from async_delivery.domain.errors import StoreBusyError, StoreFileError, UnavailableError
from async_delivery.storage import standing
from async_delivery.storage.contract import Store
from async_delivery.storage.opening import Mode, create_store, open_store
from async_delivery.storage.sqlite_files import lock_path
from tests.contract.support import House
from tests.domain.support import NOON
from tests.storage.processes import started, until
from tests.storage.support import database_of, new_store_file, rows_by_hand, sqlite_store

SERVE = """
import sys, time
from pathlib import Path
from async_delivery.storage.opening import Mode, open_store

folder = Path(sys.argv[1])
store = open_store(folder / "store.v1.json", Mode.SERVE)
(folder / "serving").touch()
time.sleep(600)
"""


def beside(folder: Path, suffix: str) -> Path:
    database = database_of(folder)
    return database.with_name(database.name + suffix)


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("act", [remove, replace])
@pytest.mark.parametrize("suffix", ["", ".lock", "-wal"])
def test_nothing_is_acknowledged_once_a_file_of_the_store_was_taken_away(
    tmp_path: Path, suffix: str, act: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    house = House(sqlite_store(tmp_path))
    house.submit()

    act(beside(tmp_path, suffix))

    for _ in range(3):
        with pytest.raises(UnavailableError, match=r"removed or replaced|is gone|replaced by another"):
            house.submit()
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert len(told) == 1
    assert str(beside(tmp_path, suffix)) in told[0]
    house.store.close()


@pytest.mark.parametrize("suffix", ["", ".lock", "-wal"])
def test_writing_goes_on_when_the_file_is_back_in_its_place(tmp_path: Path, suffix: str) -> None:
    house = House(sqlite_store(tmp_path))
    first = house.submit()
    path = beside(tmp_path, suffix)
    path.rename(tmp_path / "away")
    with pytest.raises(UnavailableError):
        house.submit()

    (tmp_path / "away").rename(path)
    second = house.submit()

    assert house.stored(first) == first
    assert house.violations() == []
    house.store.close()
    assert {job_id for (job_id,) in rows_by_hand(tmp_path, "SELECT job_id FROM jobs")} == {
        first.job_id,
        second.job_id,
    }


def test_what_the_removed_log_held_is_saved_by_an_orderly_end(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    job = house.submit()
    beside(tmp_path, "-wal").unlink()
    with pytest.raises(UnavailableError, match="SIGTERM"):
        house.submit()

    house.store.close()

    again = House(open_store(tmp_path / "store.v1.json", Mode.SERVE))
    assert again.stored(job) == job
    assert again.violations() == []
    again.store.close()


def test_nothing_is_acknowledged_once_the_database_was_cut_off(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    house.submit()
    size = database_of(tmp_path).stat().st_size

    os.truncate(database_of(tmp_path), 8192)

    with pytest.raises(UnavailableError, match=r"cut off .* store check"):
        house.submit()
    os.truncate(database_of(tmp_path), size - 4096)
    with pytest.raises(UnavailableError, match="cut off"):
        house.submit()
    house.store.close()


def read_one(store: Store) -> int:
    return store.read(lambda _: 1)


def test_readers_notice_a_database_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "_READERS_LOOK_SECONDS", 0.0)
    house = House(sqlite_store(tmp_path))
    house.submit()
    assert read_one(house.store) == 1

    database_of(tmp_path).unlink()

    with pytest.raises(UnavailableError, match="is gone"):
        read_one(house.store)
    house.store.close()


def test_closing_leaves_the_database_that_took_the_place_alone(tmp_path: Path) -> None:
    store = sqlite_store(tmp_path)
    replace(database_of(tmp_path))
    before = database_of(tmp_path).read_bytes()

    store.close()

    assert database_of(tmp_path).read_bytes() == before
    assert not beside(tmp_path, "-wal").exists()


def test_a_second_server_is_refused_by_name_even_when_the_lock_file_is_gone(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    first = started(SERVE, tmp_path)
    until((tmp_path / "serving").exists)
    lock_path(database_of(tmp_path)).unlink()

    with pytest.raises(StoreBusyError, match=f"process {first.pid} on this machine"):
        open_store(tmp_path / "store.v1.json", Mode.SERVE)

    first.kill()
    first.communicate(timeout=60)
    open_store(tmp_path / "store.v1.json", Mode.SERVE).close()


def test_a_copy_of_a_served_store_may_be_served(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = sqlite_store(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    second = open_store(tmp_path / "two" / "store.v1.json", Mode.SERVE)

    first.close()
    second.close()


@pytest.mark.parametrize("name", ["here.json", "here.json.lock", "here.json-wal", "here.json-shm"])
def test_a_store_file_that_is_its_own_database_is_refused_before_anything_is_made(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "new"

    with pytest.raises(StoreFileError, match="own database"):
        create_store(folder / name, "sqlite:../new/here.json", store_id="s", now=NOON)

    assert not folder.exists()


# ---------------------------------------------------------------- damage
def smash(folder: Path, what: str) -> None:
    """Overwrite the first page of every table and index of ``what``, as a bad disk would."""
    size = rows_by_hand(folder, "PRAGMA page_size")[0][0]
    pages = rows_by_hand(folder, "SELECT rootpage FROM sqlite_master WHERE tbl_name = ?", what)
    with database_of(folder).open("r+b") as file:
        for (page,) in pages:
            file.seek((page - 1) * size)
            file.write(b"\xff" * 64)


def test_a_damaged_database_is_unavailable_to_writers_and_readers_and_says_what_to_do(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    job = house.submit()
    house.store.close()
    smash(tmp_path, "jobs")
    broken = House(open_store(tmp_path / "store.v1.json", Mode.SERVE))

    with pytest.raises(UnavailableError, match=r"damaged .* store check"):
        broken.submit()
    with pytest.raises(UnavailableError, match=r"damaged .* store check"):
        broken.stored(job)

    broken.store.close()


def test_a_schema_that_is_not_even_text_is_refused_in_a_sentence(tmp_path: Path) -> None:
    sqlite_store(tmp_path).close()
    data = database_of(tmp_path).read_bytes()
    database_of(tmp_path).write_bytes(data.replace(b"CREATE INDEX jobs_", b"CREATE INDEX \xff\xfe\xfd ,"))

    with pytest.raises(StoreFileError, match=r"cannot be used .* restore it from a backup"):
        open_store(tmp_path / "store.v1.json", Mode.SERVE)
