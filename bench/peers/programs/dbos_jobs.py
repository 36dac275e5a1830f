"""DBOS on PostgreSQL: durable workflows from a queue.

``main`` is an executor or submits. PEER_URL is the address of its system database.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig  # type: ignore[import-not-found]

from bench.peers import driving

URL = os.environ["PEER_URL"]
QUEUE = "jobs"
POLLING_SECONDS = float(os.environ.get("PEER_POLLING_SECONDS", "0.01"))
NAME, VERSION = "bench-peer", "1"


def _url() -> str:
    # SQLAlchemy's name of the driver.
    return URL.replace("postgresql://", "postgresql+psycopg://", 1)


def run_worker(executor: str) -> None:
    """One executor, until SIGTERM."""
    config = DBOSConfig(
        name=NAME,
        system_database_url=_url(),
        executor_id=executor,
        application_version=VERSION,
        log_level="WARNING",
        sys_db_pool_size=20,
    )
    DBOS(config=config)
    DBOS.workflow(name="work")(driving.result)
    DBOS.launch()
    DBOS.register_queue(QUEUE, polling_interval_sec=POLLING_SECONDS, on_conflict="always_update")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)


class DbosDriver:
    """Submits as an application does."""

    def __init__(self) -> None:
        self._look = psycopg.connect(URL, autocommit=True)
        # The first executor makes the tables and then the queue.
        driving.until(self._has_queue)
        self._client = DBOSClient(
            system_database_url=_url(),
            application_name=NAME,
            system_database_pool_size=driving.SUBMITTERS + 4,
        )

    def _has_queue(self) -> bool:
        try:
            return (
                self._look.execute(b"SELECT 1 FROM dbos.queues WHERE name = %s", (QUEUE,)).fetchone()
                is not None
            )
        except psycopg.errors.UndefinedTable:
            return False

    def _submit(self) -> Any:
        return self._client.enqueue({"workflow_name": "work", "queue_name": QUEUE, "app_version": VERSION})

    def _succeeded(self) -> int:
        row = self._look.execute(
            b"SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
        ).fetchone()
        return int(row[0]) if row else 0

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        before = self._succeeded()
        handles: list[Any] = driving.in_threads(count, self._submit)
        driving.until(lambda: self._succeeded() - before >= count)
        driving.check(handles[-1].get_result())

    def one(self) -> None:
        """See driving.Driver."""
        driving.check(self._submit().get_result(polling_interval_sec=driving.GLANCE_SECONDS))


def main(executor: str = "") -> None:
    """Submit as asked, or be an executor."""
    if executor:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        run_worker(executor)
    else:
        driving.serve(DbosDriver())
