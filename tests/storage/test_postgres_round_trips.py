"""How often PostgreSQL is asked for one step of a job: on a network each question costs its way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from async_delivery.domain.job import JobId
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import Store
from async_delivery.storage.opening import Mode, open_store
from bench.simulate_costs import claim, complete, submit
from tests.postgres import shared_server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with shared_server().lent_store(tmp_path) as lent:
        yield lent


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first words of what is asked between the BEGIN and the COMMIT of a transaction."""
    words: list[str] = []
    execute = psycopg.RawCursor.execute

    def note(self: Any, query: bytes, *args: Any, **kwargs: Any) -> Any:
        words.append(query.split()[0].decode())
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.RawCursor, "execute", note)
    return words


def test_a_step_of_a_job_is_a_look_and_one_statement_that_writes_all_its_rows(
    store: Store, asked: list[str]
) -> None:
    submit(store, 1)
    assert asked == ["SELECT", "WITH"]  # the end of its tenant's line, its rows

    asked.clear()
    (job,) = claim(store)
    assert asked == ["WITH", "WITH"]  # whose turn it is and what was asked for, its rows

    asked.clear()
    complete(store, job)
    assert asked == ["SELECT", "WITH"]  # the job, locked, its rows


def test_what_is_read_often_is_prepared_and_no_two_connections_name_it_alike(tmp_path: Path) -> None:
    with shared_server().lent_store(tmp_path) as first:
        second = open_store(tmp_path / "store.v1.json", Mode.TOOL)
        try:
            found = [_prepared_after_many_reads(store) for store in (first, second)]
        finally:
            second.close()

    assert all(names for names in found)
    # A pooler may lend one of them the session of the other, where a name must not stand for another statement.
    assert not found[0] & found[1]


def _prepared_after_many_reads(store: Store) -> set[str]:
    names: set[str] = set()

    def look(reader: Any) -> None:
        reader.find_job(OrgId("nobody"), JobId("none"))
        found = reader._connection.raw.execute(b"SELECT name FROM pg_prepared_statements", prepare=False)
        names.update(name for (name,) in found)

    for _ in range(60):
        names.clear()
        store.read(look)
    return names
