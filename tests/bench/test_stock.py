"""What growth is measured on must be a store as the service would have left it, only sooner."""

from __future__ import annotations

from pathlib import Path

import pytest

from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.opening import Mode, open_store
from bench import rawpostgres, rows, stock
from bench.pgserver import connected
from bench.simulate_costs import claim, complete, submit
from tests.postgres import shared_server

COUNT = 240


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_store_with_a_long_past_is_sound_and_can_be_used_and_cleaned(dialect: str, tmp_path: Path) -> None:
    url = shared_server().empty_database() if dialect == "postgresql" else None

    file = stock.build(tmp_path, url, COUNT)

    store = open_store(file, Mode.SERVE)
    try:
        assert stock.stored(store) == COUNT
        assert store.read(lambda reader: reader.violations(10)) == []
        submit(store, 7)
        (job,) = claim(store)
        complete(store, job)
        found = store.read(
            lambda reader: reader.count_retention(RetentionPolicy(86_400, 86_400), store.clock())
        )
        assert found.terminal_job_count == COUNT + 1
        # Spread over a fortnight, all but what ended since yesterday is old.
        assert found.events.delete_count > found.events.total * 0.8
        assert 0 < found.results.delete_count < found.results.total
        assert len(found.per_tenant) == stock.TENANTS
    finally:
        store.close()


def test_the_rows_of_a_job_can_be_written_again_by_the_driver_alone(tmp_path: Path) -> None:
    url = shared_server().new_store_file(tmp_path).database
    store = open_store(tmp_path / "store.v1.json", Mode.SERVE)
    try:
        before = rawpostgres.snapshot(url)
        submit(store, 1)
        (job,) = claim(store)
        complete(store, job)
        made_from = rawpostgres.template(url, before)
    finally:
        store.close()

    rawpostgres.prepare(url, made_from)
    seconds, _ = rawpostgres.together(url, rows.writes(made_from, 30), writers=4)
    single = rawpostgres.one_by_one(url, rows.writes(made_from, 5))

    assert seconds > 0
    assert len(single) == 5
    assert sorted(set(made_from.tables)) == [
        "attempts",
        "events",
        "job_requests",
        "jobs",
        "notifications",
        "result_bodies",
        "results",
    ]
    with connected(url) as connection:
        row = connection.execute(b"SELECT count(*), count(DISTINCT job_id) FROM raw.events").fetchone()
    assert row == (35 * 3, 35)
