"""Asking the application: in this process, or over a socket through the real HTTP server."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import httpx2
import uvicorn

from async_delivery.api.app import ApiSettings, create_app
from async_delivery.domain.job import Job, JobId
from async_delivery.domain.result import seal
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.engine import jobs, runs
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.observer import Observer, ObserverSettings
from async_delivery.storage.contract import JobFilter
from async_delivery.wiring.protocol import HeadLimits
from tests.engine.support import ALPHA, claimed, completed, published, submitted

SETTINGS = ApiSettings(version="1.2.3", max_body_bytes=100_000, max_upload_bytes=5_000_000)
AS_ALPHA = {"X-Org-Id": ALPHA}
ASYNC = {"options": {"async_mode": {"requested": True}}}

# Ids that nobody was ever given.
NOBODYS = "00000000-0000-7000-8000-000000000000"


def observing(rt: Runtime) -> Observer:
    """An observer of a process without workers."""
    told = ObserverSettings(version="1.2.3", retention=RetentionPolicy())
    return Observer(rt, told, worker=None, draining=lambda: False)


class Web:
    """The application without a server. Every call runs to its end before it returns."""

    def __init__(self, rt: Runtime, **settings: Any) -> None:
        self.rt = rt
        self.draining = False
        self.app = create_app(
            rt, replace(SETTINGS, **settings), observing(rt), draining=lambda: self.draining
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.app.close()

    def __call__(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Ask once, as alpha unless ``headers`` say otherwise."""
        response: httpx2.Response = self.run(lambda ask: ask(method, path, **options))
        return response

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx2.Response:
        return self("POST", path, **options)

    def submit(self, body: Mapping[str, Any] = ASYNC, **options: Any) -> httpx2.Response:
        """POST /analyze."""
        return self("POST", "/analyze", json=body, **options)

    def run(self, talk: Callable[[Ask], Awaitable[Any]], client: tuple[str, int] = ("127.0.0.1", 1)) -> Any:
        """Let ``talk`` ask several things at once, on one event loop."""

        async def main() -> Any:
            transport = httpx2.ASGITransport(app=self.app, client=client)
            async with httpx2.AsyncClient(transport=transport, base_url="http://service") as http:

                async def ask(method: str, path: str, **options: Any) -> httpx2.Response:
                    options["headers"] = _with_tenant(options.get("headers", {}))
                    return await http.request(method, path, **options)

                return await asyncio.wait_for(talk(ask), 60)

        return asyncio.run(main())


Ask = Callable[..., Awaitable[httpx2.Response]]


def _with_tenant(headers: Any) -> Any:
    """The headers, as alpha if they name no tenant; a list may say so with an empty name."""
    if isinstance(headers, list):
        return headers
    return headers if any(name.lower() == "x-org-id" for name in headers) else {**AS_ALPHA, **headers}


def stored_jobs(rt: Runtime, org_id: Any = ALPHA) -> list[Job]:
    """Everything the tenant has."""
    return jobs.list_jobs(rt, org_id, JobFilter(), 200, None)


def finished(rt: Runtime, payload: Any = None, **asked: Any) -> Job:
    """A completed job of alpha with one partial result."""
    submitted(rt, **asked)
    run = claimed(rt)
    published(rt, run, {"part": 1}, percent=50.0)
    return completed(rt, run, {"whole": 2} if payload is None else payload)


def started(rt: Runtime, **asked: Any) -> runs.Run:
    """A job of alpha that runs."""
    submitted(rt, **asked)
    return claimed(rt)


def complete(rt: Runtime, job_id: str, payload: Any = None) -> Job:
    """Run the one queued job to its end, as a worker would."""
    run = claimed(rt)
    assert run.job.job_id == job_id
    return completed(rt, run, payload)


def only_job(rt: Runtime) -> JobId:
    (job,) = stored_jobs(rt)
    return job.job_id


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What ``condition`` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come about"
        time.sleep(0.005)
    return value


async def come_true(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The same on an event loop, with ``condition`` asked on a thread."""
    return await asyncio.to_thread(wait_for, condition, seconds)


def stored_files(rt: Runtime) -> int:
    """Uploaded files that are entered in the store."""
    with closing(sqlite3.connect(f"file:{rt.store.info().database}?mode=ro", uri=True)) as connection:
        count: int = connection.execute("SELECT count(*) FROM inputs").fetchone()[0]
        return count


def without_request_id(response: httpx2.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """Everything of an answer that may be compared with another."""
    headers = sorted((k, v) for k, v in response.headers.items() if k not in {"x-request-id", "date"})
    body = re.sub(rb'"request_id":"[^"]*"', b'"request_id":""', response.content)
    return response.status_code, headers, body


# ---------------------------------------------------------------- over a socket
@dataclass(frozen=True, slots=True)
class Raw:
    """One answer as it came over the wire. Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    rt: Runtime

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.settimeout(30)
        return connection

    def send(self, data: bytes) -> Raw:
        """Send bytes as they are and read one answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answer(connection)


def read_answer(connection: socket.socket, *, method: str = "GET") -> Raw:
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    while len(body) < length:
        piece = connection.recv(65_536)
        assert piece, "the body is shorter than its Content-Length"
        body += piece
    return Raw(int(lines[0].split()[1]), headers, body, head)


@contextmanager
def serving(rt: Runtime, **settings: Any) -> Iterator[Server]:
    """Serve over HTTP on a free port of this machine until the block ends."""
    app = create_app(rt, replace(SETTINGS, **settings), observing(rt))
    config = uvicorn.Config(
        app,
        http=HeadLimits,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Server(listener.getsockname()[1], rt)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive()


def sealed(payload: Any) -> bytes:
    """The bytes a payload is stored as."""
    return seal(payload).data
