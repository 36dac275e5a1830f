"""The service as real processes on one of the stores: what a nemesis strikes and clients talk to.

On SQLite one server does everything; on PostgreSQL three servers without workers and two workers share the store.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.postgres import Server, shared_server
from tests.reliability.image import Image, image_of_postgres, image_of_sqlite
from tests.system.live import CHECKOUT, LiveServer, eventually

COMMON = ("--log-level", "warning", "--fault-injection")
STOP_SECONDS = GONE_SECONDS = 30.0


class Worker(LiveServer):
    """``async-delivery worker``."""

    command = "worker"


class Fleet:
    """Servers and workers that share a store; on SQLite they are the same one process.

    Killing, stopping and starting is done to nodes; ``servers`` are those that take requests.
    """

    def __init__(self, store: str, servers: Sequence[LiveServer], workers: Sequence[LiveServer]) -> None:
        self.store, self.servers, self.workers = store, list(servers), list(workers)
        self.store_file = servers[0].store_file
        self.url = ""

    @property
    def nodes(self) -> list[LiveServer]:
        return list(dict.fromkeys([*self.servers, *self.workers]))

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    def start(self) -> None:
        """Start what does not run, and wait until all of it answers."""
        for node in self.nodes:
            launch(node)
        for node in self.nodes:
            node.ready()

    def stop(self) -> None:
        """SIGTERM for all at once; SIGKILL where that does not help."""
        for node in self.nodes:
            if is_up(node):
                assert node.process is not None
                node.process.send_signal(signal.SIGCONT)
                node.process.terminate()
        for node in self.nodes:
            if node.process is not None:
                # Not a second SIGTERM: that would end it at once.
                with suppress(subprocess.TimeoutExpired):
                    node.process.wait(timeout=STOP_SECONDS)
            kill([node])

    def children(self, node: LiveServer | None = None) -> list[psutil.Process]:
        """Processes of analyses, warm ones included; of all workers if none is named."""
        found = []
        for worker in [node] if node else self.workers:
            found += [one for one in worker.processes()[1:] if is_child(one, worker)]
        return found

    def forkservers(self, node: LiveServer) -> list[psutil.Process]:
        """The process from which those of analyses are forked, if there is one at the moment."""
        return [one for one in node.processes()[1:] if is_below(one, node)]

    def image(self) -> Image:
        """What the store holds. On SQLite the fleet must be down."""
        if self.store == "postgres":
            return image_of_postgres(self.url)
        assert not any(is_up(node) for node in self.nodes)
        return image_of_sqlite(self.store_file.with_name("store.v1.sqlite3"))


def is_child(process: psutil.Process, node: LiveServer) -> bool:
    """Whether it runs an analysis: it leads a session of its own, and was not started by the server itself."""
    try:
        return os.getsid(process.pid) == process.pid and not is_below(process, node)
    except ProcessLookupError:
        return False


def is_below(process: psutil.Process, node: LiveServer) -> bool:
    """Whether ``node`` itself started it."""
    try:
        return node.process is not None and process.ppid() == node.process.pid
    except psutil.NoSuchProcess:
        return False


def is_up(node: LiveServer) -> bool:
    return node.process is not None and node.process.poll() is None


def launch(node: LiveServer) -> None:
    """Start it if it does not run, without waiting."""
    if not is_up(node):
        node.launch()


def kill(nodes: Sequence[LiveServer]) -> None:
    """SIGKILL for the processes of ``nodes``, as nearly at once as can be, and wait until they are gone."""
    victims = [one for node in nodes if node.process is not None for one in node.processes()]
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
    for node in nodes:
        if node.process is not None:
            node.process.wait(timeout=GONE_SECONDS)
    eventually(lambda: not alive(victims), "killed processes are still there", GONE_SECONDS)


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. Who has ended and waits for its parent to notice, does not."""
    found = []
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


@contextmanager
def fleet_on(
    store: str,
    folder: Path,
    *options: str,
    servers: int = 3,
    workers: int = 2,
    slots: int = 2,
    database: Server | None = None,
) -> Iterator[Fleet]:
    """A started fleet with a new store; ended when the block ends, however it ends.

    servers, workers   on PostgreSQL; on SQLite there is one process
    database           the PostgreSQL to use; the one that all tests share if none is named
    """
    common = (*COMMON, "--cleanup-schedule", "off", "--slots", str(slots), *options)
    # Analyses of tests are imported by the checkout's name.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *([before] if before else [])])
    fleet = _embedded(folder, common) if store == "sqlite" else None
    try:
        fleet = fleet or _shared(folder, common, servers, workers, database or shared_server())
        fleet.start()
        yield fleet
    finally:
        if fleet is not None:
            fleet.stop()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _embedded(folder: Path, options: Sequence[str]) -> Fleet:
    server = LiveServer(folder, *options)
    return Fleet("sqlite", [server], [server])


def _shared(folder: Path, options: Sequence[str], servers: int, workers: int, database: Server) -> Fleet:
    store = database.new_store_file(folder)
    named = ("--store-file", str(store.path))

    def place(name: str) -> Path:
        path = folder / name
        path.mkdir()
        return path

    # What only a server knows would be refused by a worker.
    working = _without(options, "--cleanup-schedule")
    fleet = Fleet(
        "postgres",
        [LiveServer(place(f"api-{n}"), *named, "--no-workers", *options) for n in range(servers)],
        [Worker(place(f"worker-{n}"), *named, *working) for n in range(workers)],
    )
    fleet.store_file = store.path
    fleet.url = store.database
    return fleet


def _without(options: Sequence[str], flag: str) -> list[str]:
    kept = list(options)
    while flag in kept:
        at = kept.index(flag)
        del kept[at : at + 2]
    return kept
