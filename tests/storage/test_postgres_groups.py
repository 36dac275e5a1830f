"""Many writes in one transaction on PostgreSQL: what they share, and what they never do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from async_delivery.domain.errors import AsyncDeliveryError, ConflictError, UnavailableError
from async_delivery.domain.job import JobId, Priority
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import IdempotencyRecord, Reader, Signal, Store, Transaction
from async_delivery.storage.opening import Mode, StoreFile, create_store, open_store
from async_delivery.storage.postgres_pool import Connections
from tests.contract.support import ALPHA, BETA, House, saving
from tests.domain.support import NOON, REQUEST
from tests.postgres import shared_server
from tests.storage.proxies import Cutter


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    with shared_server().lent_store_file(tmp_path) as lent:
        yield lent


@pytest.fixture
def store(file: StoreFile) -> Iterator[Store]:
    with closing(open_store(file.path, Mode.SERVE)) as opened:
        yield opened


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each commit of the process."""
    noted: list[int] = []
    commit = Connections.commit

    def note(connection: Any) -> None:
        noted.append(1)
        commit(connection)

    monkeypatch.setattr(Connections, "commit", staticmethod(note))
    return noted


@contextmanager
def gathered(store: Store) -> Iterator[None]:
    """What is written soon in the block waits for its end, and is one group then."""
    may_go, runs = threading.Event(), threading.Event()

    def stand_still(tx: Transaction) -> None:
        runs.set()
        may_go.wait(30)

    first = store.write_soon(stand_still)
    assert runs.wait(30)
    try:
        yield
    finally:
        may_go.set()
        first.result(timeout=30)


def outcome(future: Future[Any]) -> Any:
    """What it has returned, or what kind of thing it has raised."""
    error = future.exception(timeout=60)
    return future.result() if error is None else type(error)


def places(store: Store, *org_ids: OrgId) -> list[list[int]]:
    """The places of each tenant's waiting jobs, by their ids."""

    def look(reader: Reader) -> list[list[int]]:
        statement = b"SELECT place FROM async_delivery.jobs WHERE org_id = %s ORDER BY job_id"
        raw = reader._connection.raw  # type: ignore[attr-defined]
        return [[place for (place,) in raw.execute(statement, (org_id,))] for org_id in org_ids]

    return store.read(look)


def test_writes_that_come_together_share_a_commit_and_each_keeps_its_own_rows(
    store: Store, commits: list[int]
) -> None:
    house, heard = House(store), list[Signal]()
    store.subscribe(heard.append)
    changes = [house.submission(labels={"number": str(number)}) for number in range(31)]
    requests = [replace(REQUEST, query=f"query {number}") for number in range(31)]
    changes = [replace(change, request=request) for change, request in zip(changes, requests, strict=True)]

    with gathered(store):
        futures = [store.write_soon(saving(change)) for change in changes]

    assert [outcome(future) for future in futures] == [None] * 31
    assert len(commits) == 2
    for change, request in zip(changes, requests, strict=True):
        assert house.find(change.job) == change.job
        assert house.events(change.job) == list(change.events)
        assert store.read(lambda reader, it=change.job: reader.find_request(ALPHA, it.job_id)) == request  # type: ignore[misc]
    assert places(store, ALPHA) == [list(range(31))]
    store.write(lambda tx: None)
    assert [signal.job_id for signal in heard] == [change.job.job_id for change in changes]
    assert house.violations() == []


def test_every_tenant_of_a_group_has_its_own_line(store: Store) -> None:
    house = House(store)
    house.submit(ALPHA)
    house.submit(ALPHA)
    house.claim()
    with gathered(store):
        futures = [store.write_soon(saving(house.submission(org))) for org in (BETA, ALPHA, BETA, ALPHA)]
    for future in futures:
        future.result(timeout=60)

    # Nobody begins before the lowest place there is, and everybody goes on where its line ends.
    assert places(store, ALPHA, BETA) == [[None, 1, 2, 3], [1, 2]]


def test_who_fails_in_a_group_fails_by_itself(store: Store) -> None:
    house = House(store)
    there, good, more = house.submission(), house.submission(), house.submission()
    house.save(there)

    with gathered(store):
        futures = [store.write_soon(saving(change)) for change in (good, there, more)]

    assert [outcome(future) for future in futures] == [None, ConflictError, None]
    assert [house.find(change.job) for change in (good, more)] == [good.job, more.job]
    assert house.violations() == []


