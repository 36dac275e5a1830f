"""What every group of figures shares: the scratch folder, the number of rounds, the load generator, what is asked.

No figure lives here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

from bench.load import Connection, Load, LoadError, Request, from_python, from_wrk
from bench.server import Running

T = TypeVar("T")

CONNECTIONS = 16
SLOTS = 2
RESULT_BYTES = 4096
# Selftest with no stages: accepted, claimed, run in a child, completed, with nothing done in between.
NOOP = {"analysis": "selftest", "params": {"stages": 0}}
ASYNC = {"async_mode": {"requested": True}}


def post(body: object, **headers: str) -> Request:
    """A submit. Header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    wire = json.dumps(body, separators=(",", ":")).encode()
    return Request("/analyze", "POST", {"Content-Type": "application/json", **named}, wire)


@dataclass(frozen=True, slots=True)
class Measured:
    """One step of one round: operations per second, and CPU microseconds of the server's processes for each."""

    load: Load
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Lab:
    """How this run measures.

    scratch   an own folder on the disk that is measured, removed at the end
    rounds    values per figure
    seconds   length of one step under load
    samples   operations one at a time, per round
    jobs      jobs end to end, per round
    stored    sizes of the stores that growth is measured on, the one to compare with first
    peer_jobs jobs end to end beside a peer, per round
    partials  partial results of the job with most of them
    tenants   of the queue with most of them
    cleaned   results in the store that is cleaned, with five events each
    missing   what this run could not measure, with the reason
    wrk       path of wrk; None means the load comes from Python and costs more of the shared cores
    """

    scratch: Path
    rounds: int
    seconds: float
    idle_seconds: float
    samples: int
    jobs: int
    raw_writes: int
    child_rows: int
    wrk: str | None
    stored: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    peer_jobs: int = 400
    partials: int = 10_000
    tenants: int = 10_000
    cleaned: int = 200_000
    missing: dict[str, str] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def folder(self, name: str) -> Path:
        """A new folder below the scratch folder."""
        made = self.scratch / f"{next(self._numbers):03d}-{name}"
        made.mkdir(parents=True)
        return made

    def skip(self, what: str, why: str) -> None:
        """Name what is not measured, so that nobody takes its absence for a good sign."""
        self.missing[what] = why
        say(f"not measured: {what}: {why}")

    @property
    def generator(self) -> str:
        """The load generator, in words."""
        load = "wrk -t1" if self.wrk else "built-in asyncio client (wrk is not installed), one thread"
        return f"{load}, {CONNECTIONS} keep-alive connections, {self.seconds:g} s"

    def put_under_load(
        self,
        server: Running,
        request: Request,
        expected: int,
        connections: int = CONNECTIONS,
        others: Sequence[tuple[str, str]] = (),
    ) -> Measured:
        """Ask for ``seconds`` over all connections, ``others`` (paths and tenants) in turn if there are any.

        Raises LoadError unless the answers are what was expected.
        """
        check(server, request, expected)
        cpu = server.cpu_seconds()
        if self.wrk:
            load = from_wrk(
                self.wrk,
                server.port,
                request,
                seconds=self.seconds,
                scratch=self.scratch,
                connections=connections,
                others=others,
            )
        else:
            load = from_python(
                server.port, request, expected, connections=connections, seconds=self.seconds, others=others
            )
        return Measured(load, (server.cpu_seconds() - cpu) / load.requests * 1e6)


def check(server: Running, request: Request, expected: int) -> int:
    """Ask once; the length of the body. Raises LoadError unless the answer has the expected status."""
    with Connection(server.port) as connection:
        answer = connection.ask(request)
    if answer.status != expected:
        raise LoadError(
            f"{request.method} {request.path}: {answer.status}, not {expected}: {answer.body[:500]!r}"
        )
    return len(answer.body)


def in_turn(round_number: int, steps: Sequence[Callable[[], None]]) -> None:
    """The steps of one round; every other round goes backwards, so that a drift of the machine favours none."""
    for step in steps if round_number % 2 == 0 else reversed(steps):
        step()


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the table."""
    print(text, file=sys.stderr, flush=True)
