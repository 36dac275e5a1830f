"""The claim of one job in one question: it finds what fair dispatch finds, and no two askers take one turn."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.job import Job, Priority
from async_delivery.domain.lifecycle import Change
from async_delivery.storage import postgres_claims
from async_delivery.storage.contract import Store, Transaction
from async_delivery.storage.opening import Mode, StoreFile, open_store
from async_delivery.storage.postgres import PostgresStore
from tests.contract.support import ALPHA, BETA, House
from tests.domain.support import REQUEST
from tests.postgres import shared_server

ANALYSES = ("count", "sum")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    with shared_server().lent_store_file(tmp_path) as lent:
        yield lent


@pytest.fixture
def store(file: StoreFile) -> Iterator[Store]:
    with closing(open_store(file.path, Mode.SERVE)) as opened:
        assert isinstance(opened, PostgresStore)
        yield opened


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the one question has found, each time it was asked."""
    found: list[Any] = []
    ask = postgres_claims.find_one

    def note(*args: Any) -> Any:
        found.append(ask(*args))
        return found[-1]

    monkeypatch.setattr(postgres_claims, "find_one", note)
    return found


class _UndoneError(Exception):
    pass


def line(tx: Transaction) -> list[Any]:
    """Every waiting job with its place."""
    raw = tx._connection.raw  # type: ignore[attr-defined]
    statement = (
        b"SELECT job_id, place, due_at FROM async_delivery.jobs WHERE status = 'queued' ORDER BY job_id"
    )
    return list(raw.execute(statement).fetchall())


def taken(
    house: House, tx: Transaction, cap: int | None, analyses: tuple[str, ...] = ANALYSES
) -> tuple[Job | None, list[Any]]:
    """Claim one; which, and who waits where afterwards. With a cap that nobody reaches it goes the long way."""
    found = tx.claimable(1, analyses, cap, house.now)
    for job in found:
        tx.save(started(house, job))
    return (found[0] if found else None), line(tx)


def started(house: House, job: Job) -> Change:
    change = lifecycle.claim(job, "worker-a", f"token-{job.job_id}", 30.0, house.now, house.new_id)
    assert change is not None
    return change


def expected(house: House) -> tuple[Job | None, list[Any]]:
    kept: list[tuple[Job | None, list[Any]]] = []

    def write(tx: Transaction) -> None:
        kept.append(taken(house, tx, 1_000_000))
        raise _UndoneError

    with pytest.raises(_UndoneError):
        house.store.write(write)
    return kept[-1]


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_fair_dispatch_finds_and_leaves_the_lines_the_same(
    store: Store, answers: list[Any], seed: int
) -> None:
    chance, house = random.Random(seed), House(store)

    def submit() -> None:
        due: datetime | None = None
        if chance.random() < 0.15:
            due = house.now + timedelta(seconds=chance.randrange(20))
        house.submit(
            chance.choice(("alpha", "beta", "gamma")),
            analysis=chance.choice((*ANALYSES, "other")),
            priority=chance.choice((Priority.DEFAULT, Priority.DEFAULT, Priority.EXPEDITE)),
            due_at=due,
        )

    for _ in range(12):
        submit()
    for _ in range(30):
        if chance.random() < 0.5:
            submit()
        house.later(seconds=chance.randrange(3))
        before = expected(house)
        assert store.write(lambda tx: taken(house, tx, None)) == before
    assert sum(isinstance(found, postgres_claims.Found) for found in answers) > 5


def test_it_brings_what_was_asked_for_with_the_job(store: Store, answers: list[Any]) -> None:
    house = House(store)
    job = house.submit(analysis="count")

    def write(tx: Transaction) -> Any:
        (found,) = tx.claimable(1, ["count"], None, house.now)
        # Twice: the second goes to the database.
        return found, tx.find_request(ALPHA, found.job_id), tx.find_request(ALPHA, found.job_id)

    assert store.write(write) == (job, REQUEST, REQUEST)
    assert isinstance(answers[0], postgres_claims.Found)


def test_two_who_ask_at_once_take_two_turns(store: Store) -> None:
    house = House(store)
    first, second = house.submit(ALPHA, analysis="count"), house.submit(ALPHA, analysis="count")
    other = house.submit(BETA, analysis="count")
    has_asked, may_end = threading.Event(), threading.Event()

    def hold(tx: Transaction) -> Job | None:
        job, _ = taken(house, tx, None)
        has_asked.set()
        may_end.wait(30)
        return job

    held = store.write_soon(hold)
    assert has_asked.wait(30)
    try:
        # The first turn is taken: the next is the other tenant's, not the same tenant's once more.
        assert store.write(lambda tx: taken(house, tx, None))[0] == other
    finally:
        may_end.set()
    assert held.result(timeout=30) == first
    assert store.write(lambda tx: taken(house, tx, None))[0] == second


def test_who_finds_every_job_locked_gets_none_and_waits_for_nobody(store: Store, file: StoreFile) -> None:
    house = House(store)
    job = house.submit(analysis="count")
    with psycopg.connect(file.database) as somebody:
        somebody.execute(b"SELECT 1 FROM async_delivery.jobs FOR UPDATE")
        assert store.write(lambda tx: taken(house, tx, None))[0] is None
    assert store.write(lambda tx: taken(house, tx, None))[0] == job


def test_jobs_that_share_a_place_are_told_apart_and_spread(store: Store, answers: list[Any]) -> None:
    house = House(store)
    jobs = [house.submit(ALPHA, analysis="count") for _ in range(3)]
    store.write(lambda tx: tx._connection.raw.execute(b"UPDATE async_delivery.jobs SET place = 0"))  # type: ignore[attr-defined]

    job, waiting = store.write(lambda tx: taken(house, tx, None))

    assert job == jobs[0]
    assert answers == [True]
    assert [place for _, place, _ in waiting] == [1, 2]


def test_it_is_planned_once_however_many_analyses_are_asked_for(store: Store, answers: list[Any]) -> None:
    house = House(store)
    plans: list[Any] = []

    def write(tx: Transaction) -> None:
        raw = tx._connection.raw  # type: ignore[attr-defined]
        for number in range(40):
            taken(house, tx, None, tuple(f"analysis-{one}" for one in range(number % 7 + 1)))
        prepared = b"SELECT custom_plans, generic_plans FROM pg_prepared_statements"
        plans.extend(
            raw.execute(prepared + b" WHERE statement LIKE '%json_array%'", prepare=False).fetchall()
        )

    store.write(write)
    ((custom, generic),) = plans
    assert custom <= 5 < generic


def test_its_plan_goes_by_indexes_as_soon_as_there_are_some_hundred_jobs(
    store: Store, file: StoreFile
) -> None:
    # Plans are kept until the next ANALYZE: one that reads the whole table would do so while that grows.
    House(store).submit_many(600, analysis="count")
    ask = postgres_claims._ASK.replace("%(now)s", "$1").replace("%(analyses)s", "$2")
    with psycopg.connect(file.database, autocommit=True) as connection:
        connection.execute(b"SET plan_cache_mode = force_generic_plan")
        connection.execute(b"ANALYZE async_delivery.jobs")
        connection.execute(f"PREPARE ask AS {ask}".encode())
        plan = connection.execute(b"""EXPLAIN EXECUTE ask (0, '["count", "sum"]')""").fetchall()
    assert any("Index" in row for (row,) in plan)
    assert not [row for (row,) in plan if "Seq Scan" in row]
