"""Celery on Redis: broker and results in one Redis, acknowledged late.

As a module for ``celery -A``; ``main`` submits. PEER_URL is the address of the Redis.
"""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found]
from redis import Redis  # type: ignore[import-not-found]

from bench.peers import driving

URL = os.environ["PEER_URL"]
RESULTS = f"{URL}/1"
app = Celery("bench", broker=f"{URL}/0", backend=RESULTS)
app.conf.update(
    # What the documentation asks for, so that no job is lost with its worker.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
work = app.task(driving.result, name="work")


def completed(connection: Redis) -> int:
    """Results stored: they have a database of their own."""
    return int(connection.dbsize())


class CeleryDriver:
    """Submits as an application does."""

    def __init__(self) -> None:
        self._redis = Redis.from_url(RESULTS)

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        before = completed(self._redis)
        handles = driving.in_threads(count, work.delay)
        driving.until(lambda: completed(self._redis) - before >= count)
        last = handles[-1]
        driving.check(last.get(timeout=driving.DEADLINE_SECONDS))  # type: ignore[attr-defined]

    def one(self) -> None:
        """See driving.Driver."""
        driving.check(work.delay().get(timeout=driving.DEADLINE_SECONDS, interval=driving.GLANCE_SECONDS))


def main() -> None:
    """Submit as asked."""
    driving.serve(CeleryDriver())
