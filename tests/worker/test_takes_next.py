"""Which slots take their next job in the commit that ends the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from async_delivery.domain.job import JobStatus
from async_delivery.engine import jobs
from async_delivery.engine.runtime import Policy
from tests.worker.support import ORG, World
from tests.worker.test_reuse import Watched


@pytest.mark.parametrize(
    ("exclusive", "cap", "takes"), [(True, 5, True), (False, None, True), (False, 5, False)]
)
def test_a_slot_takes_its_next_job_with_the_end_unless_a_claim_may_wait_for_others(
    make_world: Any, exclusive: bool, cap: int | None, takes: bool
) -> None:
    policy = Policy(default_analysis="fine", fault_injection=True, max_running_per_tenant=cap)
    world: World = make_world(slots=1, policy=policy)
    world.store.exclusive = exclusive
    world.start()
    first = world.submit("cooperates")
    world.first_partial(first)
    waiting = [world.submit("fine") for _ in range(3)]
    commits: list[list[str]] = []

    def watched(write: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watching(fn: Any) -> Any:
            saved: list[str] = []
            commits.append(saved)
            return write(lambda tx: fn(Watched(tx, saved)))

        return watching

    # An end is waited for in another way than most writes.
    for name in ("write", "write_soon"):
        setattr(world.store._store, name, watched(getattr(world.store._store, name)))
    jobs.cancel(world.rt, ORG, first.job_id, by="tests", reason=None)

    assert {world.ended(job).status for job in waiting} == {JobStatus.COMPLETED}
    ends = [saved for saved in commits if "completed" in saved]
    assert ends == ([["completed", "running"]] * 2 + [["completed"]] if takes else [["completed"]] * 3)
