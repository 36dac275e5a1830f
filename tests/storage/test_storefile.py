from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from async_delivery.domain.errors import StoreBusyError, StoreFileError, UnavailableError
from async_delivery.storage.opening import Mode, create_store, ensure_store, open_store, read_store_file
from tests.contract.support import House
from tests.domain.support import NOON
from tests.storage.support import break_by_hand, new_store_file, sqlite_store

GOOD = {
    "kind": "async-delivery-store",
    "schema_version": 1,
    "store_id": "store-1",
    "database": "sqlite:store.v1.sqlite3",
    "created_at": "2026-03-01T12:00:00.000Z",
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ensured(path: Path, url: str | None = None, store_id: str = "fresh") -> str:
    return ensure_store(path, url, store_id=store_id, now=NOON).store_id


# ---------------------------------------------------------------- making one
def test_a_new_store_file_says_what_the_contract_says(tmp_path: Path) -> None:
    path = tmp_path / "runtime" / "async_jobs" / "store.v1.json"

    made = create_store(path, store_id="store-1", now=NOON)

    assert json.loads(path.read_text()) == GOOD
    assert read_store_file(path) == made
    assert names(path.parent) == {"store.v1.json", "store.v1.sqlite3"}


def test_a_store_is_opened_written_closed_and_opened_again(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    job = house.completed()
    house.store.close()

    again = open_store(tmp_path / "store.v1.json", Mode.SERVE)
    try:
        assert House(again).stored(job) == job
    finally:
        again.close()
    # The log is worked in and gone when the last one leaves.
    assert "store.v1.sqlite3-wal" not in names(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:data/my.db",
        "sqlite:///data/my.db",
        "sqlite:{folder}/data/my.db",
        "sqlite:///{folder}/data/my.db",
    ],
)
def test_the_database_may_lie_elsewhere(tmp_path: Path, url: str) -> None:
    path = tmp_path / "store.v1.json"

    made = create_store(path, url.format(folder=tmp_path), store_id="store-1", now=NOON)

    assert made.database_path.resolve() == tmp_path / "data" / "my.db"
    open_store(path, Mode.SERVE).close()


def test_relative_paths_are_relative_to_the_store_file_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    create_store(Path("house/store.v1.json"), store_id="store-1", now=NOON)

    monkeypatch.chdir(tmp_path / "elsewhere")

    open_store(Path("../house/store.v1.json"), Mode.SERVE).close()
    assert names(tmp_path / "elsewhere") == set()


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    path = tmp_path / "ä ö?#%25&mode=ro" / "store 🌱.json"

    create_store(path, store_id="store-1", now=NOON)

    open_store(path, Mode.SERVE).close()
    assert names(path.parent) == {"store 🌱.json", "store.v1.sqlite3", "store.v1.sqlite3.lock"}


def test_ensure_store_makes_one_and_then_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "store.v1.json"

    assert ensured(path, store_id="first") == "first"
    assert ensured(path, store_id="second") == "first"
    assert ensured(path, "sqlite:store.v1.sqlite3", store_id="third") == "first"
    assert ensured(path, f"sqlite:{tmp_path}/store.v1.sqlite3", store_id="third") == "first"


def test_another_url_than_the_store_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.v1.json"
    ensured(path)

    with pytest.raises(StoreFileError, match="--store-url"):
        ensured(path, "sqlite:other.sqlite3")
    assert "other.sqlite3" not in names(tmp_path)


def test_a_database_of_ours_is_taken_over_with_its_id(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    (tmp_path / "store.v1.json").unlink()

    assert ensured(tmp_path / "store.v1.json", store_id="not used") == "store-1"
    open_store(tmp_path / "store.v1.json", Mode.SERVE).close()


PLACED: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("precious"),
    "folder": Path.mkdir,
    "link to nothing": lambda path: path.symlink_to("nowhere.json"),
    "link to itself": lambda path: path.symlink_to(path),
    "empty": Path.touch,
}


@pytest.mark.parametrize("what", sorted(PLACED))
def test_nothing_is_ever_created_over_an_existing_path(tmp_path: Path, what: str) -> None:
    path = tmp_path / "store.v1.json"
    PLACED[what](path)
    before = names(tmp_path)

    with pytest.raises(StoreFileError):
        create_store(path, store_id="fresh", now=NOON)
    with pytest.raises(StoreFileError):
        ensured(path)

    assert names(tmp_path) == before
    if what == "file":
        assert path.read_text() == "precious"


def test_a_foreign_file_in_the_databases_place_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "store.v1.sqlite3").write_bytes(b"not a database, but somebody's")

    with pytest.raises(StoreFileError):
        ensured(tmp_path / "store.v1.json")

    assert names(tmp_path) == {"store.v1.sqlite3"}
    assert (tmp_path / "store.v1.sqlite3").read_bytes() == b"not a database, but somebody's"


# ---------------------------------------------------------------- what is refused
def _document(version: int, filler: int = 0) -> str:
    jobs = {f"job-{number}": {"status": "queued"} for number in range(filler)}
    return json.dumps(
        {"schema_version": version, "jobs": jobs, "results": {}, "events": {}, "notifications": {}}
    )


