"""HTTP/1.1 on one connection: uvicorn's protocol, stricter with heads, and with limits on bytes and time.

uvicorn itself keeps what it gets of a head for as long as a client cares to send it, and what it has to send for as
long as a client does not take it. What cannot be parsed is
answered with the same JSON error as everything else, as long as no answer has begun.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from async_delivery.api.errors import error_answer
from async_delivery.api.request import Call
from async_delivery.domain.errors import ValidationError
from async_delivery.engine.runtime import new_id

MAX_HEAD_BYTES = 65_536
HEAD_SECONDS = 20.0
# A client that is sent something must take so many bytes in this time, as a sender must send them.
READ_SECONDS = 30.0
READ_BYTES = 30_720
_VERSIONS = ("1.1", "1.0")
_TOO_LARGE = f"the head of the request is larger than {MAX_HEAD_BYTES} bytes"


class _Refused(Exception):  # noqa: N818  a signal through the parser, which ends there
    """The head that has just been parsed is not to be answered by the application."""


class HeadLimits(HttpToolsProtocol):
    """Closes connections whose request line and headers are too large, or do not arrive."""

    _head_bytes = 0
    _chunk_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _refusal: str | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What is written waits in this process, as the client does not take it."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._stop_read_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._chunk_bytes = len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        self._refusal = self._fault_of_head()
        if self._refusal is not None:
            # The parser stops at this, and uvicorn calls send_400_response.
            raise _Refused(self._refusal)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        # The rest of this chunk may begin the next head; what came before it must not count against that.
        self._head_bytes = -self._chunk_bytes
        self._await_head()

    def send_400_response(self, msg: str) -> None:
        """One JSON error body, then the end of the connection."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body or self.pipeline or self._refusal:
                # An earlier request on this connection is still being answered; nothing may be put into its answer.
                self.transport.close()
                return
            # It is the body of this request that cannot be read. Nothing is sent for it any more but this answer.
            cycle.disconnected = True
            cycle.message_event.set()
        call = Call({"headers": [], "method": "GET", "path": "/"}, new_id)
        answer = error_answer(ValidationError.of("request", self._refusal or msg), call)
        headers = [
            *self.server_state.default_headers,
            *answer.headers,
            (b"x-request-id", call.request_id.encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[answer.status] + head + b"\r\n" + b"".join(answer.body))
        self.transport.close()

    def _fault_of_head(self) -> str | None:
        """What the parser lets pass and HTTP/1.1 does not, or this service does not take."""
        size, hosts, codings = len(self.url), 0, []
        for name, value in self.headers:
            # A head that came in one piece has not been counted before.
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings.append(value.strip(b" \t").lower())
        if size > MAX_HEAD_BYTES:
            return _TOO_LARGE
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            return "the version must be HTTP/1.1 or HTTP/1.0"
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            return "there must be exactly one Host header"
        if codings not in ([], [b"chunked"]):
            return "Transfer-Encoding must be chunked, or not be sent"
        return None

    def _await_head(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_overdue)

    def _head_overdue(self) -> None:
        self._head_timer = None
        if not self._in_head or self.transport.is_closing():
            return
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            # The client waits for an answer, as it may: its next request has time until after that.
            self._await_head()
        else:
            self.transport.close()

    def _await_reader(self) -> None:
        self._stop_read_timer()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(READ_SECONDS, self._reader_overdue)

    def _reader_overdue(self) -> None:
        self._read_timer = None
        if self._unread_bytes - self.transport.get_write_buffer_size() < READ_BYTES:
            # Not closed: that would first send what nobody takes.
            self.transport.abort()
        else:
            self._await_reader()

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
