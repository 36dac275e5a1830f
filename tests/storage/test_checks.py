"""Every invariant, broken by hand in the file: the check finds it and names the job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import Job
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.checks import CHECKS
from async_delivery.storage.contract import Section
from async_delivery.storage.dialects import SQLITE, compile_text
from async_delivery.storage.opening import Mode, open_store
from async_delivery.storage.sqlite_files import connect_reader
from tests.contract.support import House
from tests.contract.test_inputs import uploaded
from tests.storage.support import break_by_hand, database_of, sqlite_store


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    store = sqlite_store(tmp_path)
    yield House(store)
    store.close()


def test_a_store_in_order_has_no_violations(house: House) -> None:
    house.completed(partials=3)
    house.fail(house.running(), again=True, retry_after_seconds=5)
    house.cancel(house.submit())
    house.running()
    house.submit()

    assert house.violations() == []


BREAKS = {
    "a gap in the events of an active job": (
        "running",
        "DELETE FROM events WHERE job_id = ? AND event_seq = 1",
    ),
    "a gap in the events of an ended job": (
        "completed",
        "DELETE FROM events WHERE job_id = ? AND event_seq = 2",
    ),
    "the last event of an ended job": ("completed", "DELETE FROM events WHERE job_id = ? AND event_seq = 5"),
    "an event too many": ("running", "UPDATE jobs SET event_seq = 1 WHERE job_id = ?"),
    "events without their mark": ("completed", "UPDATE jobs SET events_kept = 0 WHERE job_id = ?"),
    "no final result": ("completed", "UPDATE results SET result_kind = 'partial' WHERE job_id = ?"),
    "a final result of a failed job": (
        "failed",
        (
            "INSERT INTO results (result_id, org_id, job_id, result_kind, result_seq, attempt, size_bytes, sha256)"
            " VALUES ('x', 'alpha', ?, 'final', 1, 1, 0, '')"
        ),
    ),
    "a lost result": ("completed", "DELETE FROM results WHERE job_id = ? AND result_seq = 1"),
    "a result that is not the job's": ("completed", "UPDATE jobs SET result_id = 'other' WHERE job_id = ?"),
    "results without their mark": ("completed", "UPDATE jobs SET results_kept = 0 WHERE job_id = ?"),
    "a lost body": (
        "completed",
        "DELETE FROM result_bodies WHERE result_key IN (SELECT result_key FROM results WHERE job_id = ?)",
    ),
    "a body that changed": (
        "completed",
        "UPDATE result_bodies SET data = x'00' WHERE result_key IN (SELECT result_key FROM results WHERE job_id = ?)",
    ),
    "no notification": ("completed", "DELETE FROM notifications WHERE job_id = ?"),
    "another template": (
        "completed",
        "UPDATE notifications SET template_key = 'async.job.failed' WHERE job_id = ?",
    ),
    "another dedupe key": ("completed", "UPDATE notifications SET dedupe_key = 'x' WHERE job_id = ?"),
    "progress beyond its range": ("running", "UPDATE jobs SET progress_percent = 120 WHERE job_id = ?"),
    "an unknown status": ("running", "UPDATE jobs SET status = 'lost' WHERE job_id = ?"),
    "a lease without a worker": ("running", "UPDATE jobs SET lease_worker_id = NULL WHERE job_id = ?"),
    "an ended job with a lease": (
        "completed",
        "UPDATE jobs SET lease_worker_id = 'w', lease_token = 't', lease_expires_at = 1 WHERE job_id = ?",
    ),
    "a lost attempt": ("completed", "DELETE FROM attempts WHERE job_id = ?"),
    "an attempt that never ended": ("completed", "UPDATE attempts SET outcome = NULL WHERE job_id = ?"),
    "a waiting job without a place": ("queued", "UPDATE jobs SET place = NULL WHERE job_id = ?"),
    "a lost request": ("queued", "DELETE FROM job_requests WHERE job_id = ?"),
    "an event of another tenant": ("queued", "UPDATE events SET org_id = 'beta' WHERE job_id = ?"),
    "a result of another tenant": ("completed", "UPDATE results SET org_id = 'beta' WHERE job_id = ?"),
    "rows of nobody": ("completed", "DELETE FROM jobs WHERE job_id = ?"),
}


def made(house: House, kind: str) -> Job:
    if kind == "queued":
        return house.submit()
    if kind == "completed":
        return house.completed(payload={"x": 1}, partials=2)
    job = house.running()
    return house.fail(job) if kind == "failed" else job


@pytest.mark.parametrize("what", sorted(BREAKS))
def test_what_is_broken_is_found(house: House, tmp_path: Path, what: str) -> None:
    kind, statement = BREAKS[what]
    house.completed(partials=1)
    job = made(house, kind)

    break_by_hand(tmp_path, statement, job.job_id)

    found = house.violations()
    assert found
    named = ("result ", "the database file") if "body" in what or "nobody" in what else (job.job_id,)
    assert any(name in line for line in found for name in named), found


def test_no_more_breaches_are_told_than_asked_for(house: House, tmp_path: Path) -> None:
    for _ in range(5):
        house.completed()
    break_by_hand(tmp_path, "DELETE FROM notifications")

    assert len(house.store.read(lambda reader: reader.violations(3))) == 3


def test_a_log_cut_by_cleanup_is_in_order_but_a_hole_in_it_is_not(house: House, tmp_path: Path) -> None:
    job = house.completed(partials=4)
    policy = RetentionPolicy(0, 0)
    house.store.write(lambda tx: tx.delete_old(Section.EVENTS, policy, house.now, 3))
    assert house.violations() == []

    break_by_hand(tmp_path, "DELETE FROM events WHERE job_id = ? AND event_seq = 5", job.job_id)

    assert house.violations() == [f"job {job.job_id}: its event 5 is missing"]


def test_a_file_that_changed_is_found(house: House, tmp_path: Path) -> None:
    file = uploaded(house)
    assert house.violations() == []

    break_by_hand(
        tmp_path, "UPDATE input_chunks SET data = x'01' WHERE input_id = ? AND seq = 1", file.input_id
    )

    assert house.violations() == [
        f"input {file.input_id}: its bytes are not the ones that were uploaded (SHA-256 differs)"
    ]


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    house = House(sqlite_store(tmp_path))
    for _ in range(200):
        house.completed(payload="x" * 500)
    house.store.close()
    path = tmp_path / "store.v1.sqlite3"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)

    store = open_store(tmp_path / "store.v1.json", Mode.READ_ONLY)
    try:
        found = store.read(lambda reader: reader.violations(5))
    except UnavailableError as exc:
        found = [str(exc)]
    finally:
        store.close()
    assert any("malformed" in line or "the database file" in line for line in found), found


def test_no_check_looks_each_job_up_among_the_records_of_all(house: House, tmp_path: Path) -> None:
    """With every in-app record in one range of an index, a look-up by job there takes as long as there are jobs."""
    with closing(connect_reader(database_of(tmp_path))) as connection:
        for check in CHECKS:
            text = compile_text(check.wrong, SQLITE)
            steps = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
            assert not [step for step in steps if "notifications_in_app" in step], text
