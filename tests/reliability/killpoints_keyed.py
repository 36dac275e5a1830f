"""A commit path of the engine: a submit with an Idempotency-Key, which its client repeats when it hears nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from async_delivery.storage.contract import JobFilter
from async_delivery.testing import FakeClock
from tests.contract.support import ALPHA, House
from tests.engine.support import runtime, submitted
from tests.reliability.killpoints_paths import CommitPath, furnish, house_in, judged, warm
from tests.reliability.killpoints_paths import submit as submit_again

KEY = "the-key"


@dataclass(frozen=True, slots=True)
class _Keyed:
    house: House

    def submit(self) -> str:
        """The id of the job that the key leads to."""
        rt = runtime(self.house.store, FakeClock(self.house.now))
        return submitted(rt, ALPHA, idempotency_key=KEY, labels={"keyed": "yes"}).job_id

    def jobs(self) -> list[str]:
        """The jobs that were made for it."""
        where = JobFilter(labels={"keyed": "yes"})
        found = self.house.store.read(lambda reader: reader.list_jobs(ALPHA, where, 10, None))
        return [job.job_id for job in found]


def ready(folder: Path) -> _Keyed:
    return _Keyed(warm(folder))


def act(keyed: _Keyed, ack: Callable[[str], None]) -> None:
    ack(f"{keyed.submit()} queued")


def judge(folder: Path, acks: Sequence[str]) -> list[str]:
    """Whole or absent, and one job, however often it is asked for again."""
    wrong = judged(submit_again)(folder, acks)
    keyed = _Keyed(house_in(folder))
    try:
        again = {keyed.submit(), keyed.submit()}
        made = keyed.jobs()
        if len(made) != 1 or again != set(made):
            wrong.append(f"one key has led to the jobs {sorted(again | set(made))}")
        wrong += [f"{line}: and again to another" for line in acks if line.split()[0] not in again]
    finally:
        keyed.house.store.close()
    return wrong


KEYED_PATHS = {"submit-keyed": CommitPath("submit-keyed", furnish, ready, act, judge)}
