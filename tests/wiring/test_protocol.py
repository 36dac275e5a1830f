"""A connection whose request does not arrive is closed; one whose client waits for its answer is not."""

from __future__ import annotations

import asyncio
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


def talk(*pieces: bytes, pause: float = 0.0) -> bytes:
    """All that a server sends to a client that sends ``pieces`` and then only reads, until the server closes."""

    async def run() -> bytes:
        config = uvicorn.Config(app, http=HeadLimits, lifespan="off", log_config=None, timeout_keep_alive=1)
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
