"""Results from 4 KiB to 64 MiB: how fast they are read beside bare answers of the same size, and with what memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import analyses, targets
from bench.figures import Figure, Sense
from bench.lab import CONNECTIONS, SLOTS, Lab, check, in_turn, post, say
from bench.load import Connection, LoadError, Request, from_python
from bench.server import Running, bare, service

KIB, MIB = 2**10, 2**20
# (name, bytes, connections): sixteen answers of 64 MiB at once would measure the machine's memory.
_SIZES = (("4 KiB", 4 * KIB, 16), ("256 KiB", 256 * KIB, 16), ("5 MiB", 5 * MIB, 16), ("64 MiB", 64 * MIB, 4))
# What is around the filler in the answer of a permalink.
_AROUND = 500
# From here on so many are read, from an asyncio client; below for as long as everything else.
_LARGE_BYTES, _LARGE_COUNT = 32 * MIB, 12
_LOOK_SECONDS = 0.02
_BOUNDARY = "bench-boundary-7d93"


@dataclass(slots=True)
class _Size:
    name: str
    connections: int
    request: Request
    body_bytes: int
    ours: list[tuple[float, float]] = field(default_factory=list)
    floor: list[tuple[float, float]] = field(default_factory=list)
    grown: list[float] = field(default_factory=list)


def run(lab: Lab) -> list[Figure]:
    """Rates for each size, the memory that the largest takes, and that of an upload."""
    with service(lab.folder("payloads"), "--slots", str(SLOTS), *analyses.options("payload")) as server:
        sizes = [_size(server, *each) for each in _SIZES]
        answers = [text for size in sizes for text in ("--answer", f"200:{size.body_bytes}")]
        uploads: list[float] = []
        with bare(lab.folder("bare"), *answers) as floor:
            for number in range(lab.rounds):
                say(f"payloads: round {number + 1} of {lab.rounds}")
                for place, size in enumerate(sizes):
                    _round(lab, number, server, floor, size, place)
                with _growth(server) as grown:
                    _upload(server)
                uploads.append(grown())
    largest = sizes[-1]
    return [
        *(_rate(lab, size) for size in sizes),
        Figure(
            "memory that reading 64 MiB results takes (PSS)",
            "MB",
            Sense.COST,
            tuple(largest.grown),
            f"The most that all processes of the service grew by during the rounds of 64 MiB over "
            f"{largest.connections} connections, looked at every {_LOOK_SECONDS * 1e3:g} ms",
        ),
        Figure(
            "memory that an upload of 64 MiB takes (PSS)",
            "MB",
            Sense.COST,
            tuple(uploads),
            "The most that all processes of the service grew by while one file of 64 MiB came in as "
            "multipart/form-data and its selftest ran",
        ),
    ]


def _size(server: Running, name: str, size: int, connections: int) -> _Size:
    body = {"analysis": "bench-payload", "params": {"size_bytes": size - _AROUND}}
    with Connection(server.port) as connection:
        done = connection.ask(post(body, Prefer="wait=60"))
    if done.status != 200:
        raise LoadError(f"the job with {name} did not complete: {done.status} {done.body[:500]!r}")
    # The body is large: what is wanted of it stands in the header.
    request = Request(done.headers["content-location"])
    return _Size(name, connections, request, check(server, request, 200))


def _round(lab: Lab, number: int, server: Running, floor: Running, size: _Size, place: int) -> None:
    def ours() -> None:
        with _growth(server) as grown:
            size.ours.append(_read(lab, server, size.request, size))
        size.grown.append(grown())

    def limit() -> None:
        size.floor.append(_read(lab, floor, Request(f"/{place}"), size))

    in_turn(number, (limit, ours))


def _read(lab: Lab, server: Running, request: Request, size: _Size) -> tuple[float, float]:
    """Answers per second and CPU microseconds of each."""
    if size.body_bytes < _LARGE_BYTES:
        measured = lab.put_under_load(server, request, 200, size.connections)
        return measured.load.per_second, measured.cpu_us
    # By number: on a busy machine none might be whole when the time is over.
    before = server.cpu_seconds()
    load = from_python(server.port, request, 200, connections=size.connections, count=_LARGE_COUNT)
    return load.per_second, (server.cpu_seconds() - before) / load.requests * 1e6


def _rate(lab: Lab, size: _Size) -> Figure:
    name = f"permalink, {size.name}"
    # The group ``reads`` judges the smallest, on its own rounds.
    name = f"{name}, among larger ones" if size.connections == CONNECTIONS and size.name == "4 KiB" else name
    load = lab.generator
    if size.body_bytes >= _LARGE_BYTES:
        load = f"asyncio client, {size.connections} keep-alive connections, {_LARGE_COUNT} answers"
    return Figure(
        name,
        "/s",
        Sense.RATE,
        tuple(rate for rate, _ in size.ours),
        f"GET of a result, 200 with {size.body_bytes} bytes, always the same; {load}; "
        f"serve --slots {SLOTS}. Limit: a bare ASGI application that answers as many bytes from memory",
        tuple(rate for rate, _ in size.floor),
        "bare ASGI",
        targets.of(name),
        tuple(cost for _, cost in size.ours),
        tuple(cost for _, cost in size.floor),
    )


@contextmanager
def _growth(server: Running) -> Generator[Callable[[], float]]:
    """Afterwards: by how many MB the memory of all its processes was larger at most than at the beginning."""
    before = server.pss_bytes()
    most = before
    ended = threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(_LOOK_SECONDS):
            most = max(most, server.pss_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: (most - before) / 1e6
    finally:
        ended.set()
        thread.join()


def _upload(server: Running) -> None:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="request"\r\nContent-Type: application/json\r\n\r\n'
        '{"analysis":"selftest","params":{"stages":0}}\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Prefer": "wait=60"}
    body = head.encode() + b"x" * (64 * MIB) + f"\r\n--{_BOUNDARY}--\r\n".encode()
    from_python(server.port, Request("/analyze", "POST", headers, body), 200, connections=1, count=1)
