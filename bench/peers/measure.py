"""The service beside each peer: they take turns in every round, and each ratio is formed within its round."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TypeVar

from bench import targets
from bench.figures import Figure, Sense, percentile
from bench.lab import CONNECTIONS, NOOP, RESULT_BYTES, SLOTS, Lab, in_turn, post, say
from bench.latency import WARM_UP, time_jobs
from bench.load import LoadError
from bench.peers import processes
from bench.peers.environments import UnavailableError
from bench.peers.over_http import FASTAPI_SUBMIT
from bench.peers.stacks import KINDS, Kind, Peer, fastapi_celery
from bench.pgserver import PostgresServer, postgres, why_not
from bench.server import Running, service
from bench.submits import OPTIONS, SUBMIT, verify
from bench.throughput import complete

T = TypeVar("T")
_SAMPLES = 100
# About 4 KiB, as the peers' jobs return.
WORK = {**NOOP, "params": {"stages": 0, "payload_bytes": RESULT_BYTES - 100}}
_ONE = post(WORK, Prefer="wait=30")
_CELERY_SERVER = "FastAPI + Celery"
_SUBMITS = f"submits, beside {_CELERY_SERVER}"


def run(lab: Lab) -> list[Figure]:
    """What cannot be measured here is named, with the reason, and the others are measured."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        server: PostgresServer | None = None
        if (reason := why_not()) is None:
            server = stack.enter_context(postgres())
        for kind in KINDS:
            try:
                if kind.on_postgres and server is None:
                    raise UnavailableError(reason or "no PostgreSQL")
                figures += _beside(lab, kind, server if kind.on_postgres else None)
            except UnavailableError as exc:
                lab.skip(f"beside {kind.title}", str(exc))
        try:
            figures += _submits(lab)
        except UnavailableError as exc:
            lab.skip(_SUBMITS, str(exc))
    return figures


def _of_peer(do: Callable[[], T]) -> T:
    """A peer that breaks costs its own figures only; the service that breaks ends the run."""
    try:
        return do()
    except LoadError as exc:
        raise UnavailableError(f"it failed: {exc}") from exc


@contextmanager
def _opened(lab: Lab, kind: Kind, server: PostgresServer | None) -> Generator[Peer]:
    with ExitStack() as stack:
        peer = _of_peer(lambda: stack.enter_context(kind.open(lab, server)))
        # The first one waits until the workers are up.
        _of_peer(lambda: peer.asked.latency(WARM_UP))
        _of_peer(lambda: peer.asked.jobs(min(50, kind.most_jobs)))
        yield peer


