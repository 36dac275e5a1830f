"""A server and a worker whose PostgreSQL goes away for a while, and what their clients hear meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import OwnServer, own_server
from tests.system.live import LiveServer, eventually

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

ASKED = {"analysis": "selftest", "params": {"stages": 0}}
ASYNC = {"Prefer": "respond-async"}
# More than there are threads that could wait for the database.
CLIENTS = 60


@pytest.fixture
def database() -> Iterator[OwnServer]:
    with own_server() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path, database: OwnServer) -> Iterator[LiveServer]:
    options = (
        "--slots",
        "2",
        "--lease-seconds",
        "3",
        "--heartbeat-seconds",
        "1",
        "--drain-grace-seconds",
        "0",
    )
    live = LiveServer(tmp_path, "--store-url", database.empty_database(), *options)
    try:
        yield live.start()
    finally:
        live.stop()


def events(server: LiveServer, job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask("GET", job["links"]["events"]).json()["events"]
    return found


def test_while_the_database_is_away_clients_hear_so_and_soon_after_all_goes_on(
    server: LiveServer, database: OwnServer
) -> None:
    job_id = server.submit(stages=600, stage_seconds=0.1)
    eventually(lambda: server.job(job_id)["status"] == "partial", "it does not run")
    assert server.ask("GET", "/health/ready").status == 200

    database.control("stop", "-m", "immediate")

    eventually(lambda: server.ask("POST", "/analyze", ASKED, headers=ASYNC).status == 503, "no 503")
    refused = server.ask("POST", "/analyze", ASKED, headers=ASYNC)
    assert refused.json()["code"] == "unavailable"
    assert int(refused.headers["retry-after"]) > 0
    assert server.ask("GET", f"/analyze/jobs/{job_id}").status == 503
    assert server.ask("GET", "/health").status == 200
    eventually(lambda: server.ask("GET", "/health/ready").status == 503, "it calls itself ready")
    # None of them may wait for the others' connections.
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(
            clients.map(lambda _: server.ask("GET", f"/analyze/jobs/{job_id}").status, range(CLIENTS))
        )
    assert answers == [503] * CLIENTS
    assert time.monotonic() - began < 15
    eventually(lambda: '"lease.lost"' in server.log(), "the attempt goes on without a lease")

    database.control("restart")
    back_at = time.monotonic()

    eventually(lambda: server.ask("POST", "/analyze", ASKED, headers=ASYNC).status == 202, "it takes no job")
    # Measured: half a second. The promise is five.
    assert time.monotonic() - back_at < 5
    eventually(lambda: server.ask("GET", "/health/ready").status == 200, "it does not call itself ready")
    eventually(lambda: server.job(job_id)["attempt"] == 2, "the job is not run again")
    job = server.job(job_id)
    assert job["error_count"] == 0
    assert [event["event_type"] for event in events(server, job)].count("job.requeued") == 1
    eventually(lambda: '"store.back"' in server.log(), "the log does not say that it is back")
    assert server.log().count('"store.away"') == 1
    server.ask("POST", f"/analyze/jobs/{job_id}/cancel", {})
    assert server.ended(job_id)["status"] == "canceled"
