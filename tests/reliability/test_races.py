"""R9: cancel, complete, fail, release and rescue at the same moment; each job ends once and is told of once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from async_delivery.domain import lifecycle
from async_delivery.domain.errors import ConflictError, LeaseLostError
from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.result import seal
from tests.contract.support import House, fence_of, without_delay
from tests.postgres import shared_server
from tests.reliability.conftest import Score
from tests.reliability.image import Image, image_of_postgres, image_of_sqlite
from tests.reliability.journal import Operation, Outcome
from tests.reliability.oracle import Rule, judge
from tests.reliability.traffic import TENANTS
from tests.storage.support import sqlite_store

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
AT_A_TIME = 8


class Arena:
    """A store, and what it holds once it is closed."""

    def __init__(self, house: House, image: Callable[[], Image]) -> None:
        self.house, self.image = house, image
        self.history: list[Operation] = []

    def running(self, org_id: str) -> Job:
        """A job that runs, and that the oracle knows of."""
        operation = Operation(len(self.history) + 1, "submit", org_id, {}, Outcome.ACKNOWLEDGED)
        self.history.append(operation)
        job = self.house.running(org_id, labels={"op": str(operation.number)})
        operation.facts["job_id"] = job.job_id
        return job


@contextmanager
def arena(store: str, folder: Path) -> Iterator[Arena]:
    if store == "sqlite":
        opened = sqlite_store(folder)
        (database,) = folder.rglob("*.sqlite3")
        image: Callable[[], Image] = lambda: image_of_sqlite(database)  # noqa: E731  one of two
    else:
        from async_delivery.storage.opening import Mode, open_store

        file = shared_server().new_store_file(folder)
        opened = open_store(file.path, Mode.SERVE)
        image = lambda: image_of_postgres(file.database)  # noqa: E731
    try:
        yield Arena(House(opened), image)
    finally:
        opened.close()


def contestants(house: House, job: Job) -> dict[str, Callable[[], Any]]:
    """What may happen to a running job, each as one write."""

    def rescue() -> Job:
        return house.change(job, lambda it: lifecycle.rescue(it, house.now, house.new_id))

    return {
        "complete": lambda: house.complete(job, {"by": "complete"}),
        "fail": lambda: house.fail(job),
        "fail again": lambda: house.fail(job, again=True),
        "cancel": lambda: house.cancel(job),
        "cancel too": lambda: house.cancel(job),
        "release": lambda: house.release(job),
        "rescue": rescue,
        "partial": lambda: house.partial(job, {"by": "partial"}),
    }


def race(house: House, job: Job, chance: random.Random) -> list[str]:
    """Two to four things at once, then to the end; what the attempt could still write although it was over."""
    offered = contestants(house, job)
    names = chance.sample(sorted(offered), chance.randint(2, 4))
    start = threading.Barrier(len(names))

    def run(name: str) -> None:
        start.wait(30)
        try:
            offered[name]()
        except (LeaseLostError, ConflictError):
            return  # it came too late, and was told so

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, names))
    if house.stored(job).status is JobStatus.QUEUED:
        house.change(job, lambda it: next_attempt(house, it))
        late = still_accepted(offered)  # another attempt has the job now
        if late:
            return late  # whatever became of the job, it is not what it should be
    house.change(job, lambda it: end_of(house, it))
    return still_accepted(offered)


def next_attempt(house: House, job: Job) -> Change:
    """The next worker gets the job, whose time has come."""
    claimed = lifecycle.claim(without_delay(job), "worker-b", house.new_id(), 30.0, house.now, house.new_id)
    # The store is told of all that is not as it has it.
    return replace(claimed, before=job)


def end_of(house: House, job: Job) -> Change | None:
    """Whoever has the job ends it."""
    if job.status.terminal:
        return None
    if job.cancel_requested_at is not None:
        return lifecycle.confirm_cancel(job, fence_of(job), house.now, house.new_id)
    return lifecycle.complete(job, fence_of(job), seal({"by": "the last"}), house.now, house.new_id)


def still_accepted(offered: dict[str, Callable[[], Any]]) -> list[str]:
    """What the first attempt can still write."""
    return [
        name for name in ("partial", "fail again", "release", "complete", "fail") if accepted(offered[name])
    ]


def accepted(write: Callable[[], Any]) -> bool:
    try:
        write()
    except LeaseLostError:
        return False
    return True


def races(store: str, folder: Path, wanted: int, seed: int, score: Score) -> None:
    late: list[str] = []
    with arena(store, folder) as it:
        chance = random.Random(seed)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for _ in range(0, wanted, AT_A_TIME):
                jobs = [it.running(chance.choice(TENANTS)) for _ in range(AT_A_TIME)]
                seeds = [random.Random(chance.random()) for _ in jobs]
                for found in pool.map(lambda pair: race(it.house, *pair), zip(jobs, seeds, strict=True)):
                    late += found
    breaches = judge(it.history, it.image())

    wrong = [str(breach) for breach in breaches if breach.rule in (Rule.ENDS, Rule.TOLD)]
    score("R5.late", store, len(late), cases=len(it.history), seed=seed)
    score("R9", store, len(wrong), cases=len(it.history), seed=seed)
    assert [str(breach) for breach in breaches] == []


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_five_hundred_races_end_each_job_once(store: str, tmp_path: Path, seed: int, score: Score) -> None:
    races(store, tmp_path, 500, seed, score)


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_ten_thousand_races_end_each_job_once(store: str, tmp_path: Path, seed: int, score: Score) -> None:
    races(store, tmp_path, 10_000, seed, score)