def _with(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "empty"),
    "white": (" \n\t", "empty"),
    "truncated": (json.dumps(GOOD)[:40], "damaged or truncated"),
    "no json": ("store: yes", "damaged or truncated"),
    "binary": ("\x00\x01\x02", "damaged or truncated"),
    "a list": ("[]", "not a store file"),
    "a number": ("1", "not a store file"),
    "too deep": ("[" * 100_000, "not a store file|damaged"),
    "foreign": (json.dumps({"name": "package", "version": "1.0"}), "not a store file"),
    "foreign kind": (_with(kind="other-store"), "other-store"),
    "newer": (_with(schema_version=2), "newer version.*upgrade"),
    "much newer": (_with(schema_version=10**30), "newer version"),
    "no version": (_with(schema_version=None), "damaged"),
    "version as text": (_with(schema_version="1"), "damaged"),
    "true for a version": (_with(schema_version=True), "damaged"),
    "no id": (_with(store_id=""), "store_id"),
    "an id that is a number": (_with(store_id=5), "store_id"),
    "no database": (_with(database=None), "database"),
    "no instant": (_with(created_at="yesterday"), "created_at"),
    "unknown database": (_with(database="mysql://host/db"), "mysql.*not known"),
    "a plain path": (_with(database="store.v1.sqlite3"), "not known"),
    "no file": (_with(database="sqlite:"), "names no file"),
    "memory": (_with(database="sqlite::memory:"), "names no file"),
    "a password": (_with(database="postgresql://me:secret@db/jobs"), "PGPASSFILE"),
    "a password behind": (_with(database="postgresql://db/jobs?password=secret"), "PGPASSFILE"),
    "older form 1": (_document(1), "older form.*store convert"),
    "older form 5": (_document(5), "older form.*store convert"),
    "older form, large": (_document(3, filler=5000), "older form.*store convert"),
    "older form, newer": (_document(9), "older form.*newer version.*upgrade"),
    "large": ('{"x": "' + "y" * 100_000 + '"}', "larger than"),
    "missing database": (_with(), "missing.*No new one is made"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_a_store_file_that_is_not_right_is_refused_in_words(tmp_path: Path, what: str) -> None:
    content, words = REFUSED[what]
    path = tmp_path / "store.v1.json"
    path.write_text(content)

    for mode in Mode:
        with pytest.raises(StoreFileError, match=f"(?s){words}") as caught:
            open_store(path, mode)
        assert "secret" not in str(caught.value)
        assert caught.value.code == "store_unusable"
    assert path.read_text() == content
    assert names(tmp_path) == {"store.v1.json"}


def test_a_store_file_that_is_not_there_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StoreFileError, match="store init"):
        open_store(tmp_path / "store.v1.json", Mode.SERVE)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "store.v1.json"
    make(path)

    with pytest.raises(StoreFileError):
        read_store_file(path)


def test_a_path_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreFileError):
        ensured(tmp_path / "file" / "store.v1.json")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@db/jobs",
        "postgres://me:secret@db/jobs",
        "postgresql://db/jobs?password=secret",
    ],
)
def test_a_password_in_a_url_is_refused_and_never_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreFileError, match="PGPASSFILE") as caught:
        ensured(tmp_path / "store.v1.json", url)
    assert "secret" not in str(caught.value)
    assert names(tmp_path) == set()


# ---------------------------------------------------------------- databases that are refused
def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (id)")
    connection.close()


def _newer_schema(path: Path) -> None:
    break_by_hand(path.parent, "UPDATE alembic_version SET version_num = '9999'")


def _newer_file(path: Path) -> None:
    break_by_hand(path.parent, "PRAGMA user_version = 99")


def _other_store(path: Path) -> None:
    break_by_hand(path.parent, "UPDATE meta SET value = 'another' WHERE name = 'store_id'")


def _no_id(path: Path) -> None:
    break_by_hand(path.parent, "DELETE FROM meta")


DATABASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "missing.*No new one is made"),
    "empty": (lambda path: path.write_bytes(b""), "not a database of this program"),
    "text": (lambda path: path.write_text("hello " * 1000), "cannot be used"),
    "cut": (lambda path: os.truncate(path, 10_000), "cannot be used|malformed"),
    "folder": (_folder, "not a file"),
    "foreign": (_foreign, "not a database of this program"),
    "newer schema": (_newer_schema, "newer version.*upgrade"),
    "newer file": (_newer_file, "newer version.*upgrade"),
    "another store": (_other_store, "belongs to store store-1, but.*another"),
    "without its id": (_no_id, "damaged"),
}


@pytest.mark.parametrize("what", sorted(DATABASES))
def test_a_database_that_is_not_right_is_refused_in_words(tmp_path: Path, what: str) -> None:
    file = new_store_file(tmp_path)
    change, words = DATABASES[what]
    change(file.database_path)
    before = names(tmp_path)

    for mode in Mode:
        with pytest.raises(StoreFileError, match=f"(?s){words}"):
            open_store(file.path, mode)

    assert {name for name in names(tmp_path) if not name.endswith(("-wal", "-shm"))} == before - {
        "store.v1.sqlite3-wal",
        "store.v1.sqlite3-shm",
    }


# ---------------------------------------------------------------- who else has it
def test_a_second_server_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    first = sqlite_store(tmp_path)
    try:
        with pytest.raises(StoreBusyError, match=rf"process {os.getpid()} on {socket.gethostname()}"):
            open_store(tmp_path / "store.v1.json", Mode.SERVE)
    finally:
        first.close()
    open_store(tmp_path / "store.v1.json", Mode.SERVE).close()


def test_tools_and_readers_work_beside_a_server(tmp_path: Path) -> None:
    server = House(sqlite_store(tmp_path))
    job = server.submit()
    tool = open_store(tmp_path / "store.v1.json", Mode.TOOL)
    reader = open_store(tmp_path / "store.v1.json", Mode.READ_ONLY)

    tool.write(lambda tx: tx.set_hold(job.org_id, job.job_id, True))

    assert server.stored(job).held
    assert House(reader).stored(job).held
    for store in (tool, reader, server.store):
        store.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    store = open_store(tmp_path / "store.v1.json", Mode.READ_ONLY)

    with pytest.raises(UnavailableError, match="reading only"):
        store.write(lambda _: None)
    store.close()
