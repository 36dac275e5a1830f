"""A submit whose body comes with its head goes to the application whole: no task, no messages, no timers.

uvicorn begins a request when its head has been read. Here a short submit is held back until the bytes at hand are
parsed; if its body was among them, ``api.submit_at_once`` gets both, and its answer is written when it is there. If
not, the request begins as any other does.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from async_delivery.api.answer import header_block
from async_delivery.api.request import Scope
from async_delivery.api.submit_at_once import SubmitAtOnce

# The server's own headers, which it renews once a second, as they go over the wire.
_last_written: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")


def server_headers(headers: list[tuple[bytes, bytes]]) -> bytes:
    """``headers`` of the server's state as they go over the wire."""
    global _last_written  # noqa: PLW0603  the same for all connections
    if _last_written[0] is not headers:
        _last_written = headers, header_block(headers)
    return _last_written[1]


class _Pending:
    """Stands where uvicorn has the request that is being answered."""

    # Nobody waits for it; uvicorn sets it when the connection is lost.
    message_event = asyncio.Event()
    response_started = False
    more_body = False

    __slots__ = ("disconnected", "keep_alive", "response_complete")

    def __init__(self) -> None:
        self.response_complete = self.disconnected = False
        self.keep_alive = True


class SubmitsAtOnce(HttpToolsProtocol):
    """Knows short submits from other requests."""

    _held: list[bytes] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._submits: SubmitAtOnce | None = getattr(self.app, "submit_at_once", None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held is not None:
            self._begin_slowly()

    def on_message_begin(self) -> None:
        # The request before it may have been answered while it was parsed. The pause that then began is over already.
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._submits is not None and self._is_short_submit(self._submits):
            self._held = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        if self._held is not None:
            if self._is_entered(b"".join(self._held)):
                self._held = None
                return
            self._begin_slowly()
        super().on_message_complete()

    def _is_short_submit(self, submits: SubmitAtOnce) -> bool:
        """True if it may be held back: nothing else is going on here, and its length is known."""
        if self.url != submits.target or self.parser.get_method() != b"POST":
            return False
        size = 0
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit() and len(value) < 9:
                size = int(value)
        return (
            0 < size <= submits.max_bytes
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and self._has_answered()
            and not self.pipeline
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _has_answered(self) -> bool:
        """True while no request waits for its answer."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def _begin_slowly(self) -> None:
        """As if it had not been held back."""
        held, self._held = self._held or [], None
        if not self.transport.is_closing():
            super().on_headers_complete()
            for piece in held:
                super().on_body(piece)

    def _is_entered(self, body: bytes) -> bool:
        if self._submits is None:
            return False
        before, scope = self.cycle, cast("Scope", self.scope)
        pending: Any = _Pending()
        self.cycle = pending
        if self._submits.begin(scope, body, lambda status, rest: self._write(pending, status, rest)):
            return True
        self.cycle = before
        return False

    def _write(self, pending: _Pending, status: int, rest: bytes) -> None:
        pending.response_complete = True
        if not (pending.disconnected or self.transport.is_closing()):
            closing = b"" if pending.keep_alive else b"connection: close\r\n"
            own = server_headers(self.server_state.default_headers)
            self.transport.write(b"%b%b%b%b" % (STATUS_LINE[status], own, closing, rest))
            if closing:
                self.transport.close()
        # Counts it, and begins what has come behind it.
        self.on_response_complete()
