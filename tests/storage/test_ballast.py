"""The reserve on the disk: what it is for, when it is let go, and when it is taken back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from async_delivery.domain.errors import NoRoomError
from async_delivery.engine.retention import cleanup_retention
from async_delivery.storage.ballast import ballast_path
from async_delivery.storage.opening import Mode, open_store
from async_delivery.storage.sqlite import SqliteStore
from tests.contract.support import ALPHA, House
from tests.storage.support import database_of, new_store_file

KIB, MIB = 1 << 10, 1 << 20
DISK_BYTES = 16 * MIB
# A sixteenth of the disk.
RESERVE_BYTES = MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def sqlite(folder: Path, mode: Mode = Mode.SERVE) -> SqliteStore:
    store = open_store(folder / "store.v1.json", mode)
    assert isinstance(store, SqliteStore)
    return store


@pytest.fixture
def store(disk: Path) -> Iterator[SqliteStore]:
    new_store_file(disk)
    with closing(sqlite(disk)) as made:
        made.keep_reserve(64 * MIB)
        yield made


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Take all room but ``leave`` bytes."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        file.write(b"x" * max(0, free(folder) - leave))
    return filler


def test_a_server_keeps_what_was_asked_for_or_a_share_of_a_small_disk(store: SqliteStore, disk: Path) -> None:
    found = ballast_path(database_of(disk)).stat()

    assert store.reserve().held_bytes == RESERVE_BYTES
    assert found.st_size == RESERVE_BYTES
    assert found.st_blocks * 512 == RESERVE_BYTES, "it must not be sparse"
    assert found.st_mode & 0o777 == 0o600


def test_a_full_disk_refuses_new_jobs_and_finishes_those_that_run(store: SqliteStore, disk: Path) -> None:
    house = House(store)
    running, queued = house.running(), house.submit()
    fill(disk)

    with pytest.raises(NoRoomError, match=r"0\.25 MiB are free"):
        house.submit()
    with pytest.raises(NoRoomError):
        house.store.write(lambda tx: tx.add_input_chunk(ALPHA, "input-1", 0, b"x", house.now))

    assert house.complete(running, {"x": "y" * 400_000}).status == "completed"
    assert house.cancel(queued).status == "canceled"
    assert not store.reserve().is_whole
    assert house.violations() == []


def test_what_fills_the_disk_gets_nothing_of_the_reserve_from_jobs_that_are_refused(
    store: SqliteStore, disk: Path
) -> None:
    house = House(store)
    running = house.running()
    for _ in range(5):
        fill(disk)
        with pytest.raises(NoRoomError):
            house.submit()
    assert store.reserve().is_whole
    assert free(disk) == 0

    # Nor from many small steps of jobs that run: what is in the log already makes room for them.
    for progress in range(1, 60):
        fill(disk)
        running = house.progress(running, progress)
    assert store.reserve().held_bytes > 0
    assert house.complete(running, {"x": "y"}).status == "completed"


def let_go(house: House, disk: Path) -> Path:
    """Have a job need the reserve on a full disk; what fills that."""
    running = house.running()
    filler = fill(disk)
    house.complete(running, {"x": "y" * 400_000})
    return filler


def test_the_first_job_after_there_is_room_again_is_taken_and_the_reserve_is_back(
    store: SqliteStore, disk: Path
) -> None:
    house = House(store)
    filler = let_go(house, disk)
    with pytest.raises(NoRoomError):
        house.submit()

    filler.unlink()
    job = house.submit()

    assert house.stored(job) == job
    assert store.reserve().is_whole


def old(house: House, count: int) -> None:
    for _ in range(count):
        house.completed(payload={"x": "y" * 20_000})


@pytest.mark.parametrize("served", [True, False], ids=["by the server", "by another process"])
def test_a_cleanup_works_on_a_full_disk(store: SqliteStore, disk: Path, served: bool) -> None:
    house = House(store)
    old(house, 60)
    later = house.now + timedelta(days=30)
    fill(disk)
    assert free(disk) < 64 * KIB
    opened = store
    if not served:
        store.close()
        opened = sqlite(disk, Mode.TOOL)

    report = cleanup_retention(opened, results_ttl_seconds=0, events_ttl_seconds=0, now=later)

    assert report.errors == ()
    assert report.results.delete_count == 60
    opened.close()
    with closing(sqlite(disk)) as again:
        again.keep_reserve(64 * MIB)
        assert again.read(lambda reader: reader.violations(5)) == []
        # The disk is as full as before; the room is inside the database, and jobs may have that.
        house.store = again
        job = house.submit()
        assert house.stored(job) == job


def test_without_a_reserve_a_full_disk_is_told_of_by_the_database_alone(disk: Path) -> None:
    new_store_file(disk)
    with closing(sqlite(disk)) as store:
        store.keep_reserve(64 * MIB)
        store.keep_reserve(0)
        assert not ballast_path(database_of(disk)).exists()
        house = House(store)
        house.submit()
        fill(disk)

        def many() -> None:
            for _ in range(500):
                house.submit()

        with pytest.raises(NoRoomError, match="free some space"):
            many()


def test_a_smaller_reserve_gives_the_rest_back(store: SqliteStore, disk: Path) -> None:
    store.keep_reserve(256 * KIB)

    assert store.reserve().held_bytes == ballast_path(database_of(disk)).stat().st_size == 256 * KIB


def test_a_reserve_is_not_taken_back_while_it_would_be_needed_at_once(store: SqliteStore, disk: Path) -> None:
    house = House(store)
    filler = let_go(house, disk)
    left = store.reserve().held_bytes
    with pytest.raises(NoRoomError):
        house.submit()

    # More than the reserve, less than the reserve and some air.
    os.truncate(filler, filler.stat().st_size - (RESERVE_BYTES - free(disk)) - 128 * KIB)
    with pytest.raises(NoRoomError):
        house.submit()

    assert store.reserve().held_bytes <= left < RESERVE_BYTES


def test_a_name_that_is_no_file_of_ours_stands_in_nobodys_way(disk: Path) -> None:
    new_store_file(disk)
    ballast_path(database_of(disk)).symlink_to(disk / "elsewhere")

    with closing(sqlite(disk)) as store:
        store.keep_reserve(64 * MIB)
        House(store).submit()

    assert not (disk / "elsewhere").exists()