@pytest.mark.parametrize("asks", [False, True])
def test_a_function_that_raises_leaves_nothing_behind(store: Store, commits: list[int], asks: bool) -> None:
    house, heard = House(store), list[Signal]()
    store.subscribe(heard.append)
    before, dropped, after = (house.submission() for _ in range(3))

    def change_its_mind(tx: Transaction) -> None:
        tx.save(dropped)
        if asks:
            # Now it is in the database, so that all must be rolled back.
            assert tx.find_job(ALPHA, dropped.job.job_id) == dropped.job
        raise LookupError

    with gathered(store):
        futures = [store.write_soon(fn) for fn in (saving(before), change_its_mind, saving(after))]

    assert [outcome(future) for future in futures] == [None, LookupError, None]
    assert [house.find(change.job) for change in (before, dropped, after)] == [before.job, None, after.job]
    store.write(lambda tx: None)
    assert {signal.job_id for signal in heard} == {before.job.job_id, after.job.job_id}
    assert len(commits) == (3 if asks else 2) + 1


def test_each_sees_what_those_before_it_have_written(store: Store) -> None:
    house = House(store)
    first, second = house.submission(), house.submission()

    def look(tx: Transaction) -> tuple[int, bool]:
        return tx.count_queued(ALPHA, 10), tx.find_job(ALPHA, first.job.job_id) == first.job

    with gathered(store):
        futures = [store.write_soon(fn) for fn in (saving(first), look, saving(second), look)]

    assert [outcome(future) for future in futures] == [None, (1, True), None, (2, True)]


def test_a_statement_that_failed_and_was_passed_over_takes_no_other_with_it(store: Store) -> None:
    house = House(store)
    there, good = house.submission(), house.submission()
    house.save(there)

    def pass_over(tx: Transaction) -> str:
        try:
            tx.save(there)
            tx.find_job(ALPHA, there.job.job_id)
        except (ConflictError, psycopg.Error):
            pass
        return "kept"

    with gathered(store):
        futures: list[Future[Any]] = [store.write_soon(saving(good)), store.write_soon(pass_over)]

    assert [outcome(future) for future in futures] == [None, AsyncDeliveryError]
    assert house.find(good.job) == good.job


def test_who_wants_a_lock_that_somebody_holds_lets_the_others_go_first(store: Store, file: StoreFile) -> None:
    house = House(store)
    locked, good = house.submit(), house.submission()
    with psycopg.connect(file.database) as somebody:
        somebody.execute(b"SELECT 1 FROM async_delivery.jobs FOR UPDATE")
        with gathered(store):
            waits = store.write_soon(lambda tx: tx.lock_job(ALPHA, locked.job_id))
            goes = store.write_soon(saving(good))
        assert outcome(goes) is None
        # Nor does what comes later wait for it.
        store.write_soon(saving(house.submission())).result(timeout=30)
        assert not waits.done()
    assert outcome(waits) == locked


def test_a_long_request_is_entered_at_once(store: Store) -> None:
    house = House(store)
    long = replace(REQUEST, params_json=b'{"text":"' + b"x" * 100_000 + b'"}')
    changes = [replace(house.submission(), request=long) for _ in range(3)]
    with gathered(store):
        futures = [store.write_soon(saving(change)) for change in changes]
    assert [outcome(future) for future in futures] == [None] * 3
    assert places(store, ALPHA) == [[0, 1, 2]]


def test_a_canceled_write_that_has_not_begun_is_never_run(store: Store) -> None:
    house = House(store)
    change = house.submission()
    with gathered(store):
        future = store.write_soon(saving(change))
        assert future.cancel()
    store.write_soon(lambda tx: None).result(timeout=60)
    assert house.find(change.job) is None


@pytest.mark.parametrize(("side", "kept"), [("before", False), ("after", True)])
def test_a_lost_commit_is_uncertain_for_all_who_share_it_and_run_again_for_none(
    file: StoreFile, tmp_path: Path, side: str, kept: bool
) -> None:
    with Cutter(file.database) as cutter:
        through = create_store(tmp_path / "through.json", cutter.url, store_id="not used", now=NOON)
        with closing(open_store(through.path, Mode.SERVE)) as store:
            house = House(store)
            house.submit()
            changes, runs = [house.submission() for _ in range(3)], list[JobId]()

            def noting(number: int) -> Callable[[Transaction], None]:
                def write(tx: Transaction) -> None:
                    cutter.cut = side
                    runs.append(changes[number].job.job_id)
                    tx.save(changes[number])

                return write

            def refuse(tx: Transaction) -> None:
                raise LookupError

            with gathered(store):
                futures = [store.write_soon(noting(number)) for number in range(3)]
                refused = store.write_soon(refuse)

            for future in futures:
                with pytest.raises(UnavailableError, match="whether the change was kept is not known"):
                    future.result(timeout=60)
            cutter.cut = None
            assert outcome(refused) is LookupError
            assert runs == [change.job.job_id for change in changes]
            assert [house.find(change.job) is not None for change in changes] == [kept] * 3
            assert house.violations() == []


