"""Starts the processes of a peer, asks the one that submits, and stops them all.

What a peer consists of is not decided here.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import HOST, LoadError
from bench.peers import driving
from bench.peers.environments import UnavailableError
from bench.server import ROOT, Running, free_port

PROGRAMS = "bench.peers.programs"
_ANSWER_SECONDS = driving.DEADLINE_SECONDS + 60
_REDIS_SECONDS = 10.0


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """The caller's, without what changes how Python finds modules or what the service reads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ASYNC_DELIVERY_", "PYTHON", "PEER_"))
    }
    return kept | dict(more)


@contextmanager
def started(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Generator[Running]:
    """A process without a port of its own, stopped at the end with all its children."""
    log = folder / "peer.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    here = Running(process, 0, 0.0, folder)
    try:
        yield here
    finally:
        here.stop()


@dataclass(frozen=True, slots=True)
class Program:
    """A peer's program that submits, in its own environment."""

    running: Running

    def _ask(self, do: str, count: int) -> dict[str, Any]:
        process = self.running.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, "count": count}).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], _ANSWER_SECONDS)
            line = process.stdout.readline() if ready else b""
        except OSError as exc:
            raise LoadError(f"the peer's program has gone: {exc}; {self._told()}") from exc
        if not line:
            raise LoadError(f"the peer's program did not answer (exit {process.poll()}): {self._told()}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise LoadError(f"{said['error']}: {self._told()}")
        return said

    def _told(self) -> str:
        return (self.running.folder / "peer.log").read_text(errors="replace")[-1500:]

    def jobs(self, count: int) -> float:
        """Seconds until ``count`` jobs, submitted at once, were completed."""
        return float(self._ask("jobs", count)["seconds"])

    def latency(self, count: int) -> list[float]:
        """Seconds from submit to the result, for each of ``count`` jobs."""
        return [float(took) for took in self._ask("latency", count)["took"]]


@contextmanager
def program(python: Path, module: str, folder: Path, environment: Mapping[str, str]) -> Generator[Program]:
    """``bench.peers.programs.MODULE``, ready to be asked."""
    with (folder / "peer.log").open("ab") as out:
        process = subprocess.Popen(
            [str(python), "-m", PROGRAMS, module],
            cwd=ROOT,
            env=_environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            start_new_session=True,
        )
    here = Running(process, 0, 0.0, folder)
    try:
        yield Program(here)
    finally:
        # Its stdin ends, and it does, unless it hangs.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        here.stop()
        process.stdout.close()


def once(command: Path, folder: Path, environment: Mapping[str, str], *arguments: str) -> None:
    """Run a program of a peer to its end. Raises LoadError if it fails."""
    done = subprocess.run(
        [str(command), *arguments],
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    (folder / "once.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise LoadError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-1000:]}")


REDIS_SETTINGS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


@contextmanager
def redis(folder: Path) -> Generator[Running]:
    """A Redis of its own on a free port, which syncs every write to the disk. ``port`` is its port.

    Raises UnavailableError where there is no ``redis-server``.
    """
    found = shutil.which("redis-server")
    if found is None:
        raise UnavailableError("redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)")
    port = free_port()
    command = [found, "--port", str(port), "--bind", HOST, "--dir", str(folder), *REDIS_SETTINGS]
    with started(command, folder) as server:
        until = time.perf_counter() + _REDIS_SECONDS
        while not _pings(port):
            if server.process.poll() is not None or time.perf_counter() > until:
                raise LoadError(f"redis-server did not come up: {(folder / 'peer.log').read_text()[-1000:]}")
            time.sleep(0.01)
        yield Running(server.process, port, 0.0, folder)


def _pings(port: int) -> bool:
    return redis_command(port, "PING").startswith(b"+PONG")


def redis_command(port: int, command: str) -> bytes:
    """The answer to a command of one word, as it comes; empty if nobody answers."""
    try:
        with socket.create_connection((HOST, port), timeout=30) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(4096)
    except OSError:
        return b""
