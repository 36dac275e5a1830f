"""The events of the simulation: jobs arrive, wait in a queue, take a slot for a while. Seeded; no clock, no I/O.

A load says when which tenant wants a job and how long it takes; ``run`` gives it to a number of slots and says how
long each job waited. A slot that becomes free takes the next job at once: what the way to the database costs is
measured elsewhere and is small against jobs of seconds.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from bench.simulate_queue import Queue


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job to come: when it is submitted, by whom, and how long it takes. Seconds."""

    at: float
    tenant: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """A job that has started."""

    wanted: Wanted
    started_at: float

    @property
    def waited_seconds(self) -> float:
        """From submit to start."""
        return self.started_at - self.wanted.at


def tenant_name(rank: int) -> str:
    """The tenant of a rank; 0 is the one that wants most."""
    return f"t{rank:05d}"


def steady(
    chance: Random, *, per_second: float, mean_seconds: float, weights: Sequence[float]
) -> Iterator[Wanted]:
    """Poisson arrivals without end, tenants in proportion to ``weights``, exponential lengths."""
    sums = list(accumulate(weights))
    at = 0.0
    while True:
        at += chance.expovariate(per_second)
        rank = bisect_left(sums, chance.random() * sums[-1])
        yield Wanted(at, tenant_name(rank), chance.expovariate(1 / mean_seconds))


def zipf(tenants: int, exponent: float) -> list[float]:
    """How much each tenant wants: the second half as much as the first, the third a third, and so on, to a power."""
    return [1 / (rank + 1) ** exponent for rank in range(tenants)]


def flood(
    chance: Random, *, at: float, tenants: Iterable[str], jobs: int, mean_seconds: float
) -> list[Wanted]:
    """Each of the tenants wants ``jobs`` jobs in the same moment."""
    return [
        Wanted(at, tenant, chance.expovariate(1 / mean_seconds)) for tenant in tenants for _ in range(jobs)
    ]


def until(load: Iterable[Wanted], end: float) -> Iterator[Wanted]:
    """The part of a load that is submitted before ``end``."""
    for wanted in load:
        if wanted.at >= end:
            return
        yield wanted


def run(load: Iterable[Wanted], queue: Queue, slots: int) -> list[Served]:
    """Serve all of ``load``, which comes in the order of time; the jobs in the order of their start.

    Jobs that are submitted in the same moment take their places one after another, as they do in a store.
    """
    waiting: dict[str, Wanted] = {}
    busy: list[float] = []  # when each busy slot becomes free
    served: list[Served] = []

    def start(now: float) -> None:
        while len(busy) < slots and (taken := queue.take(1)):
            wanted = waiting.pop(taken[0])
            heapq.heappush(busy, now + wanted.seconds)
            served.append(Served(wanted, now))

    def free_until(moment: float) -> None:
        while busy and busy[0] <= moment:
            now = heapq.heappop(busy)
            start(now)

    for number, wanted in enumerate(load):
        free_until(wanted.at)
        job_id = f"{number:09d}"
        waiting[job_id] = wanted
        queue.join(job_id, wanted.tenant)
        start(wanted.at)
    free_until(float("inf"))
    return served


# ---------------------------------------------------------------- what is fair
def max_min_shares(demands: Mapping[str, int], capacity: float) -> dict[str, float]:
    """What each would get if nobody could get more without taking it from one who has less.

    Small demands are met; what they leave is divided among the rest, until nothing is left (Bertsekas and Gallager,
    Data Networks, 1992, section 6.5.2).
    """
    shares: dict[str, float] = {}
    left, claimants = capacity, len(demands)
    for name, demand in sorted(demands.items(), key=lambda item: item[1]):
        shares[name] = min(float(demand), left / claimants)
        left -= shares[name]
        claimants -= 1
    return shares


def jain(values: Sequence[float]) -> float:
    """1 if all are equal, 1/n if one has everything (Jain, Chiu and Hawe, DEC-TR-301, 1984)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def fairness(served: Sequence[Served], begin: float, end: float) -> float:
    """Jain's index of what each tenant got between two moments, as a part of its max-min share.

    A tenant wanted what waited at ``begin`` and what it submitted until ``end``; it got what started in that time.
    """
    wanted = Counter(one.wanted.tenant for one in served if one.wanted.at < end and one.started_at >= begin)
    got = Counter(one.wanted.tenant for one in served if begin <= one.started_at < end)
    shares = max_min_shares(wanted, sum(got.values()))
    return jain([got[tenant] / share for tenant, share in shares.items() if share > 0])
