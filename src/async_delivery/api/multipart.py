"""Reading ``multipart/form-data`` as it arrives: the part ``request`` into memory, the part ``file`` in chunks.

Knows the form's grammar and limits, and neither jobs nor the store.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from async_delivery.domain.errors import FieldIssue, PayloadTooLargeError, ValidationError

# The library logs a warning for each form that is not one; here that is an answer to its sender.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

PARTS = ("request", "file")
_MAX_NAME = 255
_MEDIA_TYPE = re.compile(r"[!#$&^_.+A-Za-z0-9-]{1,80}/[!#$&^_.+A-Za-z0-9-]{1,80}(?:;[\x20-\x7e]{0,90})?\Z")


@dataclass(frozen=True, slots=True)
class FileHead:
    """What a client says of the file it sends: a bare, printable name, and a media type if it gives a plausible one."""

    filename: str
    media_type: str | None


class FileSink:
    """Where the file's bytes go. ``begin`` once, ``write`` for each piece, ``end`` when it was whole."""

    async def begin(self, head: FileHead) -> None:
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class _Part:
    """The part that is being read."""

    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    header_name: bytes = b""
    header_value: bytes = b""


def boundary_of(content_type: str) -> bytes:
    """The boundary in a Content-Type of multipart/form-data. Raises ValidationError."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise ValidationError.of("Content-Type", "multipart/form-data needs a boundary of 1 to 70 characters")
    return boundary


async def read_form(
    boundary: bytes, chunks: AsyncIterator[bytes], sink: FileSink, max_request_bytes: int
) -> bytes:
    """Feed the file to ``sink`` and return the part ``request``.

    Raises ValidationError for a part that is missing, repeated or unknown, and for a form that is not one;
    PayloadTooLargeError for a ``request`` beyond ``max_request_bytes``; what the sink raises.
    """
    reader = _Reader(boundary, sink, max_request_bytes)
    async for data in chunks:
        await reader.feed(data)
    return reader.finish()


class _Reader:
    """Turns the parser's callbacks, which cannot wait, into steps that can."""

    def __init__(self, boundary: bytes, sink: FileSink, max_request_bytes: int) -> None:
        self._sink = sink
        self._limit = max_request_bytes
        self._part = _Part()
        self._seen: list[str] = []
        self._request = bytearray()
        self._steps: list[Callable[[], Awaitable[None]]] = []
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise ValidationError.of("body", f"is not multipart/form-data: {exc}") from None
        steps, self._steps = self._steps, []
        for step in steps:
            await step()

    def finish(self) -> bytes:
        if not self._ended:
            raise ValidationError.of("body", "the form ends before its last boundary")
        missing = [FieldIssue(name, "this part is missing") for name in PARTS if name not in self._seen]
        if missing:
            raise ValidationError(f"{missing[0].field}: this part is missing", missing)
        return bytes(self._request)

    def _on_part_begin(self) -> None:
        self._part = _Part()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _on_header_end(self) -> None:
        part = self._part
        # Names of parts and files are UTF-8 in what browsers and curl send.
        text = part.header_value.decode("utf-8", "replace")
        part.headers[part.header_name.decode("latin-1").lower()] = text
        part.header_name = part.header_value = b""

    def _on_headers_finished(self) -> None:
        part = self._part
        # The library reads headers as Latin-1 and gives bytes back: the same detour, there and back.
        disposition = part.headers.get("content-disposition", "").encode().decode("latin-1")
        options = parse_options_header(disposition)[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in PARTS:
            raise ValidationError.of(name[:64] or "body", "unknown part; the form has request and file")
        if name in self._seen:
            raise ValidationError.of(name, "this part occurs more than once")
        self._seen.append(name)
        part.name = name
        if name == "file":
            filename = options.get(b"filename", b"").decode("utf-8", "replace")
            head = FileHead(bare_name(filename), _media_type(part.headers.get("content-type")))
            self._steps.append(lambda: self._sink.begin(head))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._part.name == "file":
            self._steps.append(lambda: self._sink.write(piece))
            return
        if len(self._request) + len(piece) > self._limit:
            raise PayloadTooLargeError(f"request: this part is larger than the {self._limit} bytes taken")
        self._request += piece

    def _on_part_end(self) -> None:
        if self._part.name == "file":
            self._steps.append(self._sink.end)

    def _on_end(self) -> None:
        self._ended = True


def bare_name(filename: str) -> str:
    """The last component of a client's file name, printable, at most 255 bytes; ``file`` where nothing is left."""
    last = re.split(r"[/\\]", filename)[-1]
    clean = "".join(char for char in last if char.isprintable()).strip()
    while len(clean.encode()) > _MAX_NAME:
        # The end of a name says what kind of file it is.
        stem, dot, ending = clean.rpartition(".")
        clean = stem[:-1] + dot + ending if dot and len(ending) < 20 and stem else clean[:-1]
    return clean if clean.strip(". ") else "file"


def _media_type(text: str | None) -> str | None:
    return text.strip() if text and _MEDIA_TYPE.match(text.strip()) else None
