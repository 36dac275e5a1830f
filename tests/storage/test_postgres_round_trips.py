"""How often PostgreSQL is asked for one step of a job: on a network each question costs its way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from async_delivery.storage.contract import Store
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

    (job,) = claim(store)
    asked.clear()
    complete(store, job)
    assert asked == ["SELECT", "WITH"]  # the job, locked, its rows
