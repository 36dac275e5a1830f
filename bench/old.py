"""A server on a store with a long past: how long it takes to be there, and how fast it reads what is old."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench import rows, targets
from bench.figures import Figure, Sense
from bench.lab import SLOTS, Lab, check, in_turn, say
from bench.load import Request
from bench.server import Running, bare, service

# Results that are read, from all that have not expired.
_READ = 20_000
# A day less than the time that results are kept.
_YOUNG_SECONDS = 6 * 86_400
_COUNT = "SELECT count(*) FROM jobs"
_KEPT = """SELECT r.result_id, r.org_id FROM results r JOIN jobs j ON j.job_id = r.job_id
 WHERE j.finished_at > ? AND r.deleted_at IS NULL"""
_OPTIONS = ("--slots", str(SLOTS), "--cleanup-schedule", "off")


def run(lab: Lab, small: Path, large: Path) -> list[Figure]:
    """On the store files of two SQLite stores that nobody uses now and in which no job waits."""
    return [_start(lab, small, large), _reads(lab, large)]


def _jobs(file: Path) -> int:
    with closing(sqlite3.connect(rows.database_of(file))) as connection:
        return int(connection.execute(_COUNT).fetchone()[0])


def _start(lab: Lab, small: Path, large: Path) -> Figure:
    took: dict[Path, list[float]] = {small: [], large: []}

    def starting(file: Path) -> Callable[[], None]:
        def start() -> None:
            with service(file.parent, *_OPTIONS, probe="/health/ready") as server:
                took[file].append(server.ready_seconds)

        return start

    for number in range(lab.rounds):
        say(f"growth: start: round {number + 1} of {lab.rounds}")
        in_turn(number, (starting(small), starting(large)))
    name = f"cold start to ready at {lab.stored[-1]:,} jobs, SQLite"
    return Figure(
        name,
        "s",
        Sense.COST,
        tuple(took[large]),
        f"serve --slots {SLOTS} on the store, which was closed in order, from the start of the process to the first "
        f"200 on /health/ready (asked every 5 ms); {_jobs(large):,} jobs in it. Limit: the same with {_jobs(small):,}",
        tuple(took[small]),
        f"at {lab.stored[0]:,}",
        targets.of(name),
    )


def _young(file: Path) -> list[tuple[str, str]]:
    """Paths and tenants of results that are still to be had, in no order."""
    since = time.time_ns() // 1_000 - _YOUNG_SECONDS * 1_000_000
    with closing(sqlite3.connect(rows.database_of(file))) as connection:
        found = connection.execute(_KEPT, (since,)).fetchall()
    chosen = random.Random(1).sample(found, min(_READ, len(found)))
    return [(f"/analyze/results/{result_id}", str(org_id)) for result_id, org_id in chosen]


def _reads(lab: Lab, file: Path) -> Figure:
    others = _young(file)
    ours: list[tuple[float, float]] = []
    limits: list[tuple[float, float]] = []
    path, tenant = others[0]
    request = Request(path, headers={"X-Org-Id": tenant})
    with service(file.parent, *_OPTIONS, probe="/health/ready") as server:
        size = check(server, request, 200)
        with bare(lab.folder("bare"), "--answer", f"200:{size}") as floor:

            def measure(where: Running, asked: Request, into: list[tuple[float, float]], among: bool) -> None:
                measured = lab.put_under_load(where, asked, 200, others=others if among else ())
                into.append((measured.load.per_second, measured.cpu_us))

            for number in range(lab.rounds):
                say(f"growth: random permalinks: round {number + 1} of {lab.rounds}")
                in_turn(
                    number,
                    (
                        lambda: measure(server, request, ours, True),
                        lambda: measure(floor, Request("/0"), limits, False),
                    ),
                )
    name = f"random permalinks at {lab.stored[-1]:,} jobs, SQLite"
    return Figure(
        name,
        "/s",
        Sense.RATE,
        tuple(rate for rate, _ in ours),
        f"GET of {len(others):,} results of 4 KiB in turn, chosen at random among those of the last "
        f"{_YOUNG_SECONDS // 86_400} days, of all tenants; {lab.generator}; serve --slots {SLOTS}. Limit: a bare ASGI "
        f"application that answers {size} bytes, always the same",
        tuple(rate for rate, _ in limits),
        "bare ASGI",
        targets.of(name),
        tuple(cost for _, cost in ours),
        tuple(cost for _, cost in limits),
    )
