"""What each peer consists of, with every setting: its broker or database, two workers, and who submits.

A peer is at the most durable settings that its documentation describes, and otherwise at those that made it fastest
here. Its workers stay up through all rounds, as the service's do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.lab import Lab
from bench.peers import processes
from bench.peers.environments import python_of
from bench.peers.over_http import FastApiCelery, Local, Pygeoapi
from bench.pgserver import PostgresServer
from bench.server import ROOT, Running, free_port, running

_UVICORN = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")


class Asked(Protocol):
    """Whom the rounds ask for jobs."""

    def jobs(self, count: int) -> float:
        """Seconds until ``count`` jobs, submitted by sixteen at once, were completed with their results readable."""

    def latency(self, count: int) -> list[float]:
        """Seconds from submit to the result read, for each of ``count`` jobs, one at a time."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One that is up. ``cpu_seconds``: of all its processes, broker and database included, and of the submitting
    program where that does the peer's own work."""

    asked: Asked
    cpu_seconds: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Kind:
    """A peer that can be started.

    title        for people
    settings     all that matters to speed and durability
    open         starts it; given the lab and, where ``on_postgres``, a server
    most_jobs    more in one round would take too long
    """

    name: str
    title: str
    settings: str
    open: Callable[[Lab, PostgresServer | None], AbstractContextManager[Peer]]
    on_postgres: bool = False
    most_jobs: int = 1_000_000


def _sum(*running_processes: Running) -> Callable[[], float]:
    return lambda: sum(one.cpu_seconds() for one in running_processes)


