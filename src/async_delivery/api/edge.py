"""The outermost layer, plain ASGI: ids, tenants, quotas, HEAD, the plain routes, and the last net for errors.

What comes through here has an answer with an X-Request-Id and, if it is an error, the one error body. Everything
that is the same for all routes is here; everything about one route is not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from starlette.types import ASGIApp

from async_delivery.api.at_once import AtOnce
from async_delivery.api.context import Api
from async_delivery.api.errors import ClientGoneError, MethodNotAllowedError, error_answer, log
from async_delivery.api.gate import admit, tell
from async_delivery.api.plain import plain_route, send_answer
from async_delivery.api.request import Call, Message, Receive, Scope, Send
from async_delivery.api.submit_at_once import SubmitAtOnce

# The page's own files, which any visitor may have.
OPEN_FOLDER = "/docs/static/"

# What is noted of a request whose client left before it was answered; nobody receives it.
CLIENT_GONE = 499

# An answer that comes before the body has been read: so much more of it is taken, and for so long, so that the
# client gets to read the answer. Then the connection ends.
_LINGER_BYTES = 16_777_216
_LINGER_SECONDS = 5.0
# So much the server itself throws away, and keeps the connection.
_SHORT_BODY = 65_536


class Edge:
    """The application that a server runs. ``paths`` are the routes' templates with the methods of each."""

    def __init__(
        self, api: Api, inner: ASGIApp, paths: Sequence[tuple[str, Sequence[str]]], open_paths: frozenset[str]
    ) -> None:
        self._api, self._inner, self._open = api, inner, open_paths
        # For a server that can ask before it makes a task of a request.
        self.at_once = AtOnce(api).answer
        self.submit_at_once = SubmitAtOnce(api)
        self._paths = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"\Z"), path, methods) for path, methods in paths
        ]

    def close(self) -> None:
        """Let go of the store. A server that speaks the lifespan protocol does so by itself."""
        self._api.close()

    def held_answers(self) -> int:
        """How many answers are being held back for a job that has not changed yet."""
        return self._api.held.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Any ASGI scope; only ``http`` is this layer's business."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        path, admitted = scope["path"], scope.get("call")
        call = admitted or Call(scope, self._api.rt.new_id)
        sent = _Sent(call, receive, send)
        route = ""
        try:
            if admitted is None and path not in self._open and not path.startswith(OPEN_FOLDER):
                admit(self._api, call, scope.get("client"))
            if plain := plain_route(call.method, path):
                route, serve = plain
                answer = await serve(self._api, call, scope, receive)
                if call.unread:
                    await send_answer(call, answer, sent.send_raw)
                else:
                    sent.status = answer.status
                    await send_answer(call, answer, send)
                    if call.method != "HEAD":
                        sent.bytes = sum(map(len, answer.body))
            else:
                route = await self._framework(call, scope, receive, sent)
        except ClientGoneError:
            sent.status = sent.status or CLIENT_GONE
        except Exception as exc:  # noqa: BLE001  the last net: whatever it was, the client gets an answer
            await self._rescue(call, exc, sent)
        finally:
            tell(call, route or self._template(path), sent.status, sent.bytes)

    async def _framework(self, call: Call, scope: Scope, receive: Receive, sent: _Sent) -> str:
        """Let the framework answer; returns the template of the route that did, or ``""``."""
        inner = {**scope, "call": call, "method": "GET" if call.method == "HEAD" else call.method}
        await self._inner(inner, receive, sent.send)
        return getattr(inner.get("route"), "path", "")

    async def _rescue(self, call: Call, exc: Exception, sent: _Sent) -> None:
        if sent.status:
            # The framework re-raises what it has answered already; what broke an answer half-way is news.
            if call.logged is not exc:
                log.error(
                    "request %s: %s %s broke off",
                    call.request_id,
                    call.method,
                    call.instance,
                    exc_info=exc,
                    extra={"request_id": call.request_id},
                )
            return
        answer = error_answer(exc, call)
        await send_answer(call, answer, sent.send_raw)

    def _template(self, path: str) -> str:
        """The template of a path that was refused before its route was looked for, or by it; ``""`` without one."""
        return next((template for pattern, template, _ in self._paths if pattern.match(path)), "")

    def method_not_allowed(self, path: str) -> MethodNotAllowedError:
        """What a known path says to another method."""
        methods = {method for pattern, _, some in self._paths if pattern.match(path) for method in some}
        if "GET" in methods:
            methods.add("HEAD")
        return MethodNotAllowedError(", ".join(sorted(methods)))


class _Sent:
    """What has gone out of one answer; adds what every answer has."""

    def __init__(self, call: Call, receive: Receive, send: Send) -> None:
        self._call, self._receive, self._send = call, receive, send
        self._linger = False
        self.status = 0
        self.bytes = 0

    async def send(self, message: Message) -> None:
        """A message of the framework: with the request's id, and without a body if the method was HEAD."""
        if message["type"] == "http.response.start":
            request_id = (b"x-request-id", self._call.request_id.encode("ascii"))
            message = {**message, "headers": [*message.get("headers", ()), request_id]}
        elif self._call.method == "HEAD":
            message = {**message, "body": b""}
        await self.send_raw(message)

    async def send_raw(self, message: Message) -> None:
        """A message that is complete; lingers behind the last one if the client may still be sending."""
        self.bytes += len(message.get("body", b""))
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._linger = self._call.unread and not _short(self._call)
            if self._linger:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        elif self._linger and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        taken = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while taken < _LINGER_BYTES:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


def _short(call: Call) -> bool:
    length = call.first(b"content-length")
    return length is not None and length.isdigit() and len(length) < 9 and int(length) <= _SHORT_BODY
