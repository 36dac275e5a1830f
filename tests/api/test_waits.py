"""Held answers on a store that other processes write to as well, whose signals never arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from async_delivery.api.waits import Waits
from async_delivery.domain.job import Job, JobId
from async_delivery.engine import jobs
from async_delivery.storage.contract import Signal, Store
from async_delivery.storage.opening import Mode, open_store
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, claimed, runtime, submitted
from tests.postgres import shared_server
from tests.system.live import eventually

pytestmark = pytest.mark.postgres
SECONDS = 60.0


class DeafStore:
    """The real store, behind a pooler that lets no signal through."""

    inline_reads = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, fn: Any) -> Any:
        self.reads += 1
        return self._store.read(fn)

    def subscribe(self, listener: Callable[[Signal], Any]) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Store]:
    """The store as another process has it."""
    store = shared_server().store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def here(tmp_path: Path, elsewhere: Store) -> Iterator[DeafStore]:
    store = open_store(tmp_path / "store.v1.json", Mode.SERVE)
    yield DeafStore(store)
    store.close()


async def never_gone() -> dict[str, Any]:
    await asyncio.sleep(SECONDS)
    return {"type": "http.disconnect"}


async def on_a_thread(question: Callable[[], Mapping[JobId, int]]) -> Mapping[JobId, int]:
    return await asyncio.to_thread(question)


async def timed(work: Awaitable[list[Job]]) -> tuple[list[Job], float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await work, loop.time() - began


def test_what_another_process_does_is_seen_without_a_signal_by_all_who_wait(
    here: DeafStore, elsewhere: Store
) -> None:
    clock = FakeClock()
    there, rt = runtime(elsewhere, clock), runtime(here, clock)
    made = [submitted(there) for _ in range(20)]

    async def wait_for_all() -> list[Job]:
        waits = Waits(here, lambda: False, on_a_thread)

        async def wait_for(job: Job) -> Job:
            async def find() -> Job:
                return await asyncio.to_thread(jobs.find, rt, ALPHA, job.job_id)

            return await waits.until(
                find, job.job_id, lambda now: now.event_seq > job.event_seq, SECONDS, never_gone
            )

        waiting = [asyncio.create_task(wait_for(job)) for job in made]
        await asyncio.to_thread(eventually, lambda: here.reads >= len(made), "somebody did not look")
        for _ in made:
            await asyncio.to_thread(claimed, there)
        return await asyncio.gather(*waiting)

    found, seconds = asyncio.run(timed(wait_for_all()))

    assert {job.status for job in found} == {"running"}
    # A second at most between two questions; ten times that for a busy machine.
    assert seconds < 15
    # One question for all of them, not one for each in every second.
    assert here.reads <= 2 * len(made) + seconds + 5
