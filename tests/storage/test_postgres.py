"""The store on PostgreSQL itself: its connections, limits, hints and clock. On the server that tests share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from async_delivery.domain.errors import (
    AsyncDeliveryError,
    ConflictError,
    StoreBusyError,
    UnavailableError,
)
from async_delivery.engine.runtime import Policy
from async_delivery.storage import postgres
from async_delivery.storage.contract import Reader, Signal, Store, Transaction
from async_delivery.storage.opening import Mode, StoreFile, open_store
from async_delivery.storage.postgres import PostgresStore
from async_delivery.storage.postgres_clock import DatabaseClock
from async_delivery.storage.postgres_connect import Limits
from async_delivery.storage.postgres_session import PostgresReader, PostgresTransaction
from tests.contract.support import ALPHA, House, fence_of, saving
from tests.contract.test_races import together
from tests.domain.support import NOON
from tests.postgres import shared_server
from tests.storage.processes import until


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    with shared_server().lent_store_file(tmp_path) as lent:
        yield lent


@contextmanager
def opened(
    file: StoreFile, mode: Mode = Mode.SERVE, connections: int | None = None
) -> Iterator[PostgresStore]:
    with closing(open_store(file.path, mode, connections)) as store:
        assert isinstance(store, PostgresStore)
        yield store


def by_hand(file: StoreFile, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(file.database, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


def run(at: Reader, statement: str) -> Any:
    """A statement of the test's own in the midst of a transaction."""
    assert isinstance(at, PostgresReader | PostgresTransaction)
    return at._connection.raw.execute(statement.encode()).fetchone()[0]


# ---------------------------------------------------------------- transactions
def test_a_write_whose_failed_statement_was_passed_over_is_not_acknowledged(file: StoreFile) -> None:
    with opened(file) as store:
        house = House(store)
        house.submit()
        again, other = house.submission(), house.submission()
        house.save(again)

        def write(tx: Transaction) -> str:
            with suppress(ConflictError):
                tx.save(again)
            return "kept"

        def write_on(tx: Transaction) -> str:
            with suppress(ConflictError):
                tx.save(again)
            tx.save(other)
            return "kept"

        with pytest.raises(AsyncDeliveryError, match="went on as if it had not"):
            store.write(write)
        with pytest.raises(AsyncDeliveryError):
            store.write(write_on)
        assert house.find(other.job) is None
        assert house.submit().event_seq == 1


