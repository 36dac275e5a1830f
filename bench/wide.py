"""Width instead of length: a job with 10,000 partial results, and a queue of 10,000 tenants."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from async_delivery.domain import lifecycle
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runtime import SystemClock, new_id
from async_delivery.storage.contract import Store
from async_delivery.storage.opening import Mode, create_store, open_store
from bench import analyses
from bench.figures import TIMES, Figure, Sense, Target, percentile
from bench.lab import ASYNC, SLOTS, Lab, in_turn, post, say
from bench.load import Connection, LoadError, Request
from bench.server import Running, service
from bench.simulate_costs import claim, complete, fresh

_DONE_SECONDS = 600.0
_FEW_TENANTS = 100


def run(lab: Lab) -> list[Figure]:
    """Partials over HTTP, tenants in a store."""
    return [*_partials(lab), *_tenants(lab)]


# ---------------------------------------------------------------- partial results
@dataclass(slots=True)
class _Job:
    """One length of job. ``reads``: name -> p50 in milliseconds, one per round."""

    partials: int
    rates: list[float] = field(default_factory=list)
    reads: dict[str, list[float]] = field(
        default_factory=lambda: {"job status": [], "permalink": [], "results": []}
    )

    def measure(self, server: Running, samples: int) -> None:
        body = {"analysis": "bench-partials", "params": {"count": self.partials}, "options": ASYNC}
        with Connection(server.port) as connection:
            begin = time.perf_counter()
            job = connection.ask(post(body)).json()["job"]["job_id"]
            ended = _ended(connection, job)
            self.rates.append(self.partials / (time.perf_counter() - begin))
            if ended["partial_count"] != self.partials:
                raise LoadError(f"{ended['partial_count']} partial results are kept, not {self.partials}")
            paths = {
                "job status": f"/analyze/jobs/{job}",
                "permalink": f"/analyze/results/{ended['result_id']}",
                "results": f"/analyze/jobs/{job}/results?limit=50",
            }
            for name, path in paths.items():
                self.reads[name].append(_p50(connection, Request(path), samples))


def _ended(connection: Connection, job: str) -> dict[str, object]:
    until = time.perf_counter() + _DONE_SECONDS
    while True:
        told: dict[str, object] = connection.ask(Request(f"/analyze/jobs/{job}")).json()["job"]
        if told["status"] == "completed":
            return told
        if told["status"] in ("failed", "canceled") or time.perf_counter() > until:
            raise LoadError(f"the job with partial results is {told['status']}: {told['error_message']}")
        # Rarely: the status of a job with many events is what is measured afterwards, not now.
        time.sleep(0.1)


def _p50(connection: Connection, request: Request, samples: int) -> float:
    took = []
    for _ in range(samples):
        begin = time.perf_counter()
        if (answer := connection.ask(request)).status != 200:
            raise LoadError(f"{request.path}: {answer.status} {answer.body[:300]!r}")
        took.append(time.perf_counter() - begin)
    return percentile(took, 0.5) * 1e3


def _partials(lab: Lab) -> list[Figure]:
    short, long = _Job(max(1, lab.partials // 100)), _Job(lab.partials)
    with service(lab.folder("partials"), "--slots", str(SLOTS), *analyses.options("partials")) as server:
        for number in range(lab.rounds):
            say(f"wide: partials: round {number + 1} of {lab.rounds}")
            in_turn(number, [_measuring(job, server, lab.samples // 3) for job in (short, long)])
    beside = f"a job with {short.partials:,}"
    return [
        Figure(
            f"partial results of one job, {long.partials:,} in a row",
            "/s",
            Sense.RATE,
            tuple(long.rates),
            "one analysis publishes them as fast as it can, each kept durably under a permalink of its own; from the "
            f"submit until the job is completed; serve --slots {SLOTS}",
            tuple(short.rates),
            beside,
        ),
        *(
            Figure(
                f"{name} of a job with {long.partials:,} partial results, p50",
                "ms",
                Sense.COST,
                tuple(long.reads[name]),
                f"{lab.samples // 3} reads over one connection once it is completed"
                + (", its first 50" if name == "results" else ""),
                tuple(short.reads[name]),
                beside,
            )
            for name in long.reads
        ),
    ]


def _measuring(job: _Job, server: Running, samples: int) -> Callable[[], None]:
    return lambda: job.measure(server, samples)


# ---------------------------------------------------------------- tenants
@dataclass(slots=True)
class _Queue:
    """A store in which as many jobs wait, of few or many tenants; operation -> median ms, one per round."""

    store: Store
    tenants: int
    took: dict[str, list[float]] = field(default_factory=lambda: {"submit": [], "claim": []})

    def submit(self, number: int) -> None:
        job, request = fresh(number, SystemClock().now())
        job = replace(job, org_id=OrgId(f"tenant-{number % self.tenants:06d}"))
        self.store.write(lambda tx: tx.save(lifecycle.submit(job, request, new_id)))

    def fill(self, waiting: int) -> None:
        """Many in one commit, as a thousand clients at once would have it."""
        now = SystemClock().now()
        for start in range(0, waiting, 500):
            changes = []
            for number in range(start, min(start + 500, waiting)):
                job, request = fresh(number, now)
                job = replace(job, org_id=OrgId(f"tenant-{number % self.tenants:06d}"))
                changes.append(lifecycle.submit(job, request, new_id))
            self.store.write(lambda tx, changes=changes: [tx.save(change) for change in changes])  # type: ignore[misc]

    def one(self, number: int, into: dict[str, list[float]]) -> None:
        begin = time.perf_counter()
        self.submit(number)
        into["submit"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        (job,) = claim(self.store)
        into["claim"].append(time.perf_counter() - begin)
        complete(self.store, job)


def _tenants(lab: Lab) -> list[Figure]:
    few, many = (_queue(lab, tenants) for tenants in (_FEW_TENANTS, lab.tenants))
    try:
        for queue in (few, many):
            queue.fill(lab.tenants)
        numbers = iter(range(lab.tenants, 10**9))
        for round_number in range(lab.rounds):
            say(f"wide: tenants: round {round_number + 1} of {lab.rounds}")
            samples = [{"submit": [], "claim": []}, {"submit": [], "claim": []}]  # type: list[dict[str, list[float]]]
            for _ in range(lab.samples):
                number = next(numbers)
                in_turn(
                    number,
                    [_one(queue, number, into) for queue, into in zip((few, many), samples, strict=True)],
                )
            for queue, into in zip((few, many), samples, strict=True):
                for name, took in into.items():
                    queue.took[name].append(percentile(took, 0.5) * 1e3)
    finally:
        few.store.close()
        many.store.close()
    return [
        Figure(
            f"{name} among {lab.tenants:,} tenants",
            "ms",
            Sense.COST,
            tuple(many.took[name]),
            f"the median of {lab.samples} in this process on SQLite, without HTTP, with its durable commit; "
            f"{lab.tenants:,} jobs wait, one of each tenant. Limit: as many jobs wait, of {_FEW_TENANTS} tenants",
            tuple(few.took[name]),
            f"among {_FEW_TENANTS}",
            Target(f"≤ 1.2 {TIMES} among {_FEW_TENANTS}", bound=1.2),
        )
        for name in many.took
    ]


def _queue(lab: Lab, tenants: int) -> _Queue:
    folder = lab.folder("tenants")
    file = create_store(folder / "store.v1.json", None, store_id=new_id(), now=SystemClock().now())
    return _Queue(open_store(file.path, Mode.SERVE), tenants)


def _one(queue: _Queue, number: int, into: dict[str, list[float]]) -> Callable[[], None]:
    return lambda: queue.one(number, into)
