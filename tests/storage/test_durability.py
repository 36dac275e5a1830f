"""Processes that are killed, processes that write together, disks that fill up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import sleep

import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import JobId, JobStatus, ResultId
from async_delivery.engine.retention import cleanup_retention
from async_delivery.storage.contract import JobFilter, Store
from async_delivery.storage.opening import Mode, open_store
from tests.contract.support import ALPHA, House
from tests.storage.processes import WRITE_FOREVER, acknowledged, ended, started, until
from tests.storage.support import new_store_file


def opened(folder: Path, mode: Mode = Mode.SERVE) -> Store:
    return open_store(folder / "store.v1.json", mode)


def nothing_lost(store: Store, folder: Path, prefix: str) -> int:
    """Every acknowledged job is there with its state and its result; how many there were."""
    promised = acknowledged(folder, prefix)
    for job_id, (state, *result) in promised.items():
        job = store.read(lambda reader, job_id=job_id: reader.find_job(ALPHA, JobId(job_id)))  # type: ignore[misc]
        assert job is not None, f"{job_id} was acknowledged and is lost"
        assert str(job.status) == state
        if result:
            result_id = ResultId(result[0])
            assert store.read(lambda reader, result_id=result_id: reader.find_body(ALPHA, result_id))  # type: ignore[misc]
    return len(promised)


@pytest.mark.slow
def test_a_process_killed_at_any_moment_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    chance = random.Random(20260301)
    for number in range(6):
        prefix = f"round{number}"
        process = started(WRITE_FOREVER, tmp_path, prefix, Mode.SERVE.value, 10**9)
        until(lambda prefix=prefix: len(acknowledged(tmp_path, prefix)) > 10)  # type: ignore[misc]
        sleep(chance.uniform(0, 0.2))

        process.kill()
        process.communicate(timeout=60)

        store = opened(tmp_path)
        assert nothing_lost(store, tmp_path, prefix) > 10
        assert store.read(lambda reader: reader.violations(10)) == []
        store.close()


@pytest.mark.slow
def test_two_processes_write_together_and_lose_nothing(tmp_path: Path) -> None:
    new_store_file(tmp_path)

    one = started(WRITE_FOREVER, tmp_path, "server", Mode.SERVE.value, 60)
    two = started(WRITE_FOREVER, tmp_path, "tool", Mode.TOOL.value, 60)

    assert (ended(one).strip(), ended(two).strip()) == ("60", "60")
    store = opened(tmp_path, Mode.READ_ONLY)
    assert nothing_lost(store, tmp_path, "server") == 360
    assert nothing_lost(store, tmp_path, "tool") == 360
    assert store.read(lambda reader: reader.violations(10)) == []
    store.close()


@pytest.mark.slow
def test_a_process_killed_while_another_writes_disturbs_it_not(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    server = started(WRITE_FOREVER, tmp_path, "server", Mode.SERVE.value, 150)

    for number in range(3):
        prefix = f"tool{number}"
        tool = started(WRITE_FOREVER, tmp_path, prefix, Mode.TOOL.value, 10**9)
        until(lambda prefix=prefix: len(acknowledged(tmp_path, prefix)) > 5)  # type: ignore[misc]
        tool.kill()
        tool.communicate(timeout=60)

    assert ended(server).strip() == "150"
    store = opened(tmp_path)
    assert nothing_lost(store, tmp_path, "server") == 900
    for number in range(3):
        assert nothing_lost(store, tmp_path, f"tool{number}") > 5
    assert store.read(lambda reader: reader.violations(10)) == []
    store.close()


def test_a_killed_server_leaves_its_place_at_once(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    process = started(WRITE_FOREVER, tmp_path, "first", Mode.SERVE.value, 10**9)
    until(lambda: len(acknowledged(tmp_path, "first")) > 0)

    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)

    store = opened(tmp_path)
    assert store.write(lambda _: 1) == 1
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (1 << 20))
    new_store_file(small_disk)
    house = House(opened(small_disk))
    kept, refused, said = [], 0, ""

    while refused < 5:
        try:
            kept.append(house.completed(payload="x" * 20_000))
        except UnavailableError as exc:
            refused += 1
            said = exc.message
        assert len(kept) < 1000
    assert f"free some space on the file system {small_disk}, then try again" in said
    assert [house.stored(job) for job in kept] == kept

    ballast.unlink()
    later = house.completed(payload="y" * 20_000)

    assert house.stored(later) == later
    assert house.violations() == []
    house.store.close()
    again = House(opened(small_disk))
    assert [again.stored(job) for job in [*kept, later]] == [*kept, later]
    again.store.close()


def test_a_cleanup_on_a_full_disk_says_in_its_report_what_helps(small_disk: Path) -> None:
    new_store_file(small_disk)
    house = House(opened(small_disk))
    for _ in range(5):
        house.completed(payload="x" * 20_000)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)

    report = cleanup_retention(
        house.store, results_ttl_seconds=0, events_ttl_seconds=0, now=house.now + timedelta(days=1)
    )

    assert report.results.delete_count == 0
    assert f"free some space on the file system {small_disk}, then try again" in report.errors[0]
    (small_disk / "ballast").unlink()
    assert not cleanup_retention(
        house.store, results_ttl_seconds=0, events_ttl_seconds=0, now=house.now + timedelta(days=1)
    ).errors
    house.store.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from async_delivery.domain.errors import UnavailableError
from async_delivery.storage.opening import Mode, open_store
from tests.contract.support import House

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
house = House(open_store(Path(sys.argv[1]) / "store.v1.json", Mode.SERVE))
kept, refused = [], 0
while refused < 3:
    try:
        kept.append(house.completed(payload="x" * 20_000))
    except UnavailableError:
        refused += 1
assert [house.stored(job) for job in kept] == kept
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
kept.append(house.completed())
assert house.violations() == []
house.store.close()
print(len(kept))
"""


def test_a_file_that_may_not_grow_refuses_writes_and_recovers(tmp_path: Path) -> None:
    new_store_file(tmp_path)

    kept = int(ended(started(LIMITED, tmp_path)))

    store = opened(tmp_path)
    done = store.read(
        lambda reader: reader.list_jobs(ALPHA, JobFilter(statuses=(JobStatus.COMPLETED,)), 1000, None)
    )
    assert len(done) == kept > 1
    assert store.read(lambda reader: reader.violations(10)) == []
    store.close()
