"""Rows without a valid instant: kept, counted, and never in the way of a reader or of cleanup."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from async_delivery.domain.job import Job
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.cells import EPOCH
from async_delivery.storage.contract import Section
from tests.contract.support import ALPHA, House
from tests.contract.test_retention import count, sweep
from tests.storage.support import break_by_hand, sqlite_store

ALL = RetentionPolicy(0, 0, None)
INVALID: dict[str, Any] = {
    "null": None,
    "text": "2026-03-01T12:00:00Z",
    "number as text": "12x",
    "empty": "",
    "fraction": 1.5,
    "blob": b"\x00",
    "beyond the year 9999": 10**18,
    "before the year 1": -(10**18),
}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    store = sqlite_store(tmp_path)
    yield House(store)
    store.close()


def left(house: House, job: Job) -> tuple[int, int]:
    return len(house.results(job)), len(house.events(job))


@pytest.mark.parametrize("kind", sorted(INVALID))
def test_a_job_without_a_valid_end_keeps_everything(house: House, tmp_path: Path, kind: str) -> None:
    job, other = house.completed(partials=1), house.completed()
    break_by_hand(tmp_path, "UPDATE jobs SET finished_at = ? WHERE job_id = ?", INVALID[kind], job.job_id)
    house.later(days=36500)

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now)

    assert (found.results.skipped_missing_timestamp, found.events.skipped_missing_timestamp) == (2, 4)
    assert (found.results.delete_count, found.events.delete_count) == (1, 3)
    assert swept.rows == {Section.RESULTS: 1, Section.EVENTS: 3}
    assert left(house, job) == (2, 4)
    assert left(house, other) == (0, 0)
    assert house.stored(job).finished_at is None
    assert count(house.store, ALL, house.now).results.skipped_missing_timestamp == 2


@pytest.mark.parametrize("kind", sorted(INVALID))
def test_a_row_without_a_valid_instant_is_kept_alone(house: House, tmp_path: Path, kind: str) -> None:
    job = house.completed(partials=2)
    value = INVALID[kind]
    break_by_hand(
        tmp_path, "UPDATE events SET occurred_at = ? WHERE job_id = ? AND event_seq = 3", value, job.job_id
    )
    break_by_hand(
        tmp_path, "UPDATE results SET created_at = ? WHERE job_id = ? AND result_seq = 2", value, job.job_id
    )
    house.later(days=36500)

    found = count(house.store, ALL, house.now)
    swept = sweep(house.store, ALL, house.now)
    again = count(house.store, ALL, house.now)

    assert (found.results.skipped_missing_timestamp, found.events.skipped_missing_timestamp) == (1, 1)
    assert swept.rows == {
        Section.RESULTS: found.results.delete_count,
        Section.EVENTS: found.events.delete_count,
    }
    assert swept.rows == {Section.RESULTS: 2, Section.EVENTS: 4}
    (event,) = house.events(job)
    (result,) = house.results(job)
    assert (event.event_seq, event.occurred_at) == (3, EPOCH)
    assert (result.result_seq, result.created_at) == (2, EPOCH)
    assert (again.results.total, again.events.total) == (1, 1)
    assert (again.results.delete_count, again.events.delete_count) == (0, 0)
    assert house.violations() == []


def test_logs_that_cannot_be_judged_do_not_hide_the_old_ones_behind_them(
    house: House, tmp_path: Path
) -> None:
    for _ in range(20):
        house.completed()
    break_by_hand(tmp_path, "UPDATE events SET occurred_at = NULL")
    break_by_hand(tmp_path, "UPDATE results SET created_at = NULL")
    house.later(seconds=1)
    old = house.completed()

    swept = sweep(house.store, ALL, house.now, limit=4)

    assert swept.rows == {Section.RESULTS: 1, Section.EVENTS: 3}
    assert left(house, old) == (0, 0)


def test_every_instant_of_a_job_may_be_missing_and_it_still_can_be_read(house: House, tmp_path: Path) -> None:
    job = house.completed()
    assert job.result_id is not None
    result_id = job.result_id
    break_by_hand(
        tmp_path,
        "UPDATE jobs SET submitted_at = NULL, queued_at = 'x', updated_at = '', started_at = 1.5, finished_at = NULL",
    )
    break_by_hand(tmp_path, "UPDATE results SET expires_at = NULL")
    break_by_hand(tmp_path, "UPDATE attempts SET started_at = 'x', ended_at = NULL")
    break_by_hand(tmp_path, "UPDATE notifications SET created_at = NULL, sent_at = 'x', scheduled_at = NULL")

    stored = house.stored(job)

    assert (stored.submitted_at, stored.queued_at, stored.updated_at) == (EPOCH, EPOCH, EPOCH)
    assert stored.started_at is None
    found = house.store.read(lambda reader: reader.find_result(ALPHA, result_id))
    assert found is not None
    assert found.result.expires_at > house.now + timedelta(days=36500)
    assert house.store.read(lambda reader: reader.recent_run_seconds("selftest", 5)) == []
    assert len(house.notifications(job)) == 1
