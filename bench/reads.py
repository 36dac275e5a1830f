"""Reads per second of what clients ask for most: a permalink, its 304, a job's status; beside a bare ASGI answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench import targets
from bench.figures import Figure, Sense
from bench.lab import NOOP, RESULT_BYTES, SLOTS, Lab, check, in_turn, post, say
from bench.load import Connection, LoadError, Request
from bench.server import Running, bare, service


@dataclass(frozen=True, slots=True)
class _Read:
    name: str
    request: Request
    status: int
    ours: list[tuple[float, float]] = field(default_factory=list)
    floor: list[tuple[float, float]] = field(default_factory=list)

    def figure(self, lab: Lab, size: int, started: str) -> Figure:
        what = f"{self.status} with {size} bytes" if size else f"{self.status} without a body"
        return Figure(
            self.name,
            "/s",
            Sense.RATE,
            tuple(rate for rate, _ in self.ours),
            f"GET {self.request.path.rpartition('/')[0]}/…, {what}, always the same; {lab.generator}; {started} with "
            f"one job stored. Limit: a bare ASGI application on the same uvicorn settings (uvloop, "
            "httptools, no access log) that answers the same status and as many bytes",
            tuple(rate for rate, _ in self.floor),
            "bare ASGI",
            targets.of(self.name),
            tuple(cost for _, cost in self.ours),
            tuple(cost for _, cost in self.floor),
        )


def run(lab: Lab) -> list[Figure]:
    """Three figures, each beside its own floor."""
    with service(lab.folder("reads"), "--slots", str(SLOTS)) as server:
        return measure(lab, server, f"serve --slots {SLOTS}")


def measure(lab: Lab, server: Running, started: str) -> list[Figure]:
    """The same of a service that runs already, with workers. ``started``: how, for people."""
    reads = _reads(server)
    sizes = [check(server, read.request, read.status) for read in reads]
    answers = [f"{read.status}:{size}" for read, size in zip(reads, sizes, strict=True)]
    options = [text for answer in answers for text in ("--answer", answer)]
    with bare(lab.folder("bare"), *options) as floor:
        for number in range(lab.rounds):
            say(f"reads: round {number + 1} of {lab.rounds}")
            for place, read in enumerate(reads):

                def ours(read: _Read = read) -> None:
                    measured = lab.put_under_load(server, read.request, read.status)
                    read.ours.append((measured.load.per_second, measured.cpu_us))

                def limit(read: _Read = read, place: int = place) -> None:
                    measured = lab.put_under_load(floor, Request(f"/{place}"), read.status)
                    read.floor.append((measured.load.per_second, measured.cpu_us))

                in_turn(number, (limit, ours))
    return [read.figure(lab, size, started) for read, size in zip(reads, sizes, strict=True)]


def _reads(server: Running) -> list[_Read]:
    """The three requests, for one completed job with a result of about 4 KiB."""
    body = {**NOOP, "params": {"stages": 0, "payload_bytes": RESULT_BYTES - 100}}
    with Connection(server.port) as connection:
        done = connection.ask(post(body, Prefer="wait=30"))
        if done.status != 200:
            raise LoadError(f"the job to be read did not complete: {done.status} {done.body[:500]!r}")
        told = done.json()
        permalink = f"/analyze/results/{told['result_id']}"
        etag = connection.ask(Request(permalink)).headers["etag"]
    return [
        _Read("permalink, 4 KiB", Request(permalink), 200),
        _Read("permalink, 304", Request(permalink, headers={"If-None-Match": etag}), 304),
        _Read("job status", Request(f"/analyze/jobs/{told['job_id']}"), 200),
    ]
