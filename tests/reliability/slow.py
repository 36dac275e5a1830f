"""Clients that take or send next to nothing, many at a time. Nothing of the product is imported."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any, Self

from tests.reliability.hostile import message
from tests.system.live import CHECKOUT


def connect(port: int, *, receive_bytes: int | None = None) -> socket.socket:
    """A connection whose own buffer is small, so that what is not read stays with the server."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    return connection


class Frozen:
    """Clients that ask, and never read what they are answered."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._connections = []
        for request in requests:
            connection = connect(port, receive_bytes=4_096)
            self._connections.append(connection)
            connection.sendall(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()


class Dripping:
    """Clients that send one byte a second, each from its own ``what``; a connection that is closed is not renewed.

    They live in a process of their own, so that they cost the one that measures nothing.
    """

    def __init__(
        self, port: int, what: Sequence[bytes], interval: float = 1.0, *, at_once: bool = False
    ) -> None:
        """With ``at_once`` all of ``what`` is sent first, and dots follow it."""
        self._connections = [connect(port) for _ in what]
        self._interval = interval
        self._what = [b"." if at_once else data for data in what]
        if at_once:
            for connection, data in zip(self._connections, what, strict=True):
                connection.sendall(data)

    def __enter__(self) -> Self:
        fds = [connection.fileno() for connection in self._connections]
        told = {
            "interval": self._interval,
            "what": [data.decode("latin-1") for data in self._what],
            "fds": fds,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, pass_fds=fds, cwd=CHECKOUT
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        for connection in self._connections:
            connection.close()


def drip() -> None:
    """The process of ``Dripping``; ends with the one that started it."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    drops = [(fd, cycle(text.encode("latin-1"))) for fd, text in zip(told["fds"], told["what"], strict=True)]
    while not select.select([sys.stdin], [], [], told["interval"])[0]:
        for fd, data in drops:
            with suppress(OSError):
                os.write(fd, bytes([next(data)]))


def head_of(org: str, path: bytes = b"/health") -> bytes:
    """A head that never comes to its end."""
    return message("GET", path, b"X-Padding: " + b"a" * 10_000, org=org)


def body_of(org: str) -> bytes:
    """The head of a request whose body is ten kilobytes."""
    return message("POST", b"/analyze", b"Content-Type: application/json", b"Content-Length: 10000", org=org)


class Large:
    """Clients that send bodies of ``size`` bytes as fast as they are taken, until they are refused."""

    def __init__(self, port: int, count: int, size: int, head: bytes) -> None:
        self.sent: list[int] = []
        self.statuses: list[bytes] = []
        self._threads = [
            threading.Thread(target=self._run, args=(port, size, head), daemon=True) for _ in range(count)
        ]

    def run(self) -> Self:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        return self

    def _run(self, port: int, size: int, head: bytes) -> None:
        piece, sent, got = b" " * 262_144, 0, b""
        with connect(port) as connection:
            with suppress(OSError):
                connection.sendall(head)
                while sent < size:
                    sent += connection.send(piece[: size - sent])
            with suppress(OSError):
                got = connection.recv(65_536)
        self.sent.append(sent)
        self.statuses.append(got[9:12])


def latencies(look: Callable[[], object], seconds: float, pause: float = 0.02) -> list[float]:
    """How long ``look`` took, each time, over ``seconds``."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        look()
        found.append(time.perf_counter() - began)
        time.sleep(pause)
    return found


if __name__ == "__main__":
    drip()
