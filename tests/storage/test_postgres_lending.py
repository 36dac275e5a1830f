"""A database that tests pass on is as empty as a new one, or is not passed on."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from async_delivery.storage.contract import IdempotencyRecord, Transaction
from async_delivery.storage.tables import metadata
from tests.contract.support import ALPHA, House, saving
from tests.contract.test_inputs import uploaded
from tests.postgres import shared_server
from tests.storage.test_postgres import by_hand


def contents(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, and where every sequence stands."""
    with psycopg.connect(url, autocommit=True) as connection:
        names = [table.name for table in metadata.sorted_tables]
        found = {
            name: connection.execute(f"SELECT * FROM async_delivery.{name} ORDER BY 1".encode()).fetchall()
            for name in (*names, "alembic_version")
        }
        found["sequences"] = connection.execute(
            b"SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'async_delivery'"
        ).fetchall()
    return found


def folder(parent: Path, number: int) -> Path:
    path = parent / str(number)
    path.mkdir()
    return path


@pytest.mark.parametrize("many", [False, True])
def test_a_lent_database_is_as_new(tmp_path: Path, many: bool) -> None:
    server = shared_server()
    with server.lent_store_file(folder(tmp_path, 1)) as file:
        fresh = contents(file.database)
    assert {name for name, rows in fresh.items() if rows} == {"meta", "alembic_version", "sequences"}

    with server.lent_store(folder(tmp_path, 2)) as store:
        house = House(store)
        job = house.completed(partials=1)
        file_ = uploaded(house)

        def write(tx: Transaction) -> None:
            tx.put_log(ALPHA, job.job_id, 1, "text")
            tx.put_idempotency(ALPHA, IdempotencyRecord("key", "f", job.job_id, house.now))
            tx.probe(house.now)

        store.write(write)
        uploaded(house, entered=False)
        assert file_.size_bytes
        if many:
            for future in [store.write_soon(saving(house.submission())) for _ in range(400)]:
                future.result(timeout=60)

    with server.lent_store_file(folder(tmp_path, 3)) as file:
        assert contents(file.database) == fresh


def test_a_database_whose_tables_were_changed_is_not_lent_again(tmp_path: Path) -> None:
    server = shared_server()
    statements = (
        "ALTER TABLE async_delivery.jobs ADD COLUMN extra int",
        "DROP INDEX async_delivery.jobs_waiting",
        "CREATE TABLE async_delivery.extra (x int)",
        "UPDATE async_delivery.alembic_version SET version_num = '9'",
    )
    for number, statement in enumerate(statements):
        with server.lent_store_file(folder(tmp_path, 2 * number)) as file:
            by_hand(file, statement)
            changed = file.database
        with server.lent_store_file(folder(tmp_path, 2 * number + 1)) as file:
            assert file.database != changed
            assert by_hand(file, "SELECT count(*) FROM async_delivery.jobs") == [(0,)]
