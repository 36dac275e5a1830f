"""One request as the routes see it: its id, the headers they read, and its body within limits.

Nothing here knows a route. Bodies are read through ``Body`` only, so that no route can forget a limit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any
from urllib.parse import quote

from async_delivery.api.errors import ClientGoneError
from async_delivery.api.prefer import NOTHING, Prefer, parse_prefer
from async_delivery.domain.errors import PayloadTooLargeError, ValidationError
from async_delivery.domain.job import Job
from async_delivery.domain.tenant import DEFAULT_ORG, OrgId

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# A body may take this long, and a second more for each so many bytes that have come: a sender that stalls, or
# drips, ends.
BODY_GRACE_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 1_024
_MAX_INSTANCE = 1_000

READ = frozenset(
    {
        b"accept",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"idempotency-key",
        b"if-none-match",
        b"prefer",
        b"sec-fetch-site",
        b"traceparent",
        b"transfer-encoding",
        b"x-correlation-id",
        b"x-org-id",
        b"x-request-id",
        b"x-tenant-id",
    }
)
_VISIBLE = re.compile(rb"[\x21-\x7e]{1,128}\Z")


class Call:
    """What every route needs to know of its request, taken from the ASGI scope without copying it.

    request_id   X-Request-Id if it was 1..128 visible ASCII characters, else a new id
    headers      the headers that are read anywhere, by lower-case name, with all their values
    org_id       the tenant, once ``access`` has found it
    unread       a body was announced and has not been read to its end
    logged       the exception that was already told to the log
    correlated   the correlation id of the job that the answer is about, once that is known
    made         the job that this request made
    """

    __slots__ = (
        "_path",
        "_prefer",
        "_raw_path",
        "correlated",
        "headers",
        "logged",
        "made",
        "method",
        "org_id",
        "request_id",
        "started",
        "unread",
    )

    def __init__(self, scope: Scope, new_id: Callable[[], str]) -> None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in READ:
                # White space around a value is no part of it (RFC 9110, section 5.5); the parser leaves it behind.
                headers.setdefault(name, []).append(value.strip(b" \t"))
        announced = headers.get(b"content-length")
        self.headers = headers
        self.method: str = scope["method"]
        self.request_id = _visible(headers.get(b"x-request-id")) or new_id()
        # Not the scope: that may hold this call, and only the garbage collection would free the two.
        self._raw_path: bytes | None = scope.get("raw_path")
        self._path: str = scope.get("path", "")
        self.org_id: OrgId = DEFAULT_ORG
        self.unread = b"transfer-encoding" in headers or (announced is not None and announced != [b"0"])
        self.logged: Exception | None = None
        self.correlated: str | None = None
        self.made: Job | None = None
        self.started = perf_counter()
        self._prefer: Prefer | None = None

    def first(self, name: bytes) -> bytes | None:
        """The header's first value, or None."""
        values = self.headers.get(name)
        return values[0] if values else None

    def only(self, name: bytes, field: str) -> str | None:
        """The header's value, or None. Raises ValidationError naming ``field`` if it is repeated."""
        values = self.headers.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise ValidationError.of(field, "must not be repeated")
        return values[0].decode("latin-1")

    @property
    def instance(self) -> str:
        """The path as it was sent, percent-encoded, at most 1,000 characters."""
        raw = self._raw_path or quote(self._path).encode()
        return str(raw[:_MAX_INSTANCE].decode("ascii", "replace"))

    @property
    def prefer(self) -> Prefer:
        """What the Prefer headers ask for."""
        if self._prefer is None:
            values = self.headers.get(b"prefer")
            self._prefer = parse_prefer(value.decode("latin-1") for value in values) if values else NOTHING
        return self._prefer

    def accepts(self, media_type: str) -> bool:
        """True if an Accept header names exactly ``media_type`` with a weight above 0."""
        return any(name == media_type and weight > 0 for name, weight in self._accepted())

    def accepts_only(self, media_type: str) -> bool:
        """True if there is an Accept header and it names nothing but ``media_type``."""
        names = [name for name, weight in self._accepted() if weight > 0]
        return bool(names) and all(name == media_type for name in names)

    def wants_problem(self) -> bool:
        """True if errors are to be sent as application/problem+json."""
        return b"accept" in self.headers and self.accepts("application/problem+json")

    def correlation_id(self) -> str | None:
        """X-Correlation-Id if it has the form of a request id; anything else is passed over."""
        return _visible(self.headers.get(b"x-correlation-id"))

    def _accepted(self) -> list[tuple[str, float]]:
        found = []
        for value in self.headers.get(b"accept", ()):
            for part in value.decode("latin-1").lower().split(","):
                name, _, rest = part.partition(";")
                weight = re.search(r"(?:^|;)\s*q=([01](?:\.\d{0,3})?)\s*(?:;|$)", rest)
                if name.strip():
                    found.append((name.strip(), float(weight[1]) if weight else 1.0))
        return found


def _visible(values: list[bytes] | None) -> str | None:
    if values is None or len(values) != 1 or not _VISIBLE.match(values[0]):
        return None
    return values[0].decode("ascii")


class Body:
    """The body of one request, to be read once, never more than ``limit`` bytes of it."""

    def __init__(self, call: Call, receive: Receive, limit: int) -> None:
        """Raises PayloadTooLargeError at once if more than ``limit`` bytes are announced."""
        self._call, self._receive, self._limit = call, receive, limit
        announced = call.first(b"content-length")
        if announced is not None and (
            not announced.isdigit() or len(announced) > 18 or int(announced) > limit
        ):
            raise _too_large(limit)
        encoding = call.only(b"content-encoding", "Content-Encoding")
        if encoding not in (None, "", "identity"):
            raise ValidationError.of("Content-Encoding", "compressed bodies are not taken")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises PayloadTooLargeError, ValidationError if it stalls, ClientGoneError."""
        received = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        more = True
        while more:
            try:
                async with asyncio.timeout_at(began + BODY_GRACE_SECONDS + received / BODY_BYTES_PER_SECOND):
                    message = await self._receive()
            except TimeoutError:
                raise ValidationError.of("body", "did not arrive in time") from None
            if message["type"] != "http.request":
                raise ClientGoneError
            data = message.get("body", b"")
            more = message.get("more_body", False)
            received += len(data)
            if received > self._limit:
                raise _too_large(self._limit)
            if not more:
                self._call.unread = False
            if data:
                yield data

    async def read(self) -> bytes:
        """The whole of it. Raises what ``chunks`` raises."""
        pieces = [data async for data in self.chunks()]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body is larger than the {limit} bytes this server takes")


async def client_gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. Only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
