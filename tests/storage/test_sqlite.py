"""Settings, plans and limits of the SQLite store itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Delete, Insert, Select, Update
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import JobId
from async_delivery.storage import checks, counts, retention, retention_jobs, writer
from async_delivery.storage import sqlite as sqlite_store_module
from async_delivery.storage import statements as sql
from async_delivery.storage.contract import Transaction
from async_delivery.storage.dialects import POSTGRESQL, SQLITE, compile_text
from async_delivery.storage.locks import LockFile
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import open_store
from async_delivery.storage.sqlite import SqliteStore
from async_delivery.storage.sqlite_files import connect_reader, connect_writer, lock_path
from async_delivery.storage.tables import jobs
from tests.contract.support import ALPHA, BETA, House, saving
from tests.domain.support import NOON
from tests.storage.support import database_of, sqlite_store


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    store = sqlite_store(tmp_path)
    yield House(store)
    store.close()


def test_functions_of_one_thread_run_in_order(house: House) -> None:
    order: list[int] = []

    def remembering(number: int) -> Callable[[Transaction], None]:
        return lambda _: order.append(number)

    futures = [house.store.write_soon(remembering(number)) for number in range(500)]
    for future in futures:
        future.result(timeout=30)

    assert order == list(range(500))


def test_a_cancelled_future_is_never_run(house: House) -> None:
    gate = threading.Event()
    ran: list[int] = []
    blocker = house.store.write_soon(lambda _: gate.wait(30))
    future = house.store.write_soon(lambda _: ran.append(1))

    cancelled = future.cancel()
    gate.set()
    blocker.result(timeout=30)
    house.store.write(lambda _: None)

    assert cancelled
    assert ran == []


def every_statement() -> dict[str, ClauseElement]:
    found: dict[str, ClauseElement] = {}
    for module in (sql, retention, retention_jobs, checks):
        for name, value in vars(module).items():
            if isinstance(value, Select | Insert | Update | Delete) and not name.startswith("_"):
                found[f"{module.__name__.rpartition('.')[2]}.{name}"] = value
    found.update({f"checks.{number}": check.wrong for number, check in enumerate(checks.CHECKS)})
    found.update({f"info.{name}": statement for name, statement in counts.COUNTS.items()})
    found["move_job"] = sql.move_job(("event_seq", "status", "place"))
    found["enter_job"] = sql.enter_job(("job_id", "org_id"))
    found["report_job"] = sql.move_job(("event_seq", "stage"))
    found["list_jobs"] = sql.list_jobs(
        2, 2, analysis=True, after=True, before=True, page=True, completed=False
    )
    return found


STATEMENTS = every_statement()


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_every_statement_has_its_text_in_both_dialects(house: House, tmp_path: Path, name: str) -> None:
    statement = STATEMENTS[name]

    here, there = compile_text(statement, SQLITE), compile_text(statement, POSTGRESQL)

    assert "%(" not in here
    assert ":the_" not in there
    with closing(connect_reader(database_of(tmp_path))) as connection:
        connection.execute(f"EXPLAIN {here}", Anything())


class Anything(dict[str, Any]):
    """A value for every parameter."""

    def __missing__(self, key: str) -> Any:
        return "[]" if key in {"the_job_ids", "the_keys"} else 1


PLANS = {
    # With the tenant first: the time of a look-up must not tell an unknown id from another tenant's.
    "FIND_JOB": ("jobs_by_tenant (org_id=? AND job_id=?)",),
    "COUNT_QUEUED": ("jobs_queued_by_tenant",),
    "LOWEST_PLACE": ("jobs_in_line",),
    "LAST_PLACE_OF_TENANT": ("jobs_queued_by_tenant",),
    "LIST_FRONT": ("jobs_in_line",),
    "LOOK_AHEAD": ("jobs_in_line", "jobs_next_of_tenant", "jobs_delayed"),
    "FIRST_TENANT": ("jobs_queued_by_tenant",),
    "NEXT_TENANT": ("jobs_queued_by_tenant",),
    "LIST_PLACES_OF_TENANT": ("jobs_queued_by_tenant",),
    "NEXT_ANALYSIS_OF_TENANT": ("jobs_next_of_tenant",),
    "LIST_NEXT_OF_TENANT": ("jobs_next_of_tenant",),
    "FIND_DUE": ("jobs_delayed",),
    "LIST_RUNNING_TENANTS": ("jobs_leased",),
    "LIST_LEASED": ("jobs_leased",),
    "RECENT_RUNS": ("attempts_completed",),
    "LIST_EVENTS": ("PRIMARY KEY",),
    "FIND_RESULT": ("sqlite_autoindex_results_1 (org_id=? AND result_id=?)", "sqlite_autoindex_jobs_1"),
    "NEWEST_RESULT": ("sqlite_autoindex_results",),
    "FIND_BODY": ("sqlite_autoindex_results_1 (org_id=? AND result_id=?)", "INTEGER PRIMARY KEY"),
    "LIST_NOTIFICATIONS": ("notifications_of_job",),
    "OLD_RESULTS": ("jobs_with_results", "sqlite_autoindex_results"),
    "OLD_RESULTS_OF_OWN_TTL": ("jobs_with_results", "sqlite_autoindex_results"),
    "OLD_LOGS": ("jobs_with_events", "PRIMARY KEY"),
    "DELETE_BODIES": ("INTEGER PRIMARY KEY", "sqlite_autoindex_jobs_1"),
    "MARK_DELETED": ("INTEGER PRIMARY KEY",),
    "FORGET_RESULTS": ("sqlite_autoindex_jobs_1",),
    "DELETE_EVENTS": ("PRIMARY KEY", "sqlite_autoindex_jobs_1"),
    "FORGET_EVENTS": ("sqlite_autoindex_jobs_1",),
    "COUNT_RESULTS": ("jobs_with_results",),
    "COUNT_EVENTS": ("jobs_with_events",),
    "RESULTS_OF_QUEUED": ("jobs_queued_by_tenant", "sqlite_autoindex_results"),
    "RESULTS_OF_LEASED": ("jobs_leased", "sqlite_autoindex_results"),
    "EVENTS_OF_QUEUED": ("jobs_queued_by_tenant", "PRIMARY KEY"),
    "EVENTS_OF_LEASED": ("jobs_leased", "PRIMARY KEY"),
    "OLD_JOBS": ("jobs_emptied (held=? AND finished_at",),
    "DELETE_JOBS": ("sqlite_autoindex_jobs_1",),
    "COUNT_OLD": ("jobs_emptied (held=? AND finished_at", "jobs_with_events (held=? AND finished_at"),
    "LIST_OLD_KEYS": ("idempotency_keys_by_age",),
    "LIST_STALE_INPUTS": ("inputs_unnamed",),
    "LIST_STALE_UPLOADS": ("uploads_started",),
}


def plan(path: Path, statement: ClauseElement) -> list[str]:
    with closing(connect_reader(path)) as connection:
        rows = connection.execute(
            f"EXPLAIN QUERY PLAN {compile_text(statement, SQLITE)}", Anything()
        ).fetchall()
    return [str(row[3]) for row in rows]


@pytest.mark.parametrize("name", sorted(PLANS))
def test_no_hot_statement_walks_a_whole_table(house: House, tmp_path: Path, name: str) -> None:
    steps = plan(database_of(tmp_path), (vars(retention_jobs) | vars(retention) | vars(sql))[name])

    for index in PLANS[name]:
        assert any(index in step for step in steps), steps
    small = ("json_each", "anon_1", "USING")
    assert [
        step for step in steps if step.startswith("SCAN") and not any(word in step for word in small)
    ] == []


@pytest.mark.parametrize(("completed", "index"), [(False, "jobs_not_completed"), (True, "jobs_by_tenant")])
def test_lists_of_jobs_walk_the_tenants_own_index(
    house: House, tmp_path: Path, completed: bool, index: str
) -> None:
    statement = sql.list_jobs(1, 1, analysis=True, after=True, before=True, page=True, completed=completed)

    steps = plan(database_of(tmp_path), statement)

    assert any(f"USING INDEX {index} (org_id=?" in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps


def test_a_constant_that_became_a_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="constants"):
        compile_text(sql.FIND_JOB.where(jobs.c.attempt == 7), SQLITE)


def test_the_writers_connection_is_durable_and_strict(house: House, tmp_path: Path) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "mmap_size": 0,
        "journal_size_limit": 64 << 20,
    }

    with closing(connect_writer(database_of(tmp_path))) as connection:
        found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}

    assert found == expected


def test_a_readers_connection_cannot_write(house: House, tmp_path: Path) -> None:
    with (
        closing(connect_reader(database_of(tmp_path))) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM jobs")


def full(connection: sqlite3.Connection, pages: int) -> None:
    used = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {used + pages}")


def writers_connection(store: Any) -> sqlite3.Connection:
    """The connection of the writer thread, for tests that break it."""
    held: list[sqlite3.Connection] = []

    def take(tx: Any) -> None:
        held.append(tx._connection)

    store.write(take)
    return held[0]


def test_a_full_database_refuses_and_loses_nothing(house: House) -> None:
    kept = [house.completed(payload="x" * 3000) for _ in range(5)]
    full(writers_connection(house.store), 2)

    accepted = []
    refused = 0
    for _ in range(60):
        change = house.submission()
        try:
            house.store.write(saving(change))
            accepted.append(change.job)
        except UnavailableError:
            refused += 1

    assert refused > 0
    assert [house.stored(job) for job in kept] == kept
    assert [house.stored(job) for job in accepted] == accepted
    assert house.violations() == []


def test_when_there_is_room_again_writes_go_on(house: House) -> None:
    house.submit()
    connection = writers_connection(house.store)
    full(connection, 0)
    with pytest.raises(UnavailableError):
        house.completed(payload="x" * 100_000)

    connection = writers_connection(house.store)
    connection.execute("PRAGMA max_page_count = 1000000")

    job = house.completed(payload="x" * 100_000)
    assert house.stored(job) == job
    assert house.violations() == []


class FailingCommit:
    """The writer's connection with a disk that breaks at the next commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, text: str, *parameters: Any) -> Any:
        if text == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self.connection.execute(text, *parameters)

    def close(self) -> None:
        self.connection.close()


