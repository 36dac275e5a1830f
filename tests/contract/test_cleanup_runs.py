from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from async_delivery.domain.cleanup import CleanupRun, Pause, Runner
from async_delivery.domain.errors import ValidationError
from async_delivery.storage.contract import CLEANUP_RUNS_TTL_SECONDS
from tests.contract.support import House

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def run(number: int, exit_code: int = 0, at: datetime = NOON) -> CleanupRun:
    return CleanupRun(
        run_id=f"run-{number}",
        runner=Runner.SCRIPT,
        started_at=at - timedelta(seconds=2, microseconds=3),
        finished_at=at,
        exit_code=exit_code,
        results_deleted=1,
        results_kept=2,
        events_deleted=3,
        events_kept=4,
        skipped_missing_timestamp=5,
        bytes=6,
        results_ttl_seconds=7,
        events_ttl_seconds=8,
        report={"errors": ["stopped § half-way"]},
    )


def record(house: House, *runs: CleanupRun) -> None:
    for each in runs:
        house.store.write(lambda tx, each=each: tx.record_cleanup(each))  # type: ignore[misc]


def remembered(house: House, since: datetime | None = None, limit: int = 10) -> list[CleanupRun]:
    return house.store.read(lambda reader: reader.cleanup_runs(since, limit))


def test_a_run_is_remembered_as_it_was_told(house: House) -> None:
    told = run(1)

    record(house, told)

    assert remembered(house) == [told]


def test_a_refused_run_has_neither_counts_nor_ttls(house: House) -> None:
    refused = CleanupRun("run-1", Runner.COMMAND, NOON, NOON, 1, report={"errors": ["bad TTL"]})

    record(house, refused)

    assert remembered(house) == [refused]
    assert not refused.counted


def test_runs_are_listed_newest_first_since_an_instant(house: House) -> None:
    early, late = run(2, at=NOON), run(1, at=NOON + timedelta(hours=1))
    record(house, late, early)

    assert remembered(house) == [late, early]
    assert remembered(house, limit=1) == [late]
    assert remembered(house, since=late.finished_at) == [late]
    assert remembered(house, since=late.finished_at + timedelta(microseconds=1)) == []


def test_the_last_success_is_known_however_many_failures_follow(house: House) -> None:
    def last_success() -> datetime | None:
        return house.store.read(lambda reader: reader.last_cleanup_success_at())

    assert last_success() is None
    record(house, run(1, exit_code=1))
    assert last_success() is None

    record(house, run(2, at=NOON + timedelta(hours=1)))
    record(house, *(run(n, exit_code=2, at=NOON + timedelta(hours=n)) for n in (3, 4)))

    assert last_success() == NOON + timedelta(hours=1)


def test_runs_are_forgotten_after_their_time(house: House) -> None:
    span = timedelta(seconds=CLEANUP_RUNS_TTL_SECONDS)
    old, border = run(1), run(2, at=NOON + timedelta(seconds=1))
    record(house, old, border)

    new = run(3, at=NOON + timedelta(seconds=1) + span)
    record(house, new)

    assert remembered(house) == [new, border]


def test_a_pause_stays_until_it_is_lifted(house: House) -> None:
    def pause() -> Pause | None:
        return house.store.read(lambda reader: reader.cleanup_pause())

    first = Pause(NOON, "deletes look wrong § see incident 7", "anna")
    second = replace(first, why="still looking")

    assert pause() is None
    house.store.write(lambda tx: tx.set_cleanup_pause(first))
    assert pause() == first
    house.store.write(lambda tx: tx.set_cleanup_pause(second))
    assert pause() == second
    house.store.write(lambda tx: tx.set_cleanup_pause(None))
    assert pause() is None
    house.store.write(lambda tx: tx.set_cleanup_pause(None))


@pytest.mark.parametrize(
    ("why", "by"), [("", "anna"), (" ", "anna"), ("why\nnot", "anna"), ("why", ""), ("x" * 501, "a")]
)
def test_a_pause_needs_a_reason_and_a_name_on_one_line(why: str, by: str) -> None:
    with pytest.raises(ValidationError):
        Pause(NOON, why, by)


def test_a_probe_writes_and_changes_nothing_else(house: House) -> None:
    before = house.store.read(lambda reader: reader.facts())

    for _ in range(2):
        house.store.write(lambda tx: tx.probe(house.now))

    assert house.store.read(lambda reader: reader.facts()) == before
    assert house.violations() == []
