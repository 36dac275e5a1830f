"""A server that dies in the midst of short jobs, with some claimed ahead and some ends not written yet."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.live import LiveServer, eventually

JOBS, KILLED_AT = 250, (40, 120)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path, "--no-workers")
    yield made.start()
    if made.process is not None and made.process.poll() is None:
        made.kill_everything()


def rows(server: LiveServer, query: str) -> list[tuple[str, int]]:
    (database,) = server.store_file.parent.glob("*.sqlite3")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def in_status(server: LiveServer, status: str) -> int:
    """How many jobs there are of it."""
    return dict(rows(server, "SELECT status, count(*) FROM jobs GROUP BY status")).get(status, 0)


def reached(server: LiveServer, so_many: int) -> None:
    """Wait until so many jobs have completed."""
    eventually(lambda: in_status(server, "completed") >= so_many, "nothing ends")


@pytest.mark.slow
def test_kills_in_the_midst_of_short_jobs_lose_none_and_end_none_twice(server: LiveServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        accepted = set(pool.map(lambda _: server.submit(stages=0), range(JOBS)))
    server.stop()
    server.options = ("--slots", "2")

    claimed = []
    for so_many in KILLED_AT:
        server.launch()
        reached(server, so_many)
        server.kill_everything()
        claimed.append(in_status(server, "running"))
    server.start()

    states = "SELECT job_id, status = 'completed' FROM jobs"
    eventually(lambda: all(done for _, done in rows(server, states)), "not all have ended")
    server.stop()
    print(f"claimed when it died: {claimed}")
    assert {job_id for job_id, _ in rows(server, states)} == accepted
    for what in (
        "SELECT job_id, count(*) FROM results GROUP BY job_id",
        "SELECT job_id, count(*) FROM notifications GROUP BY job_id",
        "SELECT job_id, count(*) FROM events WHERE event_type = 'job.completed' GROUP BY job_id",
    ):
        assert Counter(dict(rows(server, what))) == Counter(accepted)
    dense = "SELECT job_id, count(*) = max(event_seq) AND min(event_seq) = 1 FROM events GROUP BY job_id"
    assert all(is_dense for _, is_dense in rows(server, dense))
    # Only deaths have cost an attempt, whether it had begun or not.
    assert max(number for _, number in rows(server, "SELECT job_id, attempt FROM jobs")) <= 1 + len(KILLED_AT)
    assert any(claimed)
