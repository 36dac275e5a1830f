"""Load over HTTP/1.1 keep-alive: one blocking connection, many asyncio connections, or wrk where it is installed.

Requests are bytes prepared beforehand and answers are hardly looked at, because the load shares the machine's cores
with what it measures. Loopback only. What the requests say is not decided here.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, cast

from bench.figures import percentile

HOST = "127.0.0.1"
_WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
_ANSWER_SECONDS = 90.0


class LoadError(RuntimeError):
    """The load did not do what was to be measured; a number from it would be worth nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent again and again."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encode(self, port: int) -> bytes:
        """The bytes on the wire."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {HOST}:{port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("ascii") + self.body


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: answers that counted as good, in how many seconds, bytes received, latencies in seconds."""

    requests: int
    seconds: float
    received_bytes: int
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        """Good answers per second."""
        return self.requests / self.seconds


def _head(data: bytes | bytearray) -> tuple[int, int, int] | None:
    """(status, where the body begins, length of the body) once the head of an answer is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    status = int(data[9:12])
    if status in (204, 304):
        return status, end + 4, 0
    head = bytes(data[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise LoadError(f"an answer without Content-Length: {head[:200]!r}")
    start = at + len(b"\r\ncontent-length:")
    stop = head.find(b"\r\n", start)
    return status, end + 4, int(head[start : stop if stop >= 0 else end])


class Connection:
    """One blocking keep-alive connection; a round trip costs this side some 20 microseconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.create_connection((HOST, port), timeout=_ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: Request) -> Answer:
        """Send and read one answer whole. Raises LoadError if the server hangs up, TimeoutError if it is silent."""
        return self.exchange(request.encode(self._port))

    def exchange(self, wire: bytes) -> Answer:
        """The same with prepared bytes."""
        self._socket.sendall(wire)
        data = bytearray()
        head: tuple[int, int, int] | None = None
        while head is None or len(data) < head[1] + head[2]:
            chunk = self._socket.recv(65_536)
            if not chunk:
                raise LoadError(f"the server closed the connection after {len(data)} bytes")
            data += chunk
            head = head or _head(data)
        status, start, length = head
        return Answer(status, _headers(bytes(data[: start - 4])), bytes(data[start : start + length]))


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


# ---------------------------------------------------------------- many connections, from Python


class _Pace:
    """When to stop: after so many requests, or at a time; and what was seen by then."""

    def __init__(self, expected: int, count: int | None, seconds: float | None) -> None:
        self.expected = expected
        self.left = count
        self.until = time.perf_counter() + seconds if seconds is not None else None
        self.latencies: list[float] = []
        self.received = 0

    def more(self) -> bool:
        if self.left is not None:
            self.left -= 1
            return self.left >= 0
        return self.until is not None and time.perf_counter() < self.until


class _Client(asyncio.Protocol):
    def __init__(self, wires: Iterator[bytes], pace: _Pace, done: asyncio.Future[None]) -> None:
        self._wires, self._pace, self._done = wires, pace, done
        self._data = bytearray()
        self._need = 0
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio.
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        if not self._pace.more():
            self._finish(None)
            return
        self._data.clear()
        self._need = 0
        self._sent_at = time.perf_counter()
        self._transport.write(next(self._wires))

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._pace.received += len(data)
        try:
            if not self._need and (head := _head(self._data)):
                if head[0] != self._pace.expected:
                    raise LoadError(f"expected {self._pace.expected}: {bytes(self._data[:600])!r}")
                self._need = head[1] + head[2]
        except (LoadError, ValueError) as exc:
            self._finish(exc)
            return
        if self._need and len(self._data) >= self._need:
            self._pace.latencies.append(time.perf_counter() - self._sent_at)
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(LoadError(f"the server closed a connection: {exc}"))

    def _finish(self, exc: Exception | None) -> None:
        if not self._done.done():
            if exc is None:
                self._done.set_result(None)
            else:
                self._done.set_exception(exc)
        if self._transport is not None:
            self._transport.close()


async def _run(wires: Iterator[bytes], pace: _Pace, port: int, connections: int) -> float:
    loop = asyncio.get_running_loop()
    done: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    begin = time.perf_counter()
    for future in done:
        await loop.create_connection(lambda future=future: _Client(wires, pace, future), HOST, port)  # type: ignore[misc]
    await asyncio.wait_for(asyncio.gather(*done), timeout=_ANSWER_SECONDS * 4)
    return time.perf_counter() - begin


def from_python(
    port: int,
    request: Request,
    expected: int,
    *,
    connections: int = 16,
    count: int | None = None,
    seconds: float | None = None,
    others: Sequence[tuple[str, str]] = (),
) -> Load:
    """Ask over ``connections`` at once, ``count`` times in all or for ``seconds``; each answer has to be ``expected``.

    others: as of ``from_wrk``. Raises LoadError on the first answer that is not.
    """
    import uvloop

    pace = _Pace(expected, count, seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        requests = [Request(path, headers={"X-Org-Id": tenant}) for path, tenant in others] or [request]
        wires = cycle([each.encode(port) for each in requests])
        took = runner.run(_run(wires, pace, port, connections))
    if not pace.latencies:
        raise LoadError("no answer in the whole time")
    return Load(
        requests=len(pace.latencies),
        seconds=took,
        received_bytes=pace.received,
        p50=percentile(pace.latencies, 0.5),
        p99=percentile(pace.latencies, 0.99),
    )


# ---------------------------------------------------------------- wrk


def find_wrk() -> str | None:
    """The path of wrk, if it is installed (Debian and Ubuntu: ``apt-get install wrk``)."""
    return shutil.which("wrk")


def from_wrk(
    wrk: str,
    port: int,
    request: Request,
    *,
    seconds: float,
    scratch: Path,
    connections: int = 16,
    others: Sequence[tuple[str, str]] = (),
) -> Load:
    """One thread of wrk over ``connections`` for whole ``seconds``. Raises LoadError if any answer was a 4xx or 5xx.

    others: paths and tenants that are asked for in turn, in place of the request's own.
    """
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    for name, value in request.headers.items():
        command += ["-H", f"{name}: {value}"]
    command += ["-s", str(_WRK_SCRIPT), f"http://{HOST}:{port}{request.path}", "--", request.method]
    body, listed = scratch / "body.json", scratch / "paths.txt"
    body.write_bytes(request.body)
    command.append(str(body) if request.body else "-")
    if others:
        listed.write_text("".join(f"{path}\t{tenant}\n" for path, tenant in others), encoding="ascii")
        command.append(str(listed))
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    try:
        told = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
    except ValueError as exc:
        raise LoadError(f"wrk failed: {done.stdout[-500:]} {done.stderr[-500:]}") from exc
    if told["failed"] or told["refused"] or not told["requests"]:
        raise LoadError(f"wrk had answers that do not count: {told}")
    return Load(told["requests"], told["seconds"], told["bytes"], told["p50"], told["p99"])
