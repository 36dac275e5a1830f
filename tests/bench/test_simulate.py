"""The simulation: right where theory knows the answer, and fair as the service promises to be."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from random import Random

import pytest

from bench.simulate import World, simulate, table
from bench.simulate_queue import ArrivalQueue, FairQueue, Queue
from bench.simulate_run import (
    Served,
    Wanted,
    fairness,
    flood,
    jain,
    max_min_shares,
    run,
    steady,
    until,
    zipf,
)
from tests.docs.pages import ROOT


def erlang_c(slots: int, offered: float) -> float:
    """The share of jobs that wait in M/M/c (Erlang, 1917); ``offered`` is arrival rate times mean length."""
    last = offered**slots / math.factorial(slots) * slots / (slots - offered)
    return last / (sum(offered**n / math.factorial(n) for n in range(slots)) + last)


@pytest.mark.parametrize("order", [ArrivalQueue, FairQueue])
def test_waits_are_those_of_the_known_queue(order: Callable[[], Queue]) -> None:
    # Whoever is next, as long as no slot idles and lengths are not looked at: the mean wait is that of M/M/c.
    slots, mean_seconds, utilisation, rounds = 4, 10.0, 0.7, 12
    waits: list[float] = []
    waited: list[float] = []
    for seed in range(rounds):
        load = steady(
            Random(seed),
            per_second=utilisation * slots / mean_seconds,
            mean_seconds=mean_seconds,
            weights=zipf(50, 1.0),
        )
        served = run(until(load, 10_000.0), order(), slots)
        settled = [one for one in served if one.wanted.at > 1_000.0]
        waits.append(statistics.fmean(one.waited_seconds for one in settled))
        waited.append(statistics.fmean(one.waited_seconds > 0 for one in settled))

    probability = erlang_c(slots, utilisation * slots)
    for values, known in (
        (waits, probability * mean_seconds / (slots * (1 - utilisation))),
        (waited, probability),
    ):
        # Student's t for twelve rounds: 999 of 1000 intervals hold the true mean.
        half = 4.437 * statistics.stdev(values) / math.sqrt(rounds)
        assert abs(statistics.fmean(values) - known) < half
        assert half < 0.2 * known  # or the line above would let anything through


def test_every_job_is_served_once_and_no_slot_idles_while_one_waits() -> None:
    jobs = [Wanted(at, "a", seconds) for at, seconds in ((0, 10), (1, 10), (2, 4), (3, 1), (30, 5))]

    served = run(jobs, FairQueue(), 2)

    assert [(one.wanted, one.started_at) for one in served] == list(
        zip(jobs, (0, 1, 10, 11, 30), strict=True)
    )


@pytest.mark.parametrize("slots", [2, 20])
@pytest.mark.parametrize("mean_seconds", [1.0, 60.0])
def test_ten_thousand_jobs_of_one_tenant_delay_anothers_single_job_by_one_jobs_length(
    slots: int, mean_seconds: float
) -> None:
    chance = Random(slots)
    load = flood(chance, at=0.0, tenants=["big"], jobs=10_000, mean_seconds=mean_seconds)
    end = 10_000 * mean_seconds / slots
    singles = [Wanted(chance.uniform(0.0, 0.8 * end), f"single-{n}", mean_seconds) for n in range(50)]

    served = run(sorted(load + singles, key=lambda wanted: wanted.at), FairQueue(), slots)

    for one in (one for one in served if one.wanted.tenant != "big"):
        running = [
            other.wanted.seconds
            for other in served
            if other.started_at <= one.wanted.at < other.started_at + other.wanted.seconds
        ]
        assert one.waited_seconds <= max(running)
        assert passed_by(one, served) <= 1


def test_with_one_slot_it_waits_for_what_runs_and_for_one_more() -> None:
    load = [Wanted(0.0, "big", 10.0)] * 100
    single = Wanted(123.0, "single", 10.0)

    served = run([*load, single], FairQueue(), 1)

    (one,) = [one for one in served if one.wanted is single]
    assert one.waited_seconds == 7.0 + 10.0
    assert passed_by(one, served) == 1


def passed_by(one: Served, served: list[Served]) -> int:
    """How many of the tenant with the flood started while this one waited."""
    return sum(
        other.wanted.tenant == "big" and one.wanted.at < other.started_at <= one.started_at
        for other in served[: served.index(one)]
    )


def test_in_the_order_of_arrival_the_single_job_waits_for_the_whole_flood() -> None:
    load = flood(Random(1), at=0.0, tenants=["big"], jobs=1_000, mean_seconds=10.0)

    *_, last = run([*load, Wanted(1.0, "single", 10.0)], ArrivalQueue(), 10)

    assert last.wanted.tenant == "single"
    assert last.waited_seconds > 500


def test_a_share_is_what_nobody_with_less_would_miss() -> None:
    assert max_min_shares({"a": 2, "b": 3, "c": 8, "d": 9}, 12) == {"a": 2, "b": 3, "c": 3.5, "d": 3.5}
    assert max_min_shares({"a": 2, "b": 3}, 100) == {"a": 2, "b": 3}


def test_jains_index_goes_from_one_of_many_to_all_alike() -> None:
    assert jain([3.0, 3.0, 3.0]) == 1.0
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_fairness_counts_what_was_wanted_and_got_in_its_window() -> None:
    def one(tenant: str, at: float, started_at: float) -> Served:
        return Served(Wanted(at, tenant, 1.0), started_at)

    fair = [one("a", 0, 10), one("b", 0, 10), one("a", 0, 30), one("b", 0, 30)]
    unfair = [one("a", 0, 10), one("a", 0, 10), one("b", 0, 30), one("b", 0, 30)]

    assert fairness(fair, 5, 20) == 1.0
    assert fairness(unfair, 5, 20) == 0.5


def test_a_flood_is_borne_by_those_who_made_it() -> None:
    world = World(
        workers=50, tenants=500, mean_seconds=60.0, seconds=1_800.0, flood_jobs=100, exponent=1.0, seed=3
    )

    rows, delays = simulate(world, lambda _: None)

    jain_of = {(row.load, row.order): row.jain for row in rows}
    assert jain_of["80 % and a flood", "fair"] > 0.95
    assert jain_of["80 % and a flood", "arrival"] < 0.3
    assert delays["fair"] < world.mean_seconds < delays["arrival"]
    single = {row.order: row for row in rows if (row.load, row.group) == ("130 %", "one job only")}
    assert single["fair"].p99 < single["arrival"].p50
    assert simulate(world, lambda _: None) == (rows, delays)  # the same seed, the same figures
    assert len(table(rows).splitlines()) == len(rows) + 2


@pytest.mark.long
def test_the_page_on_scaling_has_the_table_that_the_simulation_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "bench.simulate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout

    page = (ROOT / "docs/explanation/scaling.md").read_text()
    for line in printed.strip().splitlines():
        assert line in page
