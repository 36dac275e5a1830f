"""Whether anybody has committed, told without a statement: what was remembered under a version still holds under it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.storage import sqlite_index, standing
from async_delivery.storage.contract import Store
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import open_store
from async_delivery.storage.sqlite_files import connect, resting_state, size_of
from tests.contract.support import ALPHA, House
from tests.storage.processes import WRITE_FOREVER, ended, started, until
from tests.storage.support import by_hand, database_of, sqlite_store

SUBMIT_ONE = """
import sys
from pathlib import Path
from async_delivery.storage.opening import Mode, open_store
from tests.contract.support import House

store = open_store(Path(sys.argv[1]) / "store.v1.json", Mode.TOOL)
house = House(store)
house.new_id = lambda ids=house.new_id: f"other-{ids()}"
print(house.submit().job_id)
store.close()
"""
# Another process, as closing the file in this one would drop SQLite's locks on it.
TEAR_FIRST_COPY = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(file, bytes(16), 0)
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    store = sqlite_store(tmp_path)
    yield House(store)
    store.close()


def version_of(store: Store) -> bytes:
    version = store.version()
    assert version is not None
    return version


def jobs_in(folder: Path) -> int:
    """As a connection of its own sees it, opened for this."""
    with closing(connect(database_of(folder), "ro")) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


def has_written(acknowledged: Path) -> bool:
    return size_of(acknowledged) > 400


def count(house: House) -> int:
    return house.store.read(lambda reader: reader.count_queued(ALPHA, 1_000_000))


def test_it_stays_the_same_until_something_is_committed(house: House) -> None:
    house.submit()
    before = version_of(house.store)

    for _ in range(3):
        count(house)
        assert house.store.version() == before

    house.submit()
    assert house.store.version() not in (before, None)


def test_what_is_rolled_back_leaves_it(house: House) -> None:
    house.submit()
    before = version_of(house.store)

    def fail(tx: object) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        house.store.write(fail)

    assert house.store.version() == before


def test_a_commit_of_another_process_is_seen_at_once(house: House, tmp_path: Path) -> None:
    house.submit()
    before = version_of(house.store)

    job_id = ended(started(SUBMIT_ONE, tmp_path)).strip()

    assert house.store.version() != before
    assert house.store.read(lambda reader: reader.find_job(ALPHA, job_id)) is not None  # type: ignore[arg-type]


def test_it_is_not_told_while_the_log_is_empty(house: House, tmp_path: Path) -> None:
    assert house.store.version() is None

    house.submit()
    full = version_of(house.store)
    with by_hand(tmp_path) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert house.store.version() is None

    house.submit()
    assert version_of(house.store) != full


def test_a_checkpoint_that_changes_nothing_leaves_it(house: House, tmp_path: Path) -> None:
    house.submit()
    before = version_of(house.store)

    with by_hand(tmp_path) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    assert house.store.version() == before


def test_what_is_remembered_under_a_version_is_what_the_database_says_whenever_it_comes_again(
    house: House, tmp_path: Path
) -> None:
    # Given everything that moves the log: commits of two connections, rollbacks, checkpoints of all kinds.
    chance = random.Random(20261124)
    remembered: dict[bytes, int] = {}
    known = 0
    with by_hand(tmp_path) as connection:
        connection.execute("CREATE TABLE told (n INTEGER)")
    outside = sqlite3.connect(database_of(tmp_path), isolation_level=None)

    def commit() -> None:
        with by_hand(tmp_path) as connection:
            connection.execute("INSERT INTO told VALUES (1)")

    def take_back() -> None:
        with by_hand(tmp_path) as connection:
            connection.execute("BEGIN")
            connection.execute("INSERT INTO told VALUES (1)")
            connection.execute("ROLLBACK")

    def undo() -> None:
        with by_hand(tmp_path) as connection:
            connection.execute("DELETE FROM told WHERE rowid = (SELECT max(rowid) FROM told)")

    def checkpoint() -> None:
        with by_hand(tmp_path) as connection:
            connection.execute(
                f"PRAGMA wal_checkpoint({chance.choice(['PASSIVE', 'RESTART', 'TRUNCATE'])})"
            ).fetchone()

    def said() -> int:
        return int(outside.execute("SELECT count(*) FROM told").fetchone()[0])

    with closing(outside):
        acts: list[Callable[[], object]] = [commit, take_back, undo, checkpoint, house.submit, said, said]
        for _ in range(400):
            chance.choice(acts)()
            version = house.store.version()
            if version is not None:
                known += version in remembered
                # Then what was remembered is what the database says, however many other versions came between.
                assert remembered.setdefault(version, said()) == said()
    assert known > 50


def test_a_commit_cut_off_by_a_kill_is_either_seen_or_not_there(house: House, tmp_path: Path) -> None:
    for number in range(4):
        writer = started(WRITE_FOREVER, tmp_path, f"w{number}", Mode.TOOL.value, 1_000_000)
        try:
            until(partial(has_written, tmp_path / f"acknowledged-w{number}"))
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate(timeout=60)

        count(house)
        version, jobs = house.store.version(), jobs_in(tmp_path)
        assert (house.store.version(), jobs_in(tmp_path)) == (version, jobs)
        house.submit()
        assert (version_of(house.store) != version, jobs_in(tmp_path)) == (True, jobs + 1)


def test_a_header_that_was_left_half_written_is_not_taken_for_one(house: House, tmp_path: Path) -> None:
    house.submit()
    before = version_of(house.store)

    # When its first copy is not what the second is, as a writer that was killed between the two leaves it
    ended(started(TEAR_FIRST_COPY, f"{database_of(tmp_path)}-shm"))

    # Then it is not believed, and what SQLite makes of it is a version again.
    assert house.store.version() is None
    assert count(house) == 1
    house.submit()
    assert version_of(house.store) != before


def test_a_replaced_database_is_refused_as_by_any_other_read(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.submit()
    version_of(house.store)
    monkeypatch.setattr(standing, "_READERS_LOOK_SECONDS", 0.0)

    copy = tmp_path / "copy"
    copy.write_bytes(database_of(tmp_path).read_bytes())
    copy.replace(database_of(tmp_path))

    with pytest.raises(UnavailableError):
        house.store.version()


def test_it_follows_the_log_that_is_open_when_the_index_is_removed(house: House, tmp_path: Path) -> None:
    house.submit()
    before = version_of(house.store)

    Path(f"{database_of(tmp_path)}-shm").unlink()

    assert house.store.version() == before
    house.submit()
    assert house.store.version() != before


def test_where_the_index_cannot_be_found_there_is_none(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    house.submit()
    monkeypatch.setattr(sqlite_index, "_OPEN_FILES", str(tmp_path / "missing"))

    assert house.store.version() is None
    assert count(house) == 1


def test_a_file_at_rest_has_none(tmp_path: Path) -> None:
    sqlite_store(tmp_path).close()
    assert resting_state(database_of(tmp_path)) is not None

    with closing(open_store(tmp_path / "store.v1.json", Mode.READ_ONLY)) as store:
        assert store.version() is None
    assert not Path(f"{database_of(tmp_path)}-shm").exists()


def test_inside_a_read_there_is_none(house: House) -> None:
    house.submit()

    assert house.store.read(lambda reader: house.store.version()) is None


def test_looking_takes_no_lock_of_sqlites_away(house: House, tmp_path: Path) -> None:
    house.submit()
    version_of(house.store)
    index = os.stat(f"{database_of(tmp_path)}-shm").st_ino

    def held() -> list[str]:
        lines = Path("/proc/locks").read_text().splitlines()
        return [
            line.split(maxsplit=1)[1] for line in lines if f":{index} " in line and str(os.getpid()) in line
        ]

    before = held()
    assert before

    # When threads look, and end, and with each of them its connection and its look
    for _ in range(3):
        thread = threading.Thread(target=lambda: (count(house), house.store.version()))
        thread.start()
        thread.join()

    assert held() == before


def test_a_look_at_a_store_that_is_closed_meanwhile_says_nothing(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    house.submit()
    version_of(house.store)
    stop, seen = threading.Event(), list[bytes | None]()

    def look() -> None:
        while not stop.is_set():
            seen.append(house.store.version())

    thread = threading.Thread(target=look)
    thread.start()
    until(lambda: len(seen) > 100)
    house.store.close()
    until(lambda: seen[-1] is None)
    stop.set()
    thread.join()

    assert house.store.version() is None
