"""A held answer looks at its job after the signals that may end its wait, and after no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from async_delivery.api.waits import Waits
from async_delivery.domain.job import Job, JobId
from async_delivery.engine import jobs
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, claimed, completed, runtime, submitted
from tests.storage.support import sqlite_store


async def never_gone() -> dict[str, Any]:
    await asyncio.sleep(60)
    return {"type": "http.disconnect"}


async def at_once(question: Callable[[], Mapping[JobId, int]]) -> Mapping[JobId, int]:
    return question()


def test_who_waits_for_the_end_looks_once_before_it_and_once_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("async_delivery.api.waits.RECHECK_SECONDS", 60.0)
    store = sqlite_store(tmp_path)
    rt = runtime(store, FakeClock())
    job, looks = submitted(rt), list[str]()

    async def wait() -> Job:
        waits, looked = Waits(store, lambda: False, at_once), asyncio.Event()

        async def find() -> Job:
            found = jobs.find(rt, ALPHA, job.job_id)
            looks.append(found.status)
            looked.set()
            return found

        waiting = asyncio.create_task(
            waits.until(
                find,
                job.job_id,
                lambda now: now.status.terminal,
                60,
                never_gone,
                heeds=lambda signal: signal.status.terminal,
            )
        )
        await looked.wait()
        attempt = await asyncio.to_thread(claimed, rt)
        # The store's thread is through with the claim's signal, and all that it could have woken has its turn.
        await asyncio.to_thread(store.write, lambda _: None)
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.to_thread(completed, rt, attempt, {"x": 1})
        return await waiting

    try:
        ended = asyncio.run(wait())
    finally:
        store.close()

    assert ended.status.terminal
    assert looks == ["queued", "completed"]