@dataclass(slots=True)
class _Side:
    """What one of those who take turns has done: one value per round."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def take(
        self,
        jobs: int,
        end_to_end: Callable[[], float],
        one_at_a_time: Callable[[], list[float]],
        cpu: Callable[[], float],
    ) -> None:
        """One round."""
        before = cpu()
        seconds = end_to_end()
        self.cpu_us.append((cpu() - before) / jobs * 1e6)
        self.rates.append(jobs / seconds)
        took = one_at_a_time()
        self.p50.append(percentile(took, 0.5) * 1e3)
        self.p99.append(percentile(took, 0.99) * 1e3)


def _beside(lab: Lab, kind: Kind, server: PostgresServer | None) -> list[Figure]:
    """``server`` is where a peer on PostgreSQL works, and then the service a second time."""
    jobs, samples = min(lab.peer_jobs, kind.most_jobs), min(_SAMPLES, kind.most_jobs, lab.samples)
    ours, ours_there, theirs = _Side(), _Side(), _Side()
    names = count()
    with ExitStack() as stack:
        peer = stack.enter_context(_opened(lab, kind, server))
        here = stack.enter_context(_service(lab))
        there = stack.enter_context(_service(lab, server)) if server else None

        def measure(side: _Side, running: Running) -> None:
            cpu = running.cpu_seconds
            if side is ours_there and server is not None:
                cpu = partial(_with_database, running, server)
            side.take(
                jobs,
                lambda: complete(running, jobs, f"round-{next(names)}", WORK),
                lambda: time_jobs(running, samples, _ONE),
                cpu,
            )

        def measure_peer() -> None:
            _of_peer(
                lambda: theirs.take(
                    jobs, lambda: peer.asked.jobs(jobs), lambda: peer.asked.latency(samples), peer.cpu_seconds
                )
            )

        steps = [lambda: measure(ours, here), measure_peer]
        if there is not None:
            on_postgres = there
            steps.append(lambda: measure(ours_there, on_postgres))
        for number in range(lab.rounds):
            say(f"peers: {kind.title}: round {number + 1} of {lab.rounds}")
            in_turn(number, steps)
    figures = _figures(kind, ours, theirs, _settings(lab, kind, jobs, samples, server), "")
    if there is not None:
        figures += _figures(
            kind, ours_there, theirs, "The same, the service on the same server", " on PostgreSQL"
        )
    return figures


def _with_database(running: Running, server: PostgresServer) -> float:
    return running.cpu_seconds() + (server.cpu_seconds() or 0.0)


@contextmanager
def _service(lab: Lab, server: PostgresServer | None = None) -> Generator[Running]:
    with ExitStack() as stack:
        options = ["--slots", str(SLOTS)]
        if server is not None:
            options += ["--store-url", stack.enter_context(server.database())]
        running = stack.enter_context(service(lab.folder("service"), *options, probe="/health/ready"))
        time_jobs(running, WARM_UP, _ONE)
        complete(running, 50, "warm-up", WORK)
        yield running


def _settings(lab: Lab, kind: Kind, jobs: int, samples: int, server: PostgresServer | None) -> str:
    where = f" PostgreSQL {server.version} as it comes, fsync and synchronous_commit on." if server else ""
    return (
        f"{jobs} jobs that do nothing and return 4 KiB, from {CONNECTIONS} submitters at once, until all are "
        f"completed; then {samples} one at a time, from submit to the result read. Service: over HTTP, "
        f"serve --slots {SLOTS}, as in throughput and latency. Peer: {kind.settings}; it is "
        f"submitted to by a program of its own that asks every 25 ms (one at a time: every 1 ms, or is "
        f"told) whether all are done.{where} CPU of brokers, databases and a "
        f"peer's own client is counted"
    )


def _figures(kind: Kind, ours: _Side, theirs: _Side, settings: str, where: str) -> list[Figure]:
    def figure(
        name: str, unit: str, sense: Sense, mine: list[float], other: list[float], said: str, cpu: bool
    ) -> Figure:
        full = f"{name}{where}, beside {kind.title}"
        return Figure(
            full,
            unit,
            sense,
            tuple(mine),
            said,
            tuple(other),
            kind.title,
            targets.of(full),
            tuple(ours.cpu_us) if cpu else (),
            tuple(theirs.cpu_us) if cpu else (),
            multiple=True,
        )

    return [
        figure("jobs end to end", "/s", Sense.RATE, ours.rates, theirs.rates, settings, True),
        figure("submit → completed p50", "ms", Sense.COST, ours.p50, theirs.p50, "The same rounds", False),
        figure("submit → completed p99", "ms", Sense.COST, ours.p99, theirs.p99, "The same rounds", False),
    ]


@dataclass(slots=True)
class _Accepting:
    """FastAPI + Celery with some number of HTTP processes: (rate, CPU microseconds of each submit) of each round."""

    name: str
    servers: int
    rounds: list[tuple[float, float]] = field(default_factory=list)

    def measure(self, lab: Lab, server: Running, broker: Running) -> None:
        processes.redis_command(broker.port, "FLUSHALL")
        before = broker.cpu_seconds()
        measured = _of_peer(lambda: lab.put_under_load(server, FASTAPI_SUBMIT, 202))
        extra = (broker.cpu_seconds() - before) / measured.load.requests * 1e6
        self.rounds.append((measured.load.per_second, measured.cpu_us + extra))


def _submits(lab: Lab) -> list[Figure]:
    """Nobody takes jobs meanwhile, on either side."""
    ours: list[tuple[float, float]] = []
    peers = (_Accepting(_SUBMITS, 1), _Accepting(f"{_SUBMITS}, 2 HTTP processes", 2))

    def measure_service() -> None:
        with service(lab.folder("submits"), *OPTIONS) as server:
            measured = lab.put_under_load(server, SUBMIT, 202)
            verify(server, measured.load.requests)
        ours.append((measured.load.per_second, measured.cpu_us))

    with ExitStack() as stack:
        steps = [measure_service]
        for peer in peers:
            opened = fastapi_celery(lab, worker=False, servers=peer.servers)
            server, broker, _ = _of_peer(partial(stack.enter_context, opened))
            steps.append(partial(peer.measure, lab, server, broker))
        for number in range(lab.rounds):
            say(f"peers: submits: round {number + 1} of {lab.rounds}")
            in_turn(number, steps)
    said = next(kind.settings for kind in KINDS if kind.title == _CELERY_SERVER)
    settings = (
        f"POST of a job that does nothing, 202 when it is durable; {lab.generator}; nobody takes jobs meanwhile; a new "
        f"store, or an emptied Redis, each round. Peer: {said}, Redis with appendfsync always; CPU of Redis is counted"
    )
    return [
        Figure(
            peer.name,
            "/s",
            Sense.RATE,
            tuple(rate for rate, _ in ours),
            settings
            if peer is peers[0]
            else "The same rounds, the peer with a uvicorn process for each of two cores",
            tuple(rate for rate, _ in peer.rounds),
            _CELERY_SERVER,
            targets.of(peer.name),
            tuple(cost for _, cost in ours),
            tuple(cost for _, cost in peer.rounds),
            multiple=True,
        )
        for peer in peers
    ]