def test_a_commit_that_fails_acknowledges_nothing_and_the_connection_is_opened_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One group, however long it takes to fill it.
    monkeypatch.setattr(writer, "MAX_SECONDS", 30.0)
    assert isinstance(house.store, SqliteStore)
    heard: list[Any] = []
    house.store.subscribe(heard.append)
    before = writers_connection(house.store)
    session: Any = house.store._session
    gate = threading.Event()
    blocker = house.store.write_soon(lambda _: gate.wait(30))
    changes = [house.submission() for _ in range(10)]
    futures = [house.store.write_soon(saving(one)) for one in changes]
    session._connection = FailingCommit(before)

    gate.set()

    with pytest.raises(UnavailableError, match="disk I/O error; whether the change was kept is not known"):
        blocker.result(timeout=30)
    for future in futures:
        with pytest.raises(UnavailableError, match="disk I/O error"):
            future.result(timeout=30)
    assert [house.find(one.job) for one in changes] == [None] * 10
    assert heard == []
    job = house.submit()
    assert house.stored(job) == job
    assert writers_connection(house.store) is not before
    assert house.violations() == []


def test_a_database_that_is_held_for_too_long_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store_module, "BUSY_SECONDS", 0.05)
    house = House(sqlite_store(tmp_path))
    other = LockFile(lock_path(database_of(tmp_path)))
    other.take_writer(5)

    futures = [house.store.write_soon(lambda _: None) for _ in range(3)]
    for future in futures:
        with pytest.raises(UnavailableError, match="too long"):
            future.result(timeout=30)
    other.release_writer()

    assert house.store.write(lambda _: 1) == 1
    house.store.close()
    other.close()


