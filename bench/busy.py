"""What reads take while two attempts keep the processors busy, beside the same reads of an idle server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench import analyses, targets
from bench.figures import Figure, Sense, percentile
from bench.lab import ASYNC, NOOP, RESULT_BYTES, SLOTS, Lab, check, in_turn, post, say
from bench.load import Connection, LoadError, Request
from bench.server import Running, service

# Between two reads, so that what is measured is one request's way and no queue of the load itself.
_PAUSE_SECONDS = 0.002
_BUSY_SECONDS = 600.0
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Read:
    name: str
    request: Request
    idle: list[tuple[float, float]] = field(default_factory=list)
    busy: list[tuple[float, float]] = field(default_factory=list)

    def measure(self, server: Running, seconds: float, into: list[tuple[float, float]]) -> None:
        """p50 and p99 in milliseconds."""
        wire, took = self.request.encode(server.port), []
        until = time.perf_counter() + seconds
        with Connection(server.port) as connection:
            while (begin := time.perf_counter()) < until:
                answer = connection.exchange(wire)
                took.append(time.perf_counter() - begin)
                if answer.status != 200:
                    raise LoadError(f"{self.request.path}: {answer.status}")
                time.sleep(_PAUSE_SECONDS)
        into.append((percentile(took, 0.5) * 1e3, percentile(took, 0.99) * 1e3))


def run(lab: Lab) -> list[Figure]:
    """Both reads, both percentiles."""
    with service(lab.folder("busy"), "--slots", str(SLOTS), *analyses.options("busy")) as server:
        reads = _reads(server)

        def idle() -> None:
            for read in reads:
                read.measure(server, lab.seconds, read.idle)

        def busy() -> None:
            with Connection(server.port) as connection:
                jobs = _start(connection)
                for read in reads:
                    read.measure(server, lab.seconds, read.busy)
                _stop(connection, jobs)

        for number in range(lab.rounds):
            say(f"busy: round {number + 1} of {lab.rounds}")
            in_turn(number, (idle, busy))
    return [
        _figure(read, place, f"{read.name} {share} beside two busy attempts", lab)
        for read in reads
        for place, share in enumerate(("p50", "p99"))
    ]


def _reads(server: Running) -> list[_Read]:
    body = {**NOOP, "params": {"stages": 0, "payload_bytes": RESULT_BYTES - 100}}
    with Connection(server.port) as connection:
        told = connection.ask(post(body, Prefer="wait=30")).json()
    reads = [
        _Read("job status", Request(f"/analyze/jobs/{told['job_id']}")),
        _Read("permalink", Request(f"/analyze/results/{told['result_id']}")),
    ]
    for read in reads:
        check(server, read.request, 200)
    return reads


def _start(connection: Connection) -> list[str]:
    body = {"analysis": "bench-busy", "params": {"seconds": _BUSY_SECONDS}, "options": ASYNC}
    jobs = [str(connection.ask(post(body)).json()["job"]["job_id"]) for _ in range(SLOTS)]
    for job in jobs:
        _await(connection, job, "running")
    return jobs


def _stop(connection: Connection, jobs: list[str]) -> None:
    for job in jobs:
        connection.ask(
            Request(f"/analyze/jobs/{job}/cancel", "POST", {"Content-Type": "application/json"}, b"{}")
        )
    for job in jobs:
        _await(connection, job, "canceled")


def _await(connection: Connection, job: str, status: str) -> None:
    until = time.perf_counter() + _SETTLE_SECONDS
    while (found := connection.ask(Request(f"/analyze/jobs/{job}")).json()["job"]["status"]) != status:
        if time.perf_counter() > until:
            raise LoadError(f"job {job} is {found}, not {status}")
        time.sleep(0.01)


def _figure(read: _Read, place: int, name: str, lab: Lab) -> Figure:
    return Figure(
        name,
        "ms",
        Sense.COST,
        tuple(both[place] for both in read.busy),
        f"one keep-alive connection that asks, waits {_PAUSE_SECONDS * 1e3:g} ms and asks again for {lab.seconds:g} s, "
        f"on the same cores; serve --slots {SLOTS}, in which {SLOTS} attempts of a busy analysis run. Limit: the same "
        "server while nothing runs",
        tuple(both[place] for both in read.idle),
        "idle",
        targets.of(name),
    )
