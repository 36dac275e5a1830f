"""The unit costs that the page on scaling plans with are those of a whole job, and measured where they arise."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from async_delivery.domain.result import seal
from async_delivery.storage.opening import Mode, open_store
from bench.simulate_costs import BODY, PostgresGauge, SqliteGauge, measure
from tests.postgres import shared_server
from tests.storage.support import database_of, new_store_file

ROWS = {
    "jobs": 1,
    "job_requests": 1,
    "attempts": 1,
    "events": 3,
    "results": 1,
    "result_bodies": 1,
    "notifications": 1,
}


def test_a_job_leaves_the_rows_of_a_whole_one_and_writes_more_than_it_keeps(tmp_path: Path) -> None:
    store = open_store(new_store_file(tmp_path).path, Mode.SERVE)
    try:
        costs = measure(store, SqliteGauge(database_of(tmp_path)), 60)
    finally:
        store.close()

    assert {name: count for name, count in costs.rows_per_job.items() if count} == ROWS
    body = len(seal(BODY).data)
    assert body == 4096
    assert body < costs.cleaned_per_job < costs.bytes_per_job < costs.written_together
    assert costs.written_together < costs.written_alone  # group commit writes a page once for many jobs
    assert min(costs.submits_per_second, costs.claims_per_second, costs.claims_in_batches_per_second) > 0


@pytest.mark.postgres
def test_on_postgresql_the_same_rows_and_the_log_of_the_server(tmp_path: Path) -> None:
    file = shared_server().new_store_file(tmp_path)
    store = open_store(file.path, Mode.SERVE)
    try:
        with psycopg.connect(file.database, autocommit=True) as connection:
            gauge = PostgresGauge(connection)
            costs = measure(store, gauge, 60)
            assert gauge.connections() >= 1
    finally:
        store.close()

    assert {name: count for name, count in costs.rows_per_job.items() if count} == ROWS
    assert 4096 < costs.cleaned_per_job < costs.bytes_per_job
    assert costs.written_alone > 4096