def test_threads_that_end_leave_no_connection_open(house: House) -> None:
    job = house.submit()
    assert isinstance(house.store, SqliteStore)
    for _ in range(20):
        thread = threading.Thread(target=lambda: house.stored(job))
        thread.start()
        thread.join(30)

    assert len(house.store._readers._handles) <= 2


def test_a_lone_surrogate_is_its_callers_error_alone(house: House) -> None:
    job = house.running()

    with pytest.raises(UnicodeEncodeError):
        house.store.write(lambda tx: tx.put_log(ALPHA, job.job_id, 1, "\ud800"))

    assert house.stored(job) == job
    assert house.submit(BETA).org_id == BETA


def test_a_reader_meets_a_closed_store_with_a_clear_word(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    job = house.submit()
    house.store.close()

    with pytest.raises(UnavailableError, match="closed"):
        house.stored(job)


def test_a_function_may_write_much_more_than_a_page_cache(house: House) -> None:
    def write(tx: Transaction) -> None:
        for seq in range(30):
            tx.add_input_chunk(ALPHA, "big", seq, b"x" * (4 << 20), house.now)

    house.store.write(write)
    house.store.write(lambda tx: tx.drop_input(ALPHA, "big"))

    assert house.violations() == []


def test_a_damage_that_sqlite_cannot_even_put_into_words_is_told_as_one(tmp_path: Path) -> None:
    store = sqlite_store(tmp_path)
    database = Path(store.info().database)
    store.close()
    store = open_store(next(tmp_path.rglob("*.json")), Mode.SERVE)
    content = database.read_bytes()
    assert content.count(b"CREATE TABLE notifications") == 1
    # SQLite quotes what it does not understand, and this is no text in any encoding that it knows.
    database.write_bytes(content.replace(b"CREATE TABLE notifications", b"CREATE TABL\xf6 notifications"))

    try:
        for use in (
            lambda: store.read(lambda reader: reader.facts()),
            lambda: store.ask(lambda reader: reader.find_job(ALPHA, JobId("nobody"))),
            lambda: store.write(lambda tx: tx.probe(NOON)),
        ):
            with pytest.raises(UnavailableError, match="damaged"):
                use()
    finally:
        store.close()
