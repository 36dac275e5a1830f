"""What goes over the socket between a slot and its child: tagged frames, never pickles.

A frame is one tag byte, the payload's length in four bytes (big-endian) and the payload. The parent decides by tag
and announced length whether it reads on, so a child can neither make it run code nor fill its memory. Standard
library only: the child's side of it is imported in every child.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

_HEADER = struct.Struct("!BI")
_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 18


class Tag(IntEnum):
    """What a frame is. JOB goes down to the child, the others come up from it.

    STARTED comes from an executor that keeps attempts waiting for their resources: the wait is over.
    """

    JOB = ord("J")
    PROGRESS = ord("P")
    PARTIAL = ord("S")
    RESULT = ord("R")
    ERROR = ord("E")
    CANCELED = ord("X")
    DESCRIPTION = ord("D")
    STARTED = ord("B")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    tag: Tag
    payload: bytes


class BrokenFrameError(Exception):
    """What came is no frame: an unknown tag, or a small frame that claims to be large."""


class FrameTooLargeError(Exception):
    """A frame is longer than its limit; it was not read."""

    def __init__(self, tag: Tag, size: int, limit: int) -> None:
        super().__init__(f"{tag.name} of {size} bytes, at most {limit}")
        self.tag, self.size, self.limit = tag, size, limit


def pack(tag: Tag, payload: bytes = b"") -> bytes:
    """The bytes of a frame. Raises OverflowError for 4 GiB and more."""
    if len(payload) > 0xFFFFFFFF:
        raise OverflowError(f"{len(payload)} bytes do not fit into one frame")
    return _HEADER.pack(tag, len(payload)) + payload


def join(head: dict[str, Any], body: bytes) -> bytes:
    """A payload of a small JSON object and bytes that are carried as they are."""
    return join_bytes(json.dumps(head).encode(), body)


def join_bytes(head: bytes, body: bytes) -> bytes:
    """The same of an object that is JSON already."""
    return _LENGTH.pack(len(head)) + head + body


def split(payload: bytes) -> tuple[bytes, bytes]:
    """The head (JSON, not parsed yet) and the body of a joined payload. Raises BrokenFrameError."""
    if len(payload) < _LENGTH.size:
        raise BrokenFrameError("a joined payload without its length")
    (size,) = _LENGTH.unpack_from(payload)
    start = _LENGTH.size + size
    if start > len(payload):
        raise BrokenFrameError("a joined payload shorter than its head")
    return payload[_LENGTH.size : start], payload[start:]


class FrameReader:
    """The parent's end: reads what has arrived, and only what it is willing to keep.

    limit   the longest payload that is taken for a tag; 0 refuses the tag
    """

    def __init__(self, channel: socket.socket, limit: Callable[[Tag], int]) -> None:
        self._channel = channel
        self._limit = limit
        self._buffer = bytearray()
        self.at_end = False

    @property
    def empty(self) -> bool:
        """True if nothing was read that has not been given out."""
        return not self._buffer

    def read(self) -> bool:
        """Take in what there is, without waiting; False if there was nothing. Sets ``at_end`` at end of file."""
        try:
            data = self._channel.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            self.at_end = True
            return False
        self._buffer += data
        return True

    def frames(self) -> Iterator[Frame]:
        """The whole frames read so far. Raises BrokenFrameError, FrameTooLargeError."""
        buffer = self._buffer
        at = 0
        try:
            while len(buffer) - at >= _HEADER.size:
                number, size = _HEADER.unpack_from(buffer, at)
                tag = self._checked(number, size)
                start = at + _HEADER.size
                if len(buffer) - start < size:
                    return
                at = start + size
                yield Frame(tag, bytes(buffer[start:at]))
        finally:
            del buffer[:at]

    def _checked(self, number: int, size: int) -> Tag:
        try:
            tag = Tag(number)
        except ValueError:
            raise BrokenFrameError(f"unknown tag {number}") from None
        limit = self._limit(tag)
        if not limit:
            raise BrokenFrameError(f"{tag.name} does not belong here")
        if size > limit:
            raise FrameTooLargeError(tag, size, limit)
        return tag


def receive(channel: socket.socket) -> Frame | None:
    """The child's end: wait for one frame; None at end of file."""
    header = _exactly(channel, _HEADER.size)
    if header is None:
        return None
    number, size = _HEADER.unpack(header)
    payload = _exactly(channel, size)
    return None if payload is None else Frame(Tag(number), payload)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        data = channel.recv(min(size, _READ_BYTES))
        if not data:
            return None
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
