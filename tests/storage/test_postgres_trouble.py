"""PostgreSQL goes away, comes back, comes back as another, or is set up so that it loses things."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import Job
from async_delivery.storage import postgres_pulse
from async_delivery.storage.contract import Store, Transaction
from async_delivery.storage.opening import Mode, StoreFile, create_store, open_store
from tests.contract.support import House
from tests.contract.test_races import together
from tests.domain.support import NOON
from tests.postgres import OwnServer, own_server
from tests.storage.processes import until
from tests.storage.proxies import Cutter


@pytest.fixture(scope="module")
def server() -> Iterator[OwnServer]:
    with own_server() as started:
        yield started


@pytest.fixture
def file(server: OwnServer, tmp_path: Path) -> Iterator[StoreFile]:
    with server.lent_store_file(tmp_path) as lent:
        yield lent


@pytest.fixture
def store(file: StoreFile) -> Iterator[Store]:
    with closing(open_store(file.path, Mode.SERVE)) as opened:
        yield opened


@dataclass
class Load:
    """Writers that go on whatever happens, and write down what they were told."""

    house: House
    acknowledged: list[Job] = field(default_factory=list)
    unknown: list[Job] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    surprises: list[BaseException] = field(default_factory=list)
    ended: bool = False

    def write(self) -> None:
        while not self.ended:
            change = self.house.submission()
            try:
                self.house.save(change)
                self.acknowledged.append(change.job)
            except UnavailableError as exc:
                uncertain = "whether the change was kept is not known" in exc.message
                self.unknown.append(change.job) if uncertain else self.refused.append(exc.message)
            except BaseException as exc:  # noqa: BLE001  the assertion names it
                self.surprises.append(exc)

    def lost(self) -> list[str]:
        """Acknowledged jobs that are not there."""
        return [job.job_id for job in self.acknowledged if self.house.find(job) != job]


@contextmanager
def under_load(house: House, threads: int = 4) -> Iterator[Load]:
    load = Load(house)
    writers = [threading.Thread(target=load.write) for _ in range(threads)]
    for writer in writers:
        writer.start()
    try:
        until(lambda: len(load.acknowledged) > 20)
        yield load
    finally:
        load.ended = True
        for writer in writers:
            writer.join(60)


def test_a_restart_under_load_loses_nothing_that_was_acknowledged(server: OwnServer, store: Store) -> None:
    house = House(store)
    with under_load(house) as load:
        for _ in range(2):
            server.control("restart", "-m", "immediate")
            back, before = monotonic(), len(load.acknowledged)
            until(lambda: len(load.acknowledged) > before, 30)  # noqa: B023  waited for at once
            assert monotonic() - back < 5
    assert load.lost() == []
    assert load.surprises == []
    assert house.violations() == []


def test_after_a_restart_no_reader_and_no_writer_meets_a_dead_connection(
    server: OwnServer, store: Store
) -> None:
    house = House(store)
    job = house.submit()
    meet = threading.Barrier(10, timeout=30)
    together(*[lambda: store.read(lambda _: meet.wait())] * 10)  # all connections there may be

    server.control("restart", "-m", "immediate")

    assert together(*[lambda: house.find(job)] * 10) == [job] * 10
    assert house.cancel(job).status == "canceled"


def test_while_it_is_away_callers_hear_so_at_once_and_later_all_is_well(
    server: OwnServer, store: Store
) -> None:
    house = House(store)
    job = house.submit()
    clock = store.clock()
    server.control("stop", "-m", "immediate")
    try:
        for ask in (lambda: house.find(job), house.submit, store.cleanup_lock().__enter__, store.info):
            began = monotonic()
            with pytest.raises(
                UnavailableError, match=r"cannot be read|cannot be reached|refuses to write"
            ) as told:
                ask()
            assert monotonic() - began < 5
            assert told.value.retry_after_seconds >= 1
        with pytest.raises(UnavailableError, match=r"no connection can be made: .*socket"):
            until(lambda: house.find(job) is None)
        assert store.clock() >= clock  # asks nobody
        assert "committed it to disk" in store.durability
    finally:
        server.control("restart")

    began = monotonic()
    until(lambda: found(house, job))
    assert monotonic() - began < 5
    house.cancel(job)


def found(house: House, job: Job) -> bool:
    with suppress(UnavailableError):
        return house.find(job) is not None
    return False


def test_backends_that_are_ended_at_random_lose_and_double_nothing(server: OwnServer, store: Store) -> None:
    house = House(store)
    with under_load(house) as load, psycopg.connect(server.url, autocommit=True) as operator:
        for _ in range(60):
            operator.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                b" AND datname LIKE 'ad_test_%%' ORDER BY random() LIMIT 2"
            )
            before = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > before, 30)  # noqa: B023  waited for at once
    assert load.lost() == []
    assert load.surprises == []
    kept = {job.job_id for job in load.acknowledged} | {job.job_id for job in load.unknown}
    assert {job_id for (job_id,) in rows(store, "SELECT job_id FROM async_delivery.jobs")} <= kept
    assert house.violations() == []


def rows(store: Store, statement: str) -> list[tuple[Any, ...]]:
    return store.read(lambda reader: reader._connection.raw.execute(statement.encode()).fetchall())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("side", "kept"), [("before", False), ("after", True)])
def test_a_commit_whose_answer_is_lost_is_called_uncertain_and_never_run_again(
    file: StoreFile, tmp_path: Path, side: str, kept: bool
) -> None:
    with Cutter(file.database) as cutter:
        through = create_store(tmp_path / "through.json", cutter.url, store_id="not used", now=NOON)
        with closing(open_store(through.path, Mode.SERVE)) as store:
            house = House(store)
            house.submit()
            change, runs = house.submission(), []

            def write(tx: Transaction) -> None:
                runs.append(1)
                tx.save(change)

            cutter.cut = side
            with pytest.raises(UnavailableError, match="whether the change was kept is not known"):
                store.write(write)
            cutter.cut = None

            assert runs == [1]
            assert cutter.cuts == 1
            assert (house.find(change.job) is not None) is kept
            assert house.violations() == []


# ---------------------------------------------------------------- another database in its place
@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_pulse, "MEASURE_SECONDS", 0.05)


def refuses(house: House, saying: str) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            house.submit()
        except UnavailableError as exc:
            return saying in exc.message
        return False

    return ask


def test_a_database_that_was_dropped_is_missed_and_its_restored_copy_taken(
    server: OwnServer, file: StoreFile, store: Store, tmp_path: Path
) -> None:
    house = House(store)
    job = house.submit()
    said = psycopg.conninfo.conninfo_to_dict(file.database)
    name, at = str(said["dbname"]), ("-h", str(said["host"]), "-U", "postgres")
    backup = server.program("pg_dump", *at, name)

    server.run(f"DROP DATABASE {name} WITH (FORCE)")
    until(refuses(house, "does not exist"))
    server.run(f"CREATE DATABASE {name}")
    until(refuses(house, "was it dropped, restored"))
    create_store(tmp_path / "other.json", file.database, store_id="other", now=NOON)
    until(refuses(house, "another store"))
    server.run(f"DROP DATABASE {name} WITH (FORCE)")
    server.run(f"CREATE DATABASE {name}")
    script = server.data / "backup.sql"
    script.write_text(backup)
    script.chmod(0o644)
    server.program("psql", *at, "-q", "-v", "ON_ERROR_STOP=1", "-f", str(script), name)

    until(lambda: found(house, job))
    assert house.violations() == []


def test_another_store_in_the_same_database_is_noticed_on_connections_that_were_there(
    file: StoreFile, looks_often: None, tmp_path: Path
) -> None:
    with closing(open_store(file.path, Mode.SERVE)) as store:
        house = House(store)
        house.submit()
        with psycopg.connect(file.database, autocommit=True) as connection:
            connection.execute(b"UPDATE async_delivery.meta SET value = 'another' WHERE name = 'store_id'")
            until(refuses(house, "another store"))
            connection.execute(b"UPDATE async_delivery.meta SET value = 'store-1' WHERE name = 'store_id'")
        until(lambda: found(house, house.submit()) if not refuses(house, "")() else False)


# ---------------------------------------------------------------- promises that are not kept
def test_settings_that_lose_acknowledged_writes_are_named_as_soon_as_they_are_made(
    server: OwnServer, file: StoreFile, looks_often: None
) -> None:
    with closing(open_store(file.path, Mode.SERVE)) as store:
        assert "fsync=on, synchronous_commit=on" in store.durability
        assert store.info().warnings == ()
        try:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                server.run(f"ALTER SYSTEM SET {name} = off")
                server.run("SELECT pg_reload_conf()")
                until(lambda: f"{name}=off" in store.durability)  # noqa: B023  waited for at once
                assert store.durability.startswith("NOT DURABLE")
                assert any(name in warning for warning in store.info().warnings)
        finally:
            server.run("ALTER SYSTEM RESET ALL")
            server.run("SELECT pg_reload_conf()")
        until(lambda: "fsync=on" in store.durability)


def test_a_replica_is_read_named_and_never_written_to(
    server: OwnServer, file: StoreFile, store: Store, tmp_path: Path
) -> None:
    house = House(store)
    job = house.completed(partials=1)
    said = psycopg.conninfo.conninfo_to_dict(server.url)
    copy = server.data / "replica"
    server.program(
        "pg_basebackup", "-h", str(said["host"]), "-U", "postgres", "-D", str(copy), "-R", "-c", "fast"
    )
    server.control("start", "-o", f'-h "" -p 5433 -k {said["host"]}', data=copy)
    try:
        url = file.database + "&port=5433"
        replica = create_store(tmp_path / "replica.json", url, store_id="not used", now=NOON)
        assert replica.store_id == file.store_id
        with closing(open_store(replica.path, Mode.READ_ONLY)) as reading:
            assert House(reading).stored(job) == job
        with closing(open_store(replica.path, Mode.SERVE)) as serving:
            assert "a replica" in serving.durability
            assert any("a replica" in warning for warning in serving.info().warnings)
            assert House(serving).stored(job) == job
            with pytest.raises(UnavailableError, match="it takes no writes"):
                House(serving).submit()
            with pytest.raises(UnavailableError), serving.cleanup_lock():
                pass
            later = house.submit()
            until(lambda: found(House(serving), later))
    finally:
        server.control("stop", "-m", "immediate", data=copy)