def test_every_transaction_has_its_time_limits_and_leaves_none_behind(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SERVING", Limits(7, 3, 11))

    def limits(at: Reader) -> list[str]:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        return [run(at, f"SHOW {name}") for name in names]

    with opened(file, connections=1) as store:
        assert store.write(limits) == store.read(limits) == ["7s", "3s", "11s"]
        with store._connections.lent("cannot be read", away=False) as connection:
            row = connection.execute(b"SHOW statement_timeout").fetchone()
    assert row == ("0",)


def test_a_statement_or_a_lock_that_takes_too_long_ends_with_a_clear_word(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SERVING", Limits(0.2, 0.05, 60))
    with opened(file) as store:
        house = House(store)
        job = house.submit()

        with pytest.raises(UnavailableError, match="statement_timeout"):
            store.read(lambda reader: run(reader, "SELECT pg_sleep(10)"))
        with pytest.raises(UnavailableError, match="statement_timeout"):
            store.write(lambda tx: run(tx, "SELECT pg_sleep(10)"))
        with psycopg.connect(file.database) as other:
            other.execute(b"SELECT 1 FROM async_delivery.jobs FOR UPDATE")
            with pytest.raises(UnavailableError, match="lock_timeout"):
                house.cancel(job)
        assert house.cancel(job).status == "canceled"


def test_a_transaction_that_idles_too_long_is_ended_once_and_not_run_again(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SERVING", Limits(60, 10, 0.05))
    runs: list[int] = []

    def dawdle(at: Reader) -> None:
        runs.append(1)
        pid = run(at, "SELECT pg_backend_pid()")
        until(lambda: not by_hand(file, "SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid))
        run(at, "SELECT 1")

    with opened(file) as store:
        for ask in (store.read, store.write):
            with pytest.raises(UnavailableError, match="left idle for too long"):
                ask(dawdle)
        assert len(runs) == 2
        assert House(store).submit().event_seq == 1


def test_who_waits_for_a_machine_that_stands_still_outlasts_it_within_a_lease() -> None:
    limits = Limits()

    assert limits.idle_seconds < limits.lock_seconds < Policy().lease_seconds


def test_a_claim_waits_for_one_that_stands_still_no_longer_than_that(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SERVING", Limits(60, 10, 0.3))
    done = threading.Event()

    def stand_still(tx: Transaction) -> None:
        tx.claimable(1, None, 5, NOON)
        done.wait(30)
        tx.claimable(1, None, 5, NOON)

    with opened(file) as still, opened(file) as other:
        House(other).submit()
        stuck = still.write_soon(stand_still)
        held = (
            "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
            " WHERE locktype = 'advisory' AND datname = current_database()"
        )
        until(lambda: bool(by_hand(file, held)))

        assert len(House(other).claim(cap=5)) == 1

        done.set()
        with pytest.raises(UnavailableError, match="left idle for too long"):
            stuck.result(30)


def test_two_transactions_that_lock_crosswise_are_both_done_in_the_end(file: StoreFile) -> None:
    with opened(file) as store:
        house = House(store)
        one, two = house.submit(), house.submit()
        meet = threading.Barrier(2, timeout=30)
        runs: list[int] = []

        def locking(first: str, second: str) -> str:
            def write(tx: Transaction) -> str:
                runs.append(1)
                tx.lock_job(ALPHA, first)  # type: ignore[arg-type]
                if len(runs) <= 2:
                    meet.wait()
                tx.lock_job(ALPHA, second)  # type: ignore[arg-type]
                return "done"

            return store.write(write)

        answers = together(lambda: locking(one.job_id, two.job_id), lambda: locking(two.job_id, one.job_id))

    assert answers == ["done", "done"]
    assert len(runs) >= 3  # PostgreSQL ended one of them, which was run again


def test_as_many_writes_as_connections_may_all_read_in_their_midst(file: StoreFile) -> None:
    with opened(file, connections=3) as store:
        house = House(store)
        job = house.submit()
        meet = threading.Barrier(3, timeout=30)

        def write(_: Transaction) -> bool:
            if not meet.broken:
                meet.wait()
            return house.find(job) == job

        assert together(*[lambda: store.write(write)] * 3) == [True] * 3


def test_a_large_result_of_a_question_is_streamed(file: StoreFile) -> None:
    with opened(file) as store:
        house = House(store)
        house.completed(payload="x" * 100)

        def look(reader: Reader) -> int:
            assert isinstance(reader, PostgresReader)
            from async_delivery.storage.checks import STREAM_BODIES

            open_now = "SELECT count(*) FROM pg_cursors WHERE name LIKE 'ad\\_%%'"
            stream = reader.stream(STREAM_BODIES, {})
            next(iter(stream))
            count: int = run(reader, open_now)
            stream.close()  # type: ignore[attr-defined]
            assert run(reader, open_now) == 0
            return count

        assert store.read(look) == 1


def test_an_interrupt_in_the_midst_of_a_write_keeps_nothing_and_breaks_nothing(file: StoreFile) -> None:
    with opened(file, connections=1) as store:
        house = House(store)
        change = house.submission()

        def write(tx: Transaction) -> None:
            tx.save(change)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.write(write)

        def look(reader: Reader) -> None:
            reader.facts()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.read(look)

        assert house.find(change.job) is None
        assert house.save(change) == change.job


def test_closing_waits_for_what_is_under_way_and_later_callers_hear_of_it(file: StoreFile) -> None:
    store = open_store(file.path, Mode.SERVE)
    house = House(store)
    change = house.submission()
    inside, go = threading.Event(), threading.Event()

    def write(tx: Transaction) -> str:
        inside.set()
        go.wait(30)
        tx.save(change)
        return "kept"

    future = store.write_soon(write)
    reading = threading.Thread(target=lambda: store.read(lambda _: go.wait(30)))
    reading.start()
    inside.wait(30)
    closing_ = threading.Thread(target=store.close)
    closing_.start()
    go.set()
    closing_.join(30)
    reading.join(30)

    assert not closing_.is_alive()
    assert future.result(timeout=0) == "kept"
    for ask in (
        house.violations,
        lambda: store.write(lambda _: None),
        lambda: store.write_soon(lambda _: None),
        store.cleanup_lock().__enter__,
    ):
        with pytest.raises(UnavailableError, match="closed"):
            ask()


# ---------------------------------------------------------------- only looking
def test_a_reader_only_writes_nothing(file: StoreFile) -> None:
    with opened(file) as store:
        House(store).completed(partials=1)
    before = dump(file)

    with opened(file, Mode.READ_ONLY) as store:
        assert store.info().counts["jobs"] == 1
        assert not store.is_served()
        with pytest.raises(UnavailableError, match="for reading only"):
            store.write(lambda _: None)
        with pytest.raises(UnavailableError, match="takes no writes"):
            store.read(lambda reader: run(reader, "DELETE FROM async_delivery.jobs RETURNING 1"))

    assert dump(file) == before


def dump(file: StoreFile) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table with the transaction that wrote it, and where it lies."""
    tables = by_hand(file, "SELECT tablename FROM pg_tables WHERE schemaname = 'async_delivery'")
    return {
        table: by_hand(
            file, f"SELECT ctid::text, xmin::text, t.* FROM async_delivery.{table} t ORDER BY ctid"
        )
        for (table,) in tables
    }


# ---------------------------------------------------------------- who else is there
def test_a_cleanup_holds_its_place_over_processes_and_frees_it_when_it_dies(file: StoreFile) -> None:
    with opened(file) as store, opened(file, Mode.TOOL) as tool:
        with store.cleanup_lock(), pytest.raises(StoreBusyError), tool.cleanup_lock():
            pass
        with tool.cleanup_lock():
            with pytest.raises(StoreBusyError), store.cleanup_lock():
                pass
            by_hand(
                file,
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )

            def is_free() -> bool:
                with suppress(StoreBusyError), store.cleanup_lock():
                    return True
                return False

            until(is_free)


def listening(store: Store) -> list[Signal]:
    heard: list[Signal] = []
    store.subscribe(heard.append)
    return heard


def test_another_process_hears_of_a_change_soon_and_of_its_own_once(file: StoreFile) -> None:
    with opened(file) as one, opened(file) as two:
        here, there = listening(one), listening(two)
        house = House(one)
        until(lambda: hears(house, there))
        there.clear()
        here.clear()

        job = house.running()
        until(lambda: any(one.event_seq == 2 for one in there))
        later = house.submit()
        until(lambda: there[-1].job_id == later.job_id)

    assert [signal.event_seq for signal in here if signal.job_id == job.job_id] == [1, 2]
    assert {signal.org_id for signal in there} == {ALPHA}


def hears(house: House, heard: list[Signal]) -> bool:
    """True once ``store`` listens: a hint from before is lost, which is what hints may be."""
    house.submit()
    with suppress(AssertionError):
        until(lambda: bool(heard), 0.2)
    return bool(heard)


def test_hints_that_come_together_go_in_one_message(file: StoreFile) -> None:
    with opened(file) as store, psycopg.connect(file.database, autocommit=True) as listener:
        listener.execute(b"LISTEN async_delivery")
        house = House(store)
        for future in [store.write_soon(saving(house.submission())) for _ in range(100)]:
            future.result(timeout=60)
        notices: list[psycopg.Notify] = []

        def hints() -> int:
            notices.extend(listener.notifies(timeout=0.05))
            return sum(notice.payload.count('"queued"') for notice in notices)

        until(lambda: hints() == 100)

    assert len(notices) < 60


def test_hints_stay_in_their_database(file: StoreFile, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with (
        shared_server().lent_store_file(tmp_path / "other") as other_file,
        opened(file) as store,
        opened(file) as beside,
        opened(other_file) as other,
    ):
        near, far = listening(beside), listening(other)
        house, strange = House(store), House(other)
        until(lambda: hears(house, near))
        until(lambda: hears(strange, far))
        far.clear()
        job = house.submit()
        until(lambda: near[-1].job_id == job.job_id)

    assert far == []


def test_nonsense_from_others_is_no_hint_and_ends_nothing(file: StoreFile) -> None:
    with opened(file) as store, opened(file) as beside:
        heard, house = listening(beside), House(store)
        until(lambda: hears(house, heard))
        for payload in ("", "[]", "nonsense", '["x", [["a", "b", "no state", 1, false]]]', '["x", 5]'):
            by_hand(file, "SELECT pg_notify('async_delivery', %s)", payload)
        heard.clear()
        job = house.submit()

        until(lambda: job.job_id in {signal.job_id for signal in heard})


def test_a_listener_that_writes_is_refused_wherever_the_hint_came_from(
    file: StoreFile, capfd: pytest.CaptureFixture[str]
) -> None:
    with opened(file) as store, opened(file) as beside:
        heard, house = listening(beside), House(store)
        until(lambda: hears(house, heard))
        tries: list[int] = []

        def writing(_: Signal) -> None:
            tries.append(1)
            beside.write(lambda _: None)

        beside.subscribe(writing)
        house.submit()
        until(lambda: bool(tries))
        beside.write(lambda tx: tx.save(house.submission()))

        assert len(tries) >= 2
        assert beside.write(lambda _: True)
    assert capfd.readouterr().err.count("a write inside a write") >= 2


def test_a_killed_listener_listens_again(file: StoreFile) -> None:
    with opened(file) as store, opened(file) as beside:
        heard, house = listening(beside), House(store)
        until(lambda: hears(house, heard))

        by_hand(
            file,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        heard.clear()

        until(lambda: hears(house, heard))
        assert beside._pulse is not None
        assert not beside._pulse.away


def test_a_hint_whose_connection_has_ended_goes_by_the_next(file: StoreFile) -> None:
    with opened(file) as store, opened(file) as beside:
        heard, house = listening(beside), House(store)
        until(lambda: hears(house, heard))

        ended = by_hand(
            file,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%%pg_notify(%%'",
        )
        assert ended == [(1,)]
        job = house.submit()

        until(lambda: job.job_id in {signal.job_id for signal in heard})


# ---------------------------------------------------------------- the clock
def test_the_clock_is_the_databases_whatever_the_machine_says(
    file: StoreFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_600_000_000_000)

    with opened(file) as store:
        (said,) = by_hand(file, "SELECT clock_timestamp()")
        assert abs(store.clock() - said[0]) < timedelta(seconds=5)
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        (said,) = by_hand(file, "SELECT clock_timestamp()")
        assert abs(store.clock() - said[0]) < timedelta(seconds=5)


def test_leases_are_judged_by_the_databases_clock(file: StoreFile) -> None:
    with opened(file) as store:
        house = House(store)
        house.now = store.clock()
        house.submit_many(1)
        (job,) = house.claim()
        fast = house.now + timedelta(days=1)

        assert store.write(lambda tx: tx.lost_jobs(fast, [], 10)) == []
        by_hand(file, "UPDATE async_delivery.jobs SET lease_expires_at = lease_expires_at - 31000000")
        slow = house.now - timedelta(days=1)
        assert [one.job_id for one in store.write(lambda tx: tx.lost_jobs(slow, [], 10))] == [job.job_id]


def test_a_clock_of_the_database_that_is_set_ends_no_lease(file: StoreFile) -> None:
    # given a process that has not heard yet that the clock was put forward by a day
    with opened(file) as store:
        late = DatabaseClock()
        with psycopg.connect(file.database) as connection:
            assert late.measure(connection) == timedelta()
        late._offset_ns -= 86_400_000_000_000
        store._clock = late
        house = House(store)
        house.now = store.clock()
        house.submit_many(1)
        (job,) = house.claim()

        # when others look for leases that are over, and then its worker renews the lease by the old clock
        assert store.write(lambda tx: tx.lost_jobs(house.now, [], 10, 30.0)) == []
        late._offset_ns -= 86_400_000_000_000
        until = store.clock() + timedelta(seconds=30)
        (renewal,) = store.write(lambda tx: tx.renew_leases("worker-a", {job.job_id: fence_of(job)}, until))

        # then it holds by the new one
        assert renewal.held
        (said,) = by_hand(file, "SELECT lease_expires_at FROM async_delivery.jobs")
        (now,) = by_hand(file, "SELECT extract(epoch FROM clock_timestamp()) * 1000000")
        assert 0 < said[0] - now[0] <= 31_000_000
        # and those of the dead are found again once all others had the time to do the same
        by_hand(file, "UPDATE async_delivery.jobs SET lease_expires_at = lease_expires_at - 31000000")
        assert store.write(lambda tx: tx.lost_jobs(house.now, [], 10, 30.0)) == []
        late._set_at -= 41
        found = store.write(lambda tx: tx.lost_jobs(house.now, [], 10, 30.0))
        assert [one.job_id for one in found] == [job.job_id]
