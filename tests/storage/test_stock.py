"""What the stock is counted from on SQLite, and what it says of rows that somebody has changed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.storage import cleanup_runs, stock
from async_delivery.storage.dialects import POSTGRESQL, SQLITE, compile_text
from async_delivery.storage.sqlite_files import connect_reader
from tests.contract.support import House
from tests.storage.support import break_by_hand, database_of, sqlite_store
from tests.storage.test_sqlite import Anything

TEN_MINUTES = timedelta(minutes=10)
# The index that each count walks; COVERING means that the table itself is not touched.
PLANS = {
    "COUNT_ENDED": "COVERING INDEX jobs_ended",
    "COUNT_LEASED": "INDEX jobs_leased",
    "COUNT_IN_LINE": "COVERING INDEX jobs_waiting",
    "COUNT_DELAYED": "INDEX jobs_delayed",
    "OLDEST_DUE": "COVERING INDEX jobs_delayed",
    "COUNT_ENDS_TOLD": "COVERING INDEX notifications_in_app",
    "LIST_RUNS": "INDEX cleanup_runs_by_end",
}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    store = sqlite_store(tmp_path)
    yield House(store)
    store.close()


def statement(name: str) -> ClauseElement:
    found: ClauseElement = (vars(stock) | vars(cleanup_runs))[name]
    return found


@pytest.mark.parametrize("name", sorted(PLANS))
def test_each_count_walks_a_small_index(house: House, tmp_path: Path, name: str) -> None:
    with closing(connect_reader(database_of(tmp_path))) as connection:
        text = compile_text(statement(name), SQLITE)
        steps = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", Anything())]

    assert any(PLANS[name] in step for step in steps), steps
    assert len([step for step in steps if step.startswith(("SCAN", "SEARCH"))]) == 1


def test_jobs_without_a_record_are_looked_for_by_their_own_notifications(
    house: House, tmp_path: Path
) -> None:
    with closing(connect_reader(database_of(tmp_path))) as connection:
        text = compile_text(stock.COUNT_NOT_TOLD, SQLITE)
        steps = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", Anything())]

    assert "SEARCH notifications USING INDEX notifications_of_job (job_id=?)" in steps


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, value in (vars(stock) | vars(cleanup_runs)).items()
        if isinstance(value, ClauseElement) and name.isupper()
    ),
)
def test_every_statement_has_a_text_in_both_dialects(name: str) -> None:
    texts = [compile_text(statement(name), dialect) for dialect in (SQLITE, POSTGRESQL)]

    assert all(texts)


def without_in_app(house: House) -> int:
    found = house.store.read(lambda reader: reader.stock(house.now, house.now - TEN_MINUTES))
    return found.terminal_without_in_app


def test_a_notification_removed_by_hand_is_missed_after_ten_minutes(house: House, tmp_path: Path) -> None:
    kept, robbed = house.completed(), house.fail(house.running())
    break_by_hand(tmp_path, "DELETE FROM notifications WHERE job_id = ?", robbed.job_id)

    house.later(seconds=599)
    assert without_in_app(house) == 0
    house.later(seconds=1)
    assert without_in_app(house) == 1

    house.completed()
    assert without_in_app(house) == 1
    assert kept.status.terminal


def test_a_record_of_another_kind_is_no_substitute(house: House, tmp_path: Path) -> None:
    job = house.completed()
    break_by_hand(
        tmp_path, "UPDATE notifications SET template_key = 'async.other' WHERE job_id = ?", job.job_id
    )
    house.later(seconds=600)

    assert without_in_app(house) == 1


def test_a_record_on_another_channel_is_no_substitute(house: House, tmp_path: Path) -> None:
    job = house.completed()
    break_by_hand(tmp_path, "UPDATE notifications SET channel = 'email' WHERE job_id = ?", job.job_id)
    house.later(seconds=600)

    assert without_in_app(house) == 1


def test_an_ended_job_without_an_end_in_time_is_missed_at_once(house: House, tmp_path: Path) -> None:
    job = house.completed()
    break_by_hand(tmp_path, "DELETE FROM notifications WHERE job_id = ?", job.job_id)
    break_by_hand(tmp_path, "UPDATE jobs SET finished_at = NULL WHERE job_id = ?", job.job_id)

    assert without_in_app(house) == 1
