"""The simulated queue gives turns as the store does: the same jobs to both, the same order from both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from async_delivery.domain.job import Priority
from async_delivery.storage import statements as sql
from bench.simulate_queue import ArrivalQueue, FairQueue
from tests.contract.support import House
from tests.storage.support import sqlite_store


@pytest.mark.parametrize("cap", [None, 2])
def test_the_simulated_queue_gives_the_same_turns_as_a_store(tmp_path: Path, cap: int | None) -> None:
    chance = random.Random(7 if cap is None else 8)
    store = sqlite_store(tmp_path)
    house, queue = House(store), FairQueue(cap)
    running, deepest = [], 0
    try:
        for _ in range(300):
            match chance.choices(("join", "take", "end"), (9, 2, 2))[0]:
                case "join":
                    # One tenant has most of the jobs, and so a line of its own.
                    tenant = chance.choice(["big", "big", "big", "a", "b", "c"])
                    analysis = chance.choice(["slow", "quick"])
                    priority = chance.choice([Priority.DEFAULT, Priority.DEFAULT, Priority.EXPEDITE])
                    job = house.submit(tenant, analysis=analysis, priority=priority)
                    queue.join(job.job_id, tenant, analysis=analysis, priority=priority)
                case "take":
                    limit = chance.choice([1, 1, 3, 8])
                    claimed = house.claim(limit, cap=cap)
                    assert queue.take(limit) == [job.job_id for job in claimed]
                    running += claimed
                case _ if running:
                    ended = running.pop(chance.randrange(len(running)))
                    house.complete(ended)
                    queue.end(ended.job_id)
            deepest = max(deepest, len(queue))
        assert deepest > 20  # otherwise nobody had to wait for a turn
    finally:
        store.close()


def test_a_front_that_is_all_of_capped_tenants_is_passed_by() -> None:
    queue = FairQueue(cap=1)
    for number in range(200):
        queue.join(f"{number:04d}", "capped")
    assert queue.take(1) == ["0000"]
    queue.join("0200", "other")

    assert queue.take(5) == ["0200"]


def test_a_statement_without_an_answer_is_told_and_not_guessed() -> None:
    with pytest.raises(NotImplementedError, match="no answer"):
        FairQueue().run(sql.LIST_LEASED, {})


def test_the_queue_that_is_compared_with_serves_in_the_order_of_arrival() -> None:
    queue = ArrivalQueue()
    for job_id, tenant in (("1", "a"), ("2", "a"), ("3", "b")):
        queue.join(job_id, tenant)

    assert (queue.take(2), queue.take(2), len(queue)) == (["1", "2"], ["3"], 0)
