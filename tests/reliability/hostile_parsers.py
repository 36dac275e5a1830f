"""Every parser of what a stranger sends, as functions of bytes that either refuse them in order or take them.

``TARGETS`` are fed by Hypothesis in the tests beside this file. Where atheris is installed they can be fuzzed by
coverage as well: ``python -m tests.reliability.hostile_parsers TARGET -max_total_time=3600 CORPUS``.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from async_delivery.api.access import tenant
from async_delivery.api.cursor import read_cursor
from async_delivery.api.decode import decode_object
from async_delivery.api.errors import error_answer
from async_delivery.api.multipart import FileHead, FileSink, bare_name, boundary_of, read_form
from async_delivery.api.prefer import parse_prefer
from async_delivery.api.request import READ, Call
from async_delivery.api.results import matched_tags
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.tenant import OrgId
from async_delivery.wiring.protocol import HeadLimits

# A parser that needs longer for what one request may hold could be made to hold up everybody.
BUDGET_SECONDS = 0.05
_BOUNDARY = b"b"
_NAMES = sorted(READ)


def json_body(data: bytes) -> None:
    """The body of a submit."""
    decode_object(data)


def prefer(data: bytes) -> None:
    """One or more Prefer headers."""
    parse_prefer(data.decode("latin-1").split("\n"))


def cursor(data: bytes) -> None:
    """The place in a list, as a client gives it back."""
    read_cursor(OrgId("alpha"), "", data.decode("utf-8", "surrogateescape"))


def headers(data: bytes) -> None:
    """Lines of ``number of a name, value``, and all that reads them; ends with the error that would be sent."""
    lines = [line for line in data.split(b"\n") if line][:200]
    sent = [(_NAMES[line[0] % len(_NAMES)], line[1:]) for line in lines]
    call = Call({"headers": sent, "method": "GET", "path": "/", "raw_path": data[:200]}, lambda: "new-id")
    call.wants_problem()
    call.accepts_only("text/event-stream")
    call.correlation_id()
    matched_tags(call)
    assert call.prefer is not None
    try:
        tenant(call)
        if (kind := call.only(b"content-type", "Content-Type")) is not None:
            boundary_of(kind)
    except AsyncDeliveryError as exc:
        answer = error_answer(exc, call)
        assert 400 <= answer.status < 500
        assert not any(byte < 0x20 or byte > 0x7E for _, value in answer.headers for byte in value)


class _Nowhere(FileSink):
    async def begin(self, head: FileHead) -> None:
        assert head.filename == bare_name(head.filename)
        assert head.filename.isprintable()

    async def write(self, data: bytes) -> None:
        pass

    async def end(self) -> None:
        pass


def form(data: bytes) -> None:
    """A multipart body; its first byte says how it is cut on its way."""
    size, body = (data[0] or 256) if data else 1, data[1:]

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    _finish(read_form(_BOUNDARY, pieces(), _Nowhere(), 10_000))


def _finish(work: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    finally:
        work.close()
    raise AssertionError("it waits for something")


class _Wire(asyncio.Transport):
    """What a connection is to the protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closed = b"", False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@cache
def _loop() -> tuple[asyncio.AbstractEventLoop, uvicorn.Config]:
    config = uvicorn.Config(_answer, http=HeadLimits, lifespan="off", log_config=None, access_log=False)
    config.load()
    return asyncio.new_event_loop(), config


def connection(data: bytes) -> None:
    """All that comes over one connection; its first byte says how it is cut on its way."""
    loop, config = _loop()
    size, stream = (data[0] * 8 or 65_536) if data else 1, data[1:]
    wire = _Wire()

    async def talk() -> None:
        protocol = HeadLimits(config, ServerState(), {}, _loop=loop)
        protocol.connection_made(wire)
        for at in range(0, len(stream), size):
            if wire.closed:
                break
            protocol.data_received(stream[at : at + size])
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.sleep(0)

    loop.run_until_complete(talk())
    for head in wire.sent.split(b"HTTP/1.1 ")[1:]:
        assert head[:3] in (b"200", b"400", b"100"), head


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (json_body, prefer, cursor, headers, form, connection)
}


def feed(target: str, data: bytes) -> None:
    """Raises whatever is not a refusal in order, AssertionError for a breach or for too long a time."""
    budget = BUDGET_SECONDS + len(data) * 2e-6
    # The least of three, by the clock of this thread: a busy machine counts its own trouble as ours.
    spent = min(_seconds(target, data) for _ in range(3)) if _seconds(target, data) > budget else 0.0
    assert spent <= budget, f"{spent:.3f} s for {len(data)} bytes"


def _seconds(target: str, data: bytes) -> float:
    began = time.thread_time()
    try:
        TARGETS[target](data)
    except AsyncDeliveryError as exc:
        answer = error_answer(exc, Call({"headers": [], "method": "GET", "path": "/"}, lambda: "new-id"))
        if not 400 <= answer.status < 500:
            raise
    return time.thread_time() - began


def main(argv: list[str]) -> None:
    """Fuzz one target until told to stop."""
    atheris = importlib.import_module("atheris")
    atheris.instrument_all()
    target = argv.pop(1)
    atheris.Setup(argv, lambda data: feed(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
