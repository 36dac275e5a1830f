"""What becomes of a connection whose submit is being committed: it is still uvicorn's to stop, lose and go on with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from async_delivery.wiring.protocol import HeadLimits

SUBMIT = b"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
REST = b"content-length: 2\r\n\r\nok"


class Submits:
    """Stands for the application's way in; what it takes is answered when the test says so."""

    target = b"/analyze"
    max_bytes = 100

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, Callable[[int, bytes], None]]] = []

    def begin(self, scope: Any, body: bytes, answered: Callable[[int, bytes], None]) -> bool:
        self.taken.append((body, answered))
        return True


class App:
    """Answers the long way with the size of the body."""

    def __init__(self) -> None:
        self.submit_at_once = Submits()

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        size = b"%d" % len(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": size})


class Recorder(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        """There is nothing to read but what the test gives."""

    def resume_reading(self) -> None:
        """The same."""

    def get_write_buffer_size(self) -> int:
        return 0


def talk(work: Callable[[HeadLimits, Recorder, Submits], Awaitable[None]]) -> None:
    """Let ``work`` have a connection."""

    async def run() -> None:
        app = App()
        config = uvicorn.Config(app, http=HeadLimits, lifespan="off", log_config=None, proxy_headers=False)
        config.load()
        transport = Recorder()
        protocol = HeadLimits(config, ServerState(), {})
        protocol.connection_made(transport)
        try:
            await asyncio.wait_for(work(protocol, transport, app.submit_at_once), 30)
        finally:
            protocol.connection_lost(None)

    asyncio.run(run())


async def written(transport: Recorder, end: bytes) -> None:
    while not transport.written.endswith(end):  # noqa: ASYNC110  a transport tells nobody what it was given
        await asyncio.sleep(0)


def test_an_answer_goes_out_when_it_is_there_and_the_connection_serves_on() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        for _ in range(2):
            protocol.data_received(SUBMIT)
            body, answered = submits.taken.pop()
            assert (body, transport.written) == (b"{}", b"")
            answered(202, REST)
            assert transport.written == b"HTTP/1.1 202 Accepted\r\n" + REST
            assert not transport.closed
            transport.written = b""

    talk(work)


def test_a_server_that_stops_answers_what_has_been_entered_and_ends_the_connection() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        protocol.data_received(SUBMIT)
        protocol.shutdown()
        assert not transport.closed
        submits.taken[0][1](202, REST)
        assert transport.written == b"HTTP/1.1 202 Accepted\r\nconnection: close\r\n" + REST
        assert transport.closed

    talk(work)


def test_nothing_is_written_to_a_client_that_has_left() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        protocol.data_received(SUBMIT)
        protocol.connection_lost(ConnectionResetError())
        submits.taken[0][1](202, REST)
        assert transport.written == b""

    talk(work)


def test_what_comes_behind_it_is_answered_behind_it() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        protocol.data_received(SUBMIT + SUBMIT + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(submits.taken) == 1
        submits.taken[0][1](202, REST)
        await written(transport, b"\r\n\r\n0")
        assert len(submits.taken) == 1  # the second went the long way
        assert [line for line in transport.written.split(b"\r\n") if b"HTTP/1.1" in line] == [
            b"HTTP/1.1 202 Accepted",
            b"okHTTP/1.1 200 OK",
            b"2HTTP/1.1 200 OK",
        ]

    talk(work)


def test_a_body_that_is_not_there_yet_is_waited_for_as_any_other() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        for cut in range(1, len(SUBMIT)):
            transport.written = b""
            protocol.data_received(SUBMIT[:cut])
            await asyncio.sleep(0)
            protocol.data_received(SUBMIT[cut:])
            if submits.taken:
                submits.taken.pop()[1](202, REST)
            else:
                await written(transport, b"\r\n\r\n2")
        assert transport.written.startswith(b"HTTP/1.1 200")  # the last cut was inside the body

    talk(work)


def test_what_breaks_behind_a_submit_that_is_being_committed_ends_the_connection_without_a_word() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        protocol.data_received(SUBMIT + b"NOT HTTP\r\n\r\n")
        assert transport.closed
        submits.taken[0][1](202, REST)
        assert transport.written == b""

    talk(work)


def test_no_pause_begins_with_an_answer_behind_which_the_next_request_is_there_already() -> None:
    async def work(protocol: HeadLimits, transport: Recorder, submits: Submits) -> None:
        def refuse(scope: Any, body: bytes, answered: Callable[[int, bytes], None]) -> bool:
            answered(400, REST)
            return True

        submits.begin = refuse  # type: ignore[method-assign]
        protocol.timeout_keep_alive = 0
        # The second waits for the rest of its body, for longer than a client may pause.
        long_way = b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
        protocol.data_received(SUBMIT + long_way)
        await asyncio.sleep(0.01)
        assert not transport.closed
        protocol.timeout_keep_alive = 30
        protocol.data_received(b"}")
        await written(transport, b"\r\n\r\n2")

    talk(work)
