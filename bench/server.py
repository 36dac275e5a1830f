"""Starts and stops the processes that are measured, and reads their CPU time and memory.

Every process is a real one on a loopback port of its own, with its files in a scratch folder; leaving the ``with``
block stops it and all its children. What is asked of it is not decided here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.load import HOST, Connection, LoadError, Request

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("async-delivery")
_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Running:
    """A started process that answers on ``port``. ``ready_seconds``: from its start to its first good answer."""

    process: subprocess.Popen[bytes]
    port: int
    ready_seconds: float
    folder: Path

    @property
    def store_file(self) -> Path:
        """Where a service keeps its store."""
        return self.folder / "store.v1.json"

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time of all of them so far, with that of children that have ended and were waited for."""
        total = 0.0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def pss_bytes(self) -> int:
        """Memory of all of them, shared pages counted by share (PSS)."""
        total = 0
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total

    def stop(self) -> None:
        """End it as an operator would, and by force if that takes too long."""
        everyone = []
        with suppress(psutil.NoSuchProcess):
            everyone = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=_STOP_SECONDS)
        # Known by process object, which psutil checks against reuse of the number.
        _, alive = psutil.wait_procs(everyone, timeout=2)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        self.process.wait()


@contextmanager
def running(
    command: Sequence[str], port: int, folder: Path, probe: str, variables: Mapping[str, str] | None = None
) -> Generator[Running]:
    """Start ``command``, wait until ``probe`` answers 2xx, and stop it at the end.

    variables: environment variables beside the caller's.
    Raises LoadError with the last lines of its output if it ends or stays silent for a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    # None of the caller's settings: the figures are of the stated ones.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ASYNC_DELIVERY_")
    } | dict(variables or {})
    with log.open("ab") as out:
        began = time.perf_counter()
        # A session of its own: Ctrl-C at the terminal reaches the benchmark alone, which then stops it in order.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    here = Running(process, port, 0.0, folder)
    try:
        _await_answer(process, port, probe, log, began + _READY_SECONDS)
        yield Running(process, port, time.perf_counter() - began, folder)
    finally:
        here.stop()


def _await_answer(process: subprocess.Popen[bytes], port: int, probe: str, log: Path, until: float) -> None:
    while True:
        with suppress(OSError, LoadError), Connection(port) as connection:
            if connection.ask(Request(probe)).status < 300:
                return
        if process.poll() is not None or time.perf_counter() > until:
            told = log.read_text(errors="replace")[-2000:]
            raise LoadError(f"the server did not come up (exit {process.poll()}): {told}")
        time.sleep(0.005)


def service(
    folder: Path, *options: str, probe: str = "/health", variables: Mapping[str, str] | None = None
) -> AbstractContextManager[Running]:
    """``async-delivery serve`` with its store in ``folder``; ``variables`` as of ``running``."""
    port = free_port()
    command = [
        str(COMMAND),
        "serve",
        "--port",
        str(port),
        "--store-file",
        str(folder / "store.v1.json"),
        "--artifacts-dir",
        str(folder / "artifacts"),
        *options,
    ]
    return running(command, port, folder, probe, variables)


def bare(folder: Path, *options: str) -> AbstractContextManager[Running]:
    """The bare ASGI application of bench.floors."""
    port = free_port()
    return running([sys.executable, "-m", "bench.floors", "--port", str(port), *options], port, folder, "/0")
