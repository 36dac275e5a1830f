"""Queue wait and fairness at sizes that no test machine has: ``python -m bench.simulate --help``.

Three loads, each served twice: in the service's own order and, to compare, in the order of arrival. The load and
every length of a job are drawn once per load, so the two differ in the order alone, and the flood is the steady load
with a flood in it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from random import Random

from bench.figures import percentile
from bench.simulate_queue import ArrivalQueue, FairQueue, Queue
from bench.simulate_run import Served, Wanted, fairness, flood, run, steady, tenant_name, until, zipf

FLOODING = 10
ORDERS: dict[str, Callable[[], Queue]] = {"fair": FairQueue, "arrival": ArrivalQueue}
_HEAD = ("load", "order", "tenants", "jobs", "wait p50", "wait p99", "longest", "Jain")


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated. ``seconds`` is how long jobs arrive; all that arrived is served."""

    workers: int = 1_000
    tenants: int = 10_000
    exponent: float = 1.0
    mean_seconds: float = 60.0
    seconds: float = 3_600.0
    flood_jobs: int = 5_000
    seed: int = 1

    def load(self, utilisation: float) -> Iterator[Wanted]:
        """So much of what the workers can do."""
        return until(
            steady(
                Random(self.seed),
                per_second=utilisation * self.workers / self.mean_seconds,
                mean_seconds=self.mean_seconds,
                weights=zipf(self.tenants, self.exponent),
            ),
            self.seconds,
        )

    def flooded(self, utilisation: float) -> Iterator[Wanted]:
        """The same, and after a third of the time the largest tenants submit all at once."""
        burst = flood(
            Random(self.seed + 1),
            at=self.seconds / 3,
            tenants=[tenant_name(rank) for rank in range(min(FLOODING, self.tenants))],
            jobs=self.flood_jobs,
            mean_seconds=self.mean_seconds,
        )
        return merge(self.load(utilisation), burst, key=lambda wanted: wanted.at)


@dataclass(frozen=True, slots=True)
class Row:
    """Waits of one group of tenants under one load in one order. Seconds; ``jain`` is of all tenants together."""

    load: str
    order: str
    group: str
    jobs: int
    p50: float
    p99: float
    longest: float
    jain: float


def groups(served: Sequence[Served]) -> dict[str, list[float]]:
    """Waits by how much a tenant wants: the ten largest, those after them, and those with one job in the whole run."""
    wanted = Counter(one.wanted.tenant for one in served)
    largest = {tenant_name(rank) for rank in range(FLOODING)}
    found: dict[str, list[float]] = {"ten largest": [], "others": [], "one job only": []}
    for one in served:
        tenant = one.wanted.tenant
        name = "ten largest" if tenant in largest else "one job only" if wanted[tenant] == 1 else "others"
        found[name].append(one.waited_seconds)
    return {name: waits for name, waits in found.items() if waits}


def rows(load: str, order: str, served: Sequence[Served], begin: float, end: float) -> list[Row]:
    """One row for each group."""
    index = fairness(served, begin, end)
    return [
        Row(load, order, name, len(waits), percentile(waits, 0.5), percentile(waits, 0.99), max(waits), index)
        for name, waits in groups(served).items()
    ]


def longest_delay(alone: Sequence[Served], flooded: Sequence[Served]) -> float:
    """The most that the flood adds to the wait of any job of a tenant with one job. Seconds."""
    wanted = Counter(one.wanted.tenant for one in alone)
    before = {one.wanted: one.waited_seconds for one in alone if wanted[one.wanted.tenant] == 1}
    return max(one.waited_seconds - before[one.wanted] for one in flooded if one.wanted in before)


def simulate(world: World, tell: Callable[[str], None]) -> tuple[list[Row], dict[str, float]]:
    """All loads in both orders: the rows, and for each order the longest delay of a single job by the flood."""
    found: list[Row] = []
    delays: dict[str, float] = {}
    # Fairness is looked at while more is wanted than there is: half an hour from the flood on.
    third = world.seconds / 3
    for order, queue in ORDERS.items():
        tell(f"{order}: steady, flood, overload")
        alone = run(world.load(0.8), queue(), world.workers)
        found += rows("80 %", order, alone, third, 2 * third)
        flooded = run(world.flooded(0.8), queue(), world.workers)
        found += rows("80 % and a flood", order, flooded, third, 2 * third)
        delays[order] = longest_delay(alone, flooded)
        found += rows("130 %", order, run(world.load(1.3), queue(), world.workers), third, 2 * third)
    return found, delays


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def table(found: Sequence[Row]) -> str:
    """Markdown that also reads well in a terminal; a load's two orders beneath each other."""
    loads = list(dict.fromkeys(row.load for row in found))
    ordered = sorted(found, key=lambda row: loads.index(row.load))
    cells = [_HEAD] + [
        (
            row.load,
            row.order,
            row.group,
            f"{row.jobs:,}",
            *map(_seconds, (row.p50, row.p99, row.longest)),
            f"{row.jain:.3f}",
        )
        for row in ordered
    ]
    widths = [max(len(line[place]) for line in cells) for place in range(len(_HEAD))]
    lines = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _world() -> World:
    default = World()
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulate",
        description="Simulate queue wait and fairness with many workers and tenants, by the service's own dispatch.",
        epilog="The table goes to stdout, progress to stderr. The same seed gives the same table.",
    )
    parser.add_argument(
        "--workers", type=int, default=default.workers, metavar="N", help="slots over all machines"
    )
    parser.add_argument("--tenants", type=int, default=default.tenants, metavar="N", help="at least 20")
    parser.add_argument(
        "--exponent", type=float, default=default.exponent, metavar="S", help="of Zipf's law over the tenants"
    )
    parser.add_argument(
        "--mean-seconds", type=float, default=default.mean_seconds, metavar="S", help="mean length of a job"
    )
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, metavar="S", help="how long jobs arrive"
    )
    parser.add_argument(
        "--flood-jobs",
        type=int,
        default=default.flood_jobs,
        metavar="N",
        help=f"jobs that each of the {FLOODING} largest tenants submits at once",
    )
    parser.add_argument("--seed", type=int, default=default.seed, metavar="N", help="of all chance")
    given = parser.parse_args()
    if given.workers < 1 or given.tenants < 2 * FLOODING or given.flood_jobs < 1:
        parser.error("--workers and --flood-jobs must be at least 1, --tenants at least 20")
    if min(given.mean_seconds, given.seconds) <= 0 or given.exponent < 0:
        parser.error("--mean-seconds and --seconds must be positive, --exponent not negative")
    return World(**vars(given))


def main() -> int:
    """Simulate and print."""
    world = _world()
    began = time.perf_counter()
    found, delays = simulate(world, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(found))
    print()
    for order, delay in delays.items():
        print(
            f"{order}: the flood delays the one job of another tenant by at most {_seconds(delay)}, "
            f"{delay / world.mean_seconds:.2f} mean lengths of a job"
        )
    print(f"took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
