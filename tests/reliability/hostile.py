"""Bytes as no client library would send them, and the rules that every answer to them must obey.

Nothing of the product is imported: what an error looks like is written down here once more.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

ORG = "hostile"
# In no answer may this be the name of a header, or this text stand where only the server speaks.
EVIL = b"X-Evil"
MEMBERS = {"ok", "error", "code", "message", "details", "request_id", "type", "title", "status", "instance"}
_ANSWER_SECONDS = 30.0
_SILENCE_SECONDS = 0.15
_CONTROL = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\xff]")


@dataclass(frozen=True, slots=True)
class Request:
    """One connection's worth of bytes.

    good      statuses beyond 4xx that are right as well; where it is empty the request must be refused
    answers   how many answers there may be at most: more would mean that a request was smuggled in
    """

    name: str
    data: bytes
    good: frozenset[int] = frozenset()
    answers: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, as it came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        found = re.search(rb"\r\n" + name.lower().encode() + rb": *([^\r\n]*)", self.head.lower())
        return found[1].decode("latin-1") if found else None

    @property
    def same(self) -> tuple[int, str]:
        """What must not depend on the store, or on the moment."""
        text = self.body.decode("utf-8", "replace")
        text = re.sub(r'"(request_id|correlation_id|[a-z]+_at|ts)":"[^"]*"', r'"\1":""', text)
        text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", text)
        return self.status, text if self.status >= 400 else ""


def message(method: str, target: bytes, *headers: bytes, body: bytes | None = None, org: str = ORG) -> bytes:
    """A request with a Host, a tenant and, with a body, its length."""
    lines = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: service", b"Connection: close"]
    if org:
        lines.append(b"X-Org-Id: " + org.encode())
    lines += headers
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def send(port: int, data: bytes, *, patience: float = _SILENCE_SECONDS) -> list[Reply] | None:
    """The answers until the server closes the connection, or is silent once it has answered. None: it was closed
    without any."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS) as connection:
        with suppress(OSError):
            connection.sendall(data)
        with suppress(OSError):
            while piece := connection.recv(262_144):
                got += piece
                # Once there is a whole answer, only a smuggled one could follow, and that at once.
                connection.settimeout(patience if complete(got) else _ANSWER_SECONDS)
    return list(replies(got)) or None


def complete(got: bytes) -> bool:
    try:
        return bool(list(replies(got)))
    except ValueError:
        return False


def replies(got: bytes) -> Iterator[Reply]:
    """The answers in ``got``. Raises ValueError if what is there is none, or not whole."""
    while got:
        head, end, rest = got.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        if not end or not found:
            raise ValueError(f"this is no answer: {got[:200]!r}")
        status = int(found[1])
        said = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
        size = int(said[1]) if said else 0
        if status in (204, 304) or status < 200:
            size = 0
        if len(rest) < size:
            raise ValueError("an answer is shorter than it says")
        yield Reply(status, head, rest[:size])
        got = rest[size:]


def faults_of(request: Request, found: list[Reply] | None) -> list[str]:
    """What is wrong with the answers to a request."""
    if found is None:
        return [] if not request.good else [f"{request.name}: closed without an answer"]
    wrong = []
    if len(found) > request.answers:
        wrong.append(f"{len(found)} answers")
    for reply in found:
        wrong += _faults(request, reply)
    return [f"{request.name}: {fault}" for fault in wrong]


def _faults(request: Request, reply: Reply) -> Iterable[str]:
    if reply.status not in request.good and not 400 <= reply.status <= 499:
        yield f"status {reply.status} {reply.body[:200]!r}"
    if raw := _CONTROL.search(reply.head):
        yield f"{raw[0]!r} in the head of the answer"
    if re.search(rb"\r\n" + EVIL + rb" *:", reply.head, re.IGNORECASE) or b"\n" in reply.head.replace(
        b"\r\n", b""
    ):
        yield f"a forged header: {reply.head!r}"
    if b"Traceback" in reply.body or b"/site-packages/" in reply.body:
        yield f"the inside is shown: {reply.body[:300]!r}"
    if reply.status >= 400 and reply.body:
        yield from _faults_of_error(reply)


def _faults_of_error(reply: Reply) -> Iterable[str]:
    try:
        document: Any = json.loads(reply.body)
    except ValueError:
        yield f"an error that is no JSON: {reply.body[:200]!r}"
        return
    missing = MEMBERS - set(document)
    if missing or document.get("ok") is not False or document.get("status") != reply.status:
        yield f"not the one error body: {document}"
    # ``header`` gives lower case.
    if str(document.get("request_id")).lower() != reply.header("X-Request-Id"):
        yield "two request ids"
    # JSON escapes what is below a space; nothing else may come as it was sent either.
    if bytes(reply.body).translate(None, bytes(range(0x20, 0x100))):
        yield f"control bytes in the body: {reply.body[:200]!r}"
