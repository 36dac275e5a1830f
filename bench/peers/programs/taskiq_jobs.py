"""taskiq on Redis streams, which are acknowledged. As a module for ``taskiq worker``; ``main`` submits.

PEER_URL is the address of the Redis.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from redis.asyncio import Redis  # type: ignore[import-not-found]
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker  # type: ignore[import-not-found]

from bench.peers import driving

URL = os.environ["PEER_URL"]
broker = RedisStreamBroker(f"{URL}/0", consumer_id="0").with_result_backend(
    RedisAsyncResultBackend(f"{URL}/1")
)


async def _work() -> str:
    return driving.result()


work = broker.task(task_name="work")(_work)


class TaskiqDriver:
    """Submits as an application does, on one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._redis = Redis.from_url(f"{URL}/1")
        self._runner.run(broker.startup())

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        self._runner.run(self._jobs(count))

    def one(self) -> None:
        """See driving.Driver."""
        self._runner.run(self._one())

    async def _jobs(self, count: int) -> None:
        before = await self._redis.dbsize()
        handles: list[Any] = await driving.in_tasks(count, work.kiq)

        async def completed() -> bool:
            return bool(await self._redis.dbsize() - before >= count)

        await driving.until_async(completed)
        driving.check((await handles[-1].get_result()).return_value)

    async def _one(self) -> None:
        handle = await work.kiq()
        found = await handle.wait_result(
            check_interval=driving.GLANCE_SECONDS, timeout=driving.DEADLINE_SECONDS
        )
        driving.check(found.return_value)


def main() -> None:
    """Submit as asked."""
    driving.serve(TaskiqDriver())