def celery_worker(
    python: Path, folder: Path, environment: Mapping[str, str]
) -> AbstractContextManager[Running]:
    """Two processes that take jobs."""
    command = [
        str(python),
        "-m",
        "celery",
        "-A",
        "bench.peers.programs.celery_jobs",
        "worker",
        "-P",
        "prefork",
    ]
    options = ["-c", "2", "-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return processes.started([*command, *options], folder, environment)


@contextmanager
def _celery(lab: Lab, _: PostgresServer | None) -> Generator[Peer]:
    python = python_of("celery")
    with ExitStack() as stack:
        broker = stack.enter_context(processes.redis(lab.folder("redis")))
        environment = {"PEER_URL": f"redis://127.0.0.1:{broker.port}"}
        worker = stack.enter_context(celery_worker(python, lab.folder("celery"), environment))
        submits = stack.enter_context(
            processes.program(python, "celery_jobs", lab.folder("submits"), environment)
        )
        yield Peer(submits, _sum(broker, worker, submits.running))


@contextmanager
def fastapi_celery(
    lab: Lab, *, worker: bool, servers: int = 1
) -> Generator[tuple[Running, Running, Running | None]]:
    """The HTTP server, of ``servers`` processes, its Redis, and the Celery worker if there is to be one."""
    python = python_of("celery")
    with ExitStack() as stack:
        broker = stack.enter_context(processes.redis(lab.folder("redis")))
        environment = {"PEER_URL": f"redis://127.0.0.1:{broker.port}"}
        port, folder = free_port(), lab.folder("fastapi")
        more = ["--workers", str(servers)] if servers > 1 else []
        command = [
            str(python),
            "-m",
            "uvicorn",
            "bench.peers.programs.fastapi_celery:app",
            "--port",
            str(port),
        ]
        server = stack.enter_context(
            running([*command, *_UVICORN, *more], port, folder, "/completed", environment)
        )
        works = None
        if worker:
            works = stack.enter_context(celery_worker(python, lab.folder("celery"), environment))
        yield server, broker, works


@contextmanager
def _fastapi_celery(lab: Lab, _: PostgresServer | None) -> Generator[Peer]:
    with fastapi_celery(lab, worker=True) as (server, broker, worker):
        assert worker is not None
        yield Peer(Local(FastApiCelery(server.port)), _sum(server, broker, worker))


@contextmanager
def _taskiq(lab: Lab, _: PostgresServer | None) -> Generator[Peer]:
    python = python_of("taskiq")
    with ExitStack() as stack:
        broker = stack.enter_context(processes.redis(lab.folder("redis")))
        environment = {"PEER_URL": f"redis://127.0.0.1:{broker.port}"}
        command = [str(python), "-m", "taskiq", "worker", "bench.peers.programs.taskiq_jobs:broker"]
        options = ["--workers", "2", "--log-level", "WARNING", "--ack-type", "when_saved"]
        worker = stack.enter_context(
            processes.started([*command, *options], lab.folder("taskiq"), environment)
        )
        submits = stack.enter_context(
            processes.program(python, "taskiq_jobs", lab.folder("submits"), environment)
        )
        yield Peer(submits, _sum(broker, worker, submits.running))


@contextmanager
def _huey(lab: Lab, _: PostgresServer | None) -> Generator[Peer]:
    python, folder = python_of("huey"), lab.folder("huey")
    environment = {"PEER_FILE": str(folder / "huey.sqlite3")}
    command = [str(python), "-m", "huey.bin.huey_consumer", "bench.peers.programs.huey_jobs.huey"]
    options = ["-w", "2", "-k", "process", "-d", "0.001", "-m", "0.005", "-b", "1.15", "-n", "-q"]
    with (
        processes.started([*command, *options], folder, environment) as worker,
        processes.program(python, "huey_jobs", lab.folder("submits"), environment) as submits,
    ):
        yield Peer(submits, _sum(worker, submits.running))


def _with_database(server: PostgresServer, *others: Running) -> Callable[[], float]:
    own = _sum(*others)
    return lambda: own() + (server.cpu_seconds() or 0.0)


@contextmanager
def _procrastinate(lab: Lab, server: PostgresServer | None) -> Generator[Peer]:
    assert server is not None
    python = python_of("procrastinate")
    module = "procrastinate_jobs"
    with ExitStack() as stack:
        environment = {"PEER_URL": stack.enter_context(server.database())}
        processes.once(python, lab.folder("schema"), environment, "-m", processes.PROGRAMS, module, "schema")
        command = [str(python), "-m", processes.PROGRAMS, module, "worker"]
        workers = [
            stack.enter_context(processes.started(command, lab.folder("procrastinate"), environment))
            for _ in range(2)
        ]
        submits = stack.enter_context(
            processes.program(python, "procrastinate_jobs", lab.folder("submits"), environment)
        )
        yield Peer(submits, _with_database(server, *workers, submits.running))


@contextmanager
def _dbos(lab: Lab, server: PostgresServer | None) -> Generator[Peer]:
    assert server is not None
    python = python_of("dbos")
    with ExitStack() as stack:
        environment = {"PEER_URL": stack.enter_context(server.database())}
        command = [str(python), "-m", processes.PROGRAMS, "dbos_jobs"]
        workers = [
            stack.enter_context(
                processes.started([*command, f"executor-{number}"], lab.folder("dbos"), environment)
            )
            for number in range(2)
        ]
        submits = stack.enter_context(
            processes.program(python, "dbos_jobs", lab.folder("submits"), environment)
        )
        yield Peer(submits, _with_database(server, *workers, submits.running))


@contextmanager
def _pygeoapi(lab: Lab, _: PostgresServer | None) -> Generator[Peer]:
    python, folder, port = python_of("pygeoapi"), lab.folder("pygeoapi"), free_port()
    environment = {
        "PYGEOAPI_CONFIG": str(folder / "config.yml"),
        "PYGEOAPI_OPENAPI": str(folder / "openapi.yml"),
        "PYTHONPATH": str(ROOT),
    }
    processes.once(
        python, folder, environment, "-m", processes.PROGRAMS, "pygeoapi_noop", str(port), str(folder)
    )
    generate = ("openapi", "generate", str(folder / "config.yml"), "--output-file")
    processes.once(python.with_name("pygeoapi"), folder, environment, *generate, str(folder / "openapi.yml"))
    command = [str(python), "-m", "gunicorn", "pygeoapi.flask_app:APP", "-b", f"127.0.0.1:{port}", "-w", "2"]
    with running(
        [*command, "-k", "gthread", "--threads", "8", "--keep-alive", "75"],
        port,
        folder,
        "/conformance?f=json",
        environment,
    ) as server:
        yield Peer(Local(Pygeoapi(port)), _sum(server))


_REDIS = "Redis from Debian, appendonly yes, appendfsync always, no snapshots"
KINDS = (
    Kind(
        "celery",
        "Celery",
        f"Celery with {_REDIS}, for broker and results; acks_late, reject_on_worker_lost, JSON; one worker, prefork "
        "with 2 processes, prefetch 4 each, no gossip, mingle or heartbeat",
        _celery,
    ),
    Kind(
        "fastapi_celery",
        "FastAPI + Celery",
        "FastAPI on one uvicorn (uvloop, httptools, no access log), plain functions on its threads, in front of the "
        "same Celery",
        _fastapi_celery,
    ),
    Kind(
        "taskiq",
        "taskiq",
        f"taskiq with {_REDIS}; RedisStreamBroker, acknowledged when the result is saved, RedisAsyncResultBackend; 2 "
        "worker processes",
        _taskiq,
    ),
    Kind(
        "huey",
        "huey",
        "SqliteHuey, WAL, fsync (synchronous FULL), results kept; one consumer with 2 worker processes that look every "
        "1 to 5 ms, no periodic tasks",
        _huey,
    ),
    Kind(
        "procrastinate",
        "Procrastinate",
        "Procrastinate on the PostgreSQL below; 2 workers with concurrency 8, LISTEN/NOTIFY; the job writes its result "
        "into a table",
        _procrastinate,
        on_postgres=True,
    ),
    Kind(
        "dbos",
        "DBOS",
        "DBOS on the PostgreSQL below; a workflow without steps from a queue asked every 10 ms; 2 executors; "
        "DBOSClient submits",
        _dbos,
        on_postgres=True,
    ),
    Kind(
        "pygeoapi",
        "pygeoapi",
        "pygeoapi on gunicorn, 2 workers with 8 threads, jobs in TinyDB, which does not sync, respond-async",
        _pygeoapi,
        most_jobs=40,
    ),
)
