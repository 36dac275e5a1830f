"""A connection whose request does not arrive is closed; one whose client waits for its answer is not.

What is no HTTP/1.1 gets the one error body, as long as no answer has begun.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from async_delivery.wiring import protocol
from async_delivery.wiring.protocol import HeadLimits

PATIENCE = 0.3
DEADLINE_SECONDS = 30.0


async def app(scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Takes three times as long as a head may take."""
    await asyncio.sleep(3 * PATIENCE)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def talk(*pieces: bytes, pause: float = 0.0, kept_seconds: int = 1) -> bytes:
    """All that a server sends to a client that sends ``pieces`` and then only reads, until the server closes."""

    async def run() -> bytes:
        config = uvicorn.Config(
            app,
            http=HeadLimits,
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            timeout_keep_alive=kept_seconds,
        )
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        server = await loop.create_server(lambda: HeadLimits(config, state, {}), "127.0.0.1", 0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause)
            try:
                got = await reader.read()
            except ConnectionError:
                got = b""  # closed while the client was still sending
            writer.close()
            while state.connections or state.tasks:  # noqa: ASYNC110  uvicorn keeps sets, and tells nobody
                await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()
        # A closed transport lets go of its socket at the loop's next turn.
        await asyncio.sleep(0.01)
        return got

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", PATIENCE)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_arrive_ends_the_connection(begun: bytes) -> None:
    assert talk(begun) == b""


def test_a_head_that_drips_ends_the_connection_although_each_byte_comes_soon() -> None:
    assert talk(*[b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 10], pause=PATIENCE / 5) == b""


def test_a_client_that_waits_for_its_answer_gets_it() -> None:
    got = talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.endswith(b"ok")


def test_a_second_head_on_the_connection_has_its_time_after_the_first_answer() -> None:
    got = talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert got.count(b"HTTP/1.1 200 ") == 2


def test_a_client_may_pause_between_two_requests_for_longer_than_a_head_may_take() -> None:
    get = b"GET / HTTP/1.1\r\nHost: x\r\n"
    got = talk(get + b"\r\n", get + b"Connection: close\r\n\r\n", pause=5 * PATIENCE, kept_seconds=3)

    assert got.count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_was_answered_at_once_may_pause_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = b"content-length: 2\r\n\r\nok"
    monkeypatch.setattr(app, "at_once", lambda target, scope: (200, rest), raising=False)
    get = b"GET / HTTP/1.1\r\nHost: x\r\n"
    got = talk(get + b"\r\n", get + b"Connection: close\r\n\r\n", pause=4 * PATIENCE, kept_seconds=3)

    assert got.count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_was_answered_at_once_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        app, "at_once", lambda target, scope: (200, b"content-length: 0\r\n\r\n"), raising=False
    )
    got = talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert got.count(b"HTTP/1.1 200 ") == 1


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n", "larger than 65536 bytes"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "larger than 65536 bytes"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", "larger than 65536 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "exactly one Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "exactly one Host"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "exactly one Host"),
        (b"GET /health\r\nHost: x\r\n\r\n", "the version must be"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", "the version must be"),
        (POST + b"Transfer-Encoding: gzip\r\n\r\nabc", "must be chunked"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "must be chunked"),
        (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", "Invalid HTTP request"),
        (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "Invalid HTTP request"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "Invalid HTTP request"),
        (b"\x16\x03\x01\x02\x00", "Invalid HTTP request"),
    ],
)
def test_what_is_no_request_gets_the_one_error_body_and_the_connection_ends(sent: bytes, said: str) -> None:
    head, _, body = talk(sent).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in head
    answer = json.loads(body)
    assert (answer["code"], answer["ok"]) == ("bad_request", False)
    assert said in answer["message"]


def test_a_chunk_that_breaks_later_is_answered_once() -> None:
    got = talk(CHUNKED, b"2\r\n{}\r\n", b"zz\r\n", pause=PATIENCE / 10)

    assert got.count(b"HTTP/1.1 ") == 1
    assert got.startswith(b"HTTP/1.1 400 ")


def test_an_old_client_needs_no_host() -> None:
    assert talk(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_second_request_that_is_none_is_never_put_into_the_answer_of_the_first() -> None:
    got = talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + CHUNKED + b"zz\r\n")

    assert b" 400 " not in got


# ---------------------------------------------------------------- who takes nothing
LONG = b"x" * 50_000_000


async def long_app(
    scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Answers with more than the kernel keeps for a client."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(LONG))]}
    )
    await send({"type": "http.response.body", "body": LONG})


def take(pause: float, size: int) -> int:
    """How many bytes of a long answer a client gets that takes ``size`` of them in each ``pause``."""

    async def run() -> int:
        config = uvicorn.Config(long_app, http=HeadLimits, lifespan="off", log_config=None)
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        server = await loop.create_server(lambda: HeadLimits(config, state, {}), "127.0.0.1", 0)
        taken = 0
        async with asyncio.timeout(DEADLINE_SECONDS):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], limit=4_096)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while not state.connections:  # noqa: ASYNC110  uvicorn keeps sets, and tells nobody
                await asyncio.sleep(0.001)
            try:
                while state.connections:
                    await asyncio.sleep(pause)
                    taken += len(await reader.read(size))
            except ConnectionError:
                pass
            writer.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)
        return taken

    return asyncio.run(run())


def test_a_client_that_takes_nothing_of_its_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READ_SECONDS", PATIENCE)

    assert take(PATIENCE / 10, 1) < 10_000


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READ_SECONDS", PATIENCE)

    assert take(PATIENCE / 1_000, 1_000_000) > len(LONG) / 2
