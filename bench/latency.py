"""From the submit of a job that does nothing to its completion, one job at a time."""

from __future__ import annotations

import time

from bench import rawsqlite, rows, targets
from bench.figures import Figure, Sense, percentile
from bench.lab import NOOP, SLOTS, Lab, in_turn, post, say
from bench.load import Connection, LoadError, Request
from bench.server import Running, service
from bench.submits import sample_rows

# The answer is held until the job has ended: what a client waits for, without polling.
_SUBMIT = post(NOOP, Prefer="wait=30")
COMMITS = 3
WARM_UP = 20


def time_jobs(server: Running, count: int, submit: Request = _SUBMIT) -> list[float]:
    """Seconds from submit to the completed job's result, for ``count`` jobs. ``submit`` has to wait for it."""
    wire = submit.encode(server.port)
    took = []
    with Connection(server.port) as connection:
        for _ in range(count):
            begin = time.perf_counter()
            answer = connection.exchange(wire)
            took.append(time.perf_counter() - begin)
            if answer.status != 200:
                raise LoadError(f"a job did not complete in time: {answer.status} {answer.body[:500]!r}")
    return took


def run(lab: Lab) -> list[Figure]:
    """p50 and p99 in milliseconds."""
    made_from = sample_rows(lab)
    writes = rows.writes(made_from, lab.samples * COMMITS)
    ours: list[list[float]] = []
    raw: list[list[float]] = []
    cpu: list[float] = []

    with service(lab.folder("latency"), "--slots", str(SLOTS)) as server:
        time_jobs(server, WARM_UP)

        def measure_service() -> None:
            before = server.cpu_seconds()
            ours.append(time_jobs(server, lab.samples))
            cpu.append((server.cpu_seconds() - before) / lab.samples * 1e6)

        def measure_raw() -> None:
            single = rawsqlite.one_by_one(lab.folder("raw") / "raw.sqlite3", made_from.schema, writes)
            raw.append([sum(single[at : at + COMMITS]) for at in range(0, len(single), COMMITS)])

        for number in range(lab.rounds):
            say(f"latency: round {number + 1} of {lab.rounds}")
            in_turn(number, (measure_service, measure_raw))

    def milliseconds(samples: list[list[float]], share: float) -> tuple[float, ...]:
        return tuple(percentile(took, share) * 1e3 for took in samples)

    settings = (
        "POST /analyze with Prefer: wait=30, selftest without stages, answered with its result; one blocking "
        f"keep-alive connection, {lab.samples} jobs per round after {WARM_UP} to warm up; serve --slots {SLOTS}. "
        f"The client shares the cores (some 20 µs a job). Limit: {COMMITS} durable SQLite commits one after "
        "another, as submit, claim and complete are"
    )
    limit = f"{COMMITS} commits in a row"
    return [
        Figure(
            "submit → completed, p50",
            "ms",
            Sense.COST,
            milliseconds(ours, 0.5),
            settings,
            milliseconds(raw, 0.5),
            limit,
            None,
            tuple(cpu),
        ),
        Figure(
            "submit → completed, p99",
            "ms",
            Sense.COST,
            milliseconds(ours, 0.99),
            "The same jobs",
            milliseconds(raw, 0.99),
            limit,
            targets.of("submit → completed, p99"),
        ),
    ]
