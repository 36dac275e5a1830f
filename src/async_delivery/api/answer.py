"""An answer before it is sent: status, headers and body, whichever way it goes out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")
NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")

Headers = list[tuple[bytes, bytes]]

_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(slots=True, eq=False)
class Answer:
    """A whole answer but for its X-Request-Id. Not to be changed once it is made (freezing it costs a microsecond).

    body    in pieces, so that large ones need not be joined
    holds   what must live until it is sent
    block   headers that come before the others, as ``header_block`` wrote them once for many answers
    """

    status: int
    headers: Headers
    body: tuple[bytes, ...] = ()
    holds: object = None
    block: bytes = b""

    def all_headers(self) -> Headers:
        """Those of the block and the others."""
        found: Headers = []
        for line in self.block.split(b"\r\n")[:-1]:
            name, _, value = line.partition(b": ")
            found.append((name, value))
        return found + self.headers


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """``headers`` as they go over the wire. Raises ValueError for a value that would end its line."""
    lines = []
    for name, value in headers:
        if _UNSENDABLE.search(value):
            raise ValueError(f"the header {name.decode()} has a control character")
        lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join(lines)
