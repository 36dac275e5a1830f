from __future__ import annotations

import os
import threading
from pathlib import Path
from time import monotonic

import pytest

from async_delivery.domain.errors import StoreBusyError, StoreFileError, UnavailableError
from async_delivery.storage.locks import CleanupLock, LockFile
from tests.storage.processes import ended, started, until

HOLD = """
import sys, time
from pathlib import Path
from async_delivery.storage.locks import CleanupLock, LockFile

path, what = Path(sys.argv[1]), sys.argv[2]
lock = LockFile(path)
if what == "writer":
    lock.take_writer(10)
if what == "server":
    lock.take_server(path)
if what == "cleanup":
    CleanupLock(path).__enter__()
path.with_name("held").touch()
time.sleep(600)
"""

# Takes the right to write again and again and never rests, as a busy server does.
BUSY = """
import sys, time
from pathlib import Path
from async_delivery.storage.locks import LockFile

path = Path(sys.argv[1])
lock = LockFile(path)
turns = 0
while not path.with_name("stop").exists():
    lock.take_writer(30)
    until = time.monotonic() + 0.005
    while time.monotonic() < until:
        pass
    lock.release_writer()
    turns += 1
    if turns == 3:
        path.with_name("busy").touch()
print(turns)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.lock"


def test_the_right_to_write_is_one_at_a_time_within_a_process(path: Path) -> None:
    one, two = LockFile(path), LockFile(path)
    one.take_writer(1)

    with pytest.raises(UnavailableError):
        two.take_writer(0.05)
    one.release_writer()
    two.take_writer(1)

    one.close()
    two.close()


def test_who_waits_gets_the_right_when_it_is_free(path: Path) -> None:
    one, two = LockFile(path), LockFile(path)
    one.take_writer(1)
    got = threading.Event()

    def wait() -> None:
        two.take_writer(30)
        got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not got.wait(0.02)
    one.release_writer()

    assert got.wait(30)
    waiting.join(30)
    one.close()
    two.close()


def test_one_that_gives_up_waiting_does_not_stand_in_the_way(path: Path) -> None:
    one, two, three = LockFile(path), LockFile(path), LockFile(path)
    one.take_writer(1)
    with pytest.raises(UnavailableError):
        two.take_writer(0.01)
    one.release_writer()

    three.take_writer(1)

    for lock in (one, two, three):
        lock.close()


@pytest.mark.parametrize("what", ["writer", "server", "cleanup"])
def test_what_a_killed_process_held_is_free_at_once(path: Path, what: str) -> None:
    process = started(HOLD, path, what)
    until(path.with_name("held").exists)
    lock = LockFile(path)

    def take() -> None:
        if what == "writer":
            lock.take_writer(0.01)
        elif what == "server":
            lock.take_server(path)
        else:
            with CleanupLock(path):
                pass

    with pytest.raises((UnavailableError, StoreBusyError)) as caught:
        take()
    process.kill()
    process.communicate(timeout=60)

    take()
    lock.close()
    if what == "server":
        assert f"process {process.pid}" in str(caught.value)


@pytest.mark.slow
def test_a_busy_writer_of_another_process_does_not_starve_this_one(path: Path) -> None:
    process = started(BUSY, path)
    until(path.with_name("busy").exists)
    lock = LockFile(path)
    waits = []
    for _ in range(50):
        began = monotonic()
        lock.take_writer(30)
        waits.append(monotonic() - began)
        work(0.005)
        lock.release_writer()
    path.with_name("stop").touch()
    turns = int(ended(process))
    lock.close()

    # A turn of the other takes 5 ms; a fair share of waiting is one or two of them, and it gets turns of its own.
    assert sorted(waits)[25] < 0.05
    assert turns >= 5


def work(seconds: float) -> None:
    done = monotonic() + seconds
    while monotonic() < done:
        pass


def test_a_server_lock_names_no_process_that_is_gone(path: Path) -> None:
    path.write_bytes(b'{"pid": "nonsense')
    first, second = LockFile(path), LockFile(path)
    first.take_server(path)
    path.write_bytes(b"\xff nonsense")

    with pytest.raises(StoreBusyError, match="another process"):
        second.take_server(path)

    first.close()
    second.close()


def test_a_lock_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreFileError, match="lock file"):
        LockFile(tmp_path / "no" / "folder.lock")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreFileError, match="lock file"):
        LockFile(tmp_path / "folder")


def test_what_is_no_file_in_place_of_the_lock_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.lock")

    with pytest.raises(StoreFileError, match=r"pipe\.lock: .*not a file"):
        LockFile(tmp_path / "pipe.lock")
