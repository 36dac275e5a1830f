"""HTTP/1.1 on one connection: uvicorn's protocol, stricter with heads, and with limits on bytes and time.

uvicorn itself keeps what it gets of a head for as long as a client cares to send it, and what it has to send for as
long as a client does not take it. What cannot be parsed is
answered with the same JSON error as everything else, as long as no answer has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from async_delivery.api.errors import error_answer
from async_delivery.api.request import Call
from async_delivery.domain.errors import ValidationError
from async_delivery.engine.runtime import new_id
from async_delivery.wiring.submits import SubmitsAtOnce, server_headers

MAX_HEAD_BYTES = 65_536
HEAD_SECONDS = 20.0
# A client that is sent something must take so many bytes in this time, as a sender must send them.
READ_SECONDS = 30.0
READ_BYTES = 30_720
_VERSIONS = ("1.1", "1.0")
_TOO_LARGE = f"the head of the request is larger than {MAX_HEAD_BYTES} bytes"


# Takes the target and the scope of a GET; see ``api.at_once``.
AtOnce = Callable[[bytes, Any], tuple[int, bytes] | None]


class _Answered:
    """Stands for a request and its answer where there was none that took time."""

    response_complete = True

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


_ANSWERED: Any = _Answered()


class _Refused(Exception):  # noqa: N818  a signal through the parser, which ends there
    """The head that has just been parsed is not to be answered by the application."""


class HeadLimits(SubmitsAtOnce):
    """Closes connections whose request line and headers are too large, or do not arrive."""

    _head_bytes = 0
    _chunk_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    # When the head must have come, by the loop's clock. One timer looks at it now and then, as to set one for each
    # request costs more than all else that is done here.
    _head_until = 0.0
    _is_idle = False
    _refusal: str | None = None
    _has_body = False
    _read_timer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at_once: AtOnce | None = getattr(self.app, "at_once", None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_until = self.loop.time() + HEAD_SECONDS
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_overdue)

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
        if self._is_idle:
            # The client has paused, as it may; from its first byte on the next head has its time.
            self._is_idle = False
            self._head_until = self.loop.time() + HEAD_SECONDS
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._refusal = self._fault_of_head()
        if self._refusal is not None:
            # The parser stops at this, and uvicorn calls send_400_response.
            raise _Refused(self._refusal)
        if not self._answered_at_once():
            super().on_headers_complete()

    def _answered_at_once(self) -> bool:
        """True if the whole answer has been written: nothing of the request is left to be done."""
        if (
            self._at_once is None
            or self._has_body
            or self.parser.get_method() != b"GET"
            or not self.parser.should_keep_alive()
            or self.parser.should_upgrade()
            or self.expect_100_continue
            # Answers go out in the order of their requests.
            or not self._has_answered()
            or self.pipeline
            or self.flow.write_paused
            or self.transport.is_closing()
        ):
            return False
        answered = self._at_once(self.url, self.scope)
        if answered is None:
            return False
        status, rest = answered
        self.cycle = _ANSWERED
        self.transport.write(STATUS_LINE[status] + server_headers(self.server_state.default_headers) + rest)
        self.server_state.total_requests += 1
        return True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = self._is_idle = True
        # The rest of this chunk may begin the next head; what came before it must not count against that.
        self._head_bytes = -self._chunk_bytes
        self._head_until = self.loop.time() + self.timeout_keep_alive

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
        size, hosts, codings, length = len(self.url), 0, [], b"0"
        for name, value in self.headers:
            # A head that came in one piece has not been counted before.
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding":
                codings.append(value.strip(b" \t").lower())
            elif name == b"content-length":
                length = value
        self._has_body = bool(codings) or length != b"0"
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

    def _head_overdue(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        left = self._head_until - self.loop.time()
        if not self._in_head or not self._has_answered() or self.timeout_keep_alive_task is not None:
            # The client waits for an answer, as it may: its next request has time until after that. Where uvicorn has
            # sent the answer, it looks after the pause that follows.
            left = HEAD_SECONDS
        if left > 0:
            self._head_timer = self.loop.call_later(left, self._head_overdue)
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