def test_jobs_that_come_out_of_order_line_up_in_the_order_they_will_run(store: Store) -> None:
    house = House(store)
    changes = [house.submission(ALPHA) for _ in range(3)] + [house.submission(BETA)]
    urgent = house.submission(ALPHA, priority=Priority.EXPEDITE)
    delayed = house.submission(ALPHA, due_at=house.now)
    with gathered(store):
        futures = [store.write_soon(saving(change)) for change in (delayed, *reversed(changes), urgent)]
    for future in futures:
        future.result(timeout=60)

    assert places(store, ALPHA, BETA) == [[1, 2, 3, 0, None], [0]]


# ---------------------------------------------------------------- idempotency keys
def keyed(
    house: House, change: Change, key: str, runs: list[str] | None = None
) -> Callable[[Transaction], JobId]:
    """What a submit with an Idempotency-Key does: the job that it led to."""
    record = IdempotencyRecord(key, f"fingerprint of {key}", change.job.job_id, house.now)

    def write(tx: Transaction) -> JobId:
        if runs is not None:
            runs.append(key)
        known = tx.find_idempotency(ALPHA, key)
        if known is not None:
            return known.job_id
        tx.save(change)
        tx.put_idempotency(ALPHA, record)
        return change.job.job_id

    return write


def test_keys_are_kept_with_their_jobs_and_lead_to_them_within_a_group_too(
    store: Store, commits: list[int]
) -> None:
    house = House(store)
    changes = [house.submission() for _ in range(7)]
    keys = ["a", "b", "c", "a", "d", "b", None]

    with gathered(store):
        futures: list[Future[Any]] = [
            store.write_soon(saving(change) if key is None else keyed(house, change, key))
            for change, key in zip(changes, keys, strict=True)
        ]

    ids = [change.job.job_id for change in changes]
    assert [outcome(future) for future in futures] == [ids[0], ids[1], ids[2], ids[0], ids[4], ids[1], None]
    assert len(commits) == 2
    assert [house.find(change.job) is not None for change in changes] == [
        True,
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    for key, job_id in (("a", ids[0]), ("b", ids[1]), ("c", ids[2]), ("d", ids[4])):
        record = store.read(lambda reader, it=key: reader.find_idempotency(ALPHA, it))  # type: ignore[misc]
        assert record == IdempotencyRecord(key, f"fingerprint of {key}", job_id, house.now)


def test_a_key_that_somebody_else_takes_meanwhile_fails_its_job_alone(store: Store, file: StoreFile) -> None:
    house = House(store)
    first, theirs, plain = (house.submission() for _ in range(3))
    house.save(theirs)
    runs: list[str] = []

    def take(tx: Transaction) -> None:
        # In a transaction of its own, between the look and the entry.
        with psycopg.connect(file.database, autocommit=True) as somebody:
            somebody.execute(
                b"INSERT INTO async_delivery.idempotency_keys (org_id, key, fingerprint, job_id, created_at)"
                b" VALUES ('alpha', 'k', 'theirs', %s, 0) ON CONFLICT DO NOTHING",
                (theirs.job.job_id,),
            )

    with gathered(store):
        mine = store.write_soon(keyed(house, first, "k", runs))
        stolen = store.write_soon(take)
        other = store.write_soon(saving(plain))

    # Run again by itself, it finds the key; nothing of its job is kept.
    assert [outcome(future) for future in (mine, stolen, other)] == [theirs.job.job_id, None, None]
    assert runs == ["k", "k"]
    assert house.find(first.job) is None
    assert house.find(plain.job) == plain.job
    assert house.violations() == []


def test_a_key_that_is_over_is_replaced_in_a_group(store: Store) -> None:
    house = House(store)
    old, new = house.submission(), house.submission()
    store.write(keyed(house, old, "k"))
    house.later(seconds=100_000)

    def replace_it(tx: Transaction) -> None:
        assert tx.find_idempotency(ALPHA, "k") is not None
        tx.save(new)
        tx.put_idempotency(ALPHA, IdempotencyRecord("k", "other", new.job.job_id, house.now))

    with gathered(store):
        future = store.write_soon(replace_it)
    assert outcome(future) is None
    found = store.read(lambda reader: reader.find_idempotency(ALPHA, "k"))
    assert found is not None
    assert found.job_id == new.job.job_id
