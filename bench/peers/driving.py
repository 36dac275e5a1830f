"""How a peer is driven from its own environment: one line of JSON asks, one answers. Standard library only.

The process that submits to a peer lives through all rounds, as the program that uses such a library would. It is asked
for ``jobs`` (so many at once, from sixteen submitters) and for ``latency`` (so many, one after another).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")

RESULT_BYTES = 4096
SUBMITTERS = 16
POLL_SECONDS = 0.025
# How often somebody who waits for one job looks, where nobody tells.
GLANCE_SECONDS = 0.001
DEADLINE_SECONDS = 120.0


def result() -> str:
    """What every job returns: the work is none, the result 4 KiB."""
    return "x" * RESULT_BYTES


class Driver(Protocol):
    """Submits to one peer. Raises RuntimeError if a job does not complete with its result."""

    def jobs(self, count: int) -> None:
        """Submit ``count`` jobs from SUBMITTERS at once; return when all are completed and their results readable."""

    def one(self) -> None:
        """Submit one and return when its result has been read."""


def check(found: object) -> None:
    """The result has to be there, and whole."""
    if not isinstance(found, str) or len(found) != RESULT_BYTES:
        raise RuntimeError(f"a job completed without its result: {str(found)[:200]!r}")


def in_threads(count: int, submit: Callable[[], object]) -> list[object]:
    """Call ``submit`` ``count`` times from SUBMITTERS threads; what it returned."""
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        return [future.result() for future in [pool.submit(submit) for _ in range(count)]]


async def in_tasks(count: int, submit: Callable[[], Awaitable[T]]) -> list[T]:
    """Await ``submit`` ``count`` times from SUBMITTERS tasks; what it returned."""
    left = iter(range(count))

    async def one() -> list[T]:
        return [await submit() for _ in left]

    return [found for each in await asyncio.gather(*(one() for _ in range(SUBMITTERS))) for found in each]


async def until_async(done: Callable[[], Awaitable[bool]], every: float = POLL_SECONDS) -> None:
    """As ``until``, on an event loop."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await done():  # noqa: ASYNC110 - another process's doing: nobody here could set an event
            await asyncio.sleep(every)


def until(done: Callable[[], bool], every: float = POLL_SECONDS) -> None:
    """Ask until it is true. Raises RuntimeError after two minutes."""
    limit = time.perf_counter() + DEADLINE_SECONDS
    while not done():
        if time.perf_counter() > limit:
            raise RuntimeError(f"not all jobs were completed after {DEADLINE_SECONDS:g} s")
        time.sleep(every)


def answer(driver: Driver, asked: dict[str, object]) -> dict[str, object]:
    """Do what one line asks for: the seconds it took, or those of each job."""
    count = int(str(asked["count"]))
    if asked["do"] == "jobs":
        begin = time.perf_counter()
        driver.jobs(count)
        return {"seconds": time.perf_counter() - begin}
    took = []
    for _ in range(count):
        begin = time.perf_counter()
        driver.one()
        took.append(time.perf_counter() - begin)
    return {"took": took}


def serve(driver: Driver) -> None:
    """Answer until stdin ends."""
    # Whatever a library prints must not get between the answers.
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            said = answer(driver, json.loads(line))
        except Exception as exc:  # noqa: BLE001 - told by the one who asked
            said = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(said), file=out, flush=True)
