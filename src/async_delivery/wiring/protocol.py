"""HTTP/1.1 on one connection: uvicorn's protocol with a limit on the head of a request, in bytes and in time.

uvicorn itself keeps what it gets of a head for as long as a client cares to send it. What cannot be parsed is
answered with the same JSON error as everything else.
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


class HeadLimits(HttpToolsProtocol):
    """Closes connections whose request line and headers are too large, or do not arrive."""

    _head_bytes = 0
    _chunk_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._chunk_bytes = len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"the head of the request is larger than {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
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
            # An earlier request on this connection is still being answered; nothing may be put into its answer.
            self.transport.close()
            return
        call = Call({"headers": [], "method": "GET", "path": "/"}, new_id)
        answer = error_answer(ValidationError.of("request", msg), call)
        headers = [
            *self.server_state.default_headers,
            *answer.headers,
            (b"x-request-id", call.request_id.encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[answer.status] + head + b"\r\n" + b"".join(answer.body))
        self.transport.close()

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

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
