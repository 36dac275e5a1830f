"""Where the members of a JSON object lie in a file, without reading the file into memory.

A document may be larger than memory allows its values to be, so its records are found by their places and parsed
one by one. The scan follows strings and brackets only; that what lies between them is JSON is for the parser to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from mmap import MADV_DONTNEED, mmap
from typing import NamedTuple

import orjson

Buffer = bytes | mmap
# How much of a map is looked at before it is handed back.
HELD_BYTES = 64 << 20

_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_KEY = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,}\]])")
_SCALAR = re.compile(rb"(?:" + _STRING + rb"|[^ \t\n\r,\]\}\[\{\"]++)", re.DOTALL)
# Everything up to the next bracket that stands in no string: one step in C for each bracket.
_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+([{}\[\]])', re.DOTALL)
_SPACES = re.compile(_SPACE)
# A bracket with nothing but its indentation before it.
_LAST_LINE = re.compile(rb"\n *+[}\]]")
# A wrong guess costs a parse of up to this much, so a section has only so many.
_LONGEST_GUESS, _WRONG_GUESSES = 1 << 20, 64
_CLOSING = frozenset(b"}]")
_OPENING, _COMMA, _CLOSE_OBJECT, _CLOSE_LIST = frozenset(b"{["), ord(","), ord("}"), ord("]")


class ScanError(Exception):
    """Not JSON from ``position`` on; ``ended`` where the file stops in the middle."""

    def __init__(self, position: int, ended: bool) -> None:
        super().__init__(f"at byte {position}")
        self.position, self.ended = position, ended


class Member(NamedTuple):
    """One member of an object, or element of a list (without a key): [start, end) of its value, and where it begins
    with its key."""

    key: str
    at: int
    start: int
    end: int


def open_object(buffer: Buffer, position: int) -> int:
    """The place of the opening brace that comes next. Raises ScanError."""
    start = _past_space(buffer, position)
    if start >= len(buffer) or buffer[start] != ord("{"):
        raise ScanError(start, ended=start >= len(buffer))
    return start


def elements(buffer: Buffer, start: int) -> Iterator[Member]:
    """The elements of the list that opens at ``start``. Raises ScanError."""
    position = _inside(buffer, start)
    if buffer[position] == _CLOSE_LIST:
        return
    while True:
        end = value_end(buffer, position)
        yield Member("", position, position, end)
        position, more = _after(buffer, end, _CLOSE_LIST)
        if not more:
            return
        position = _past_space(buffer, position)


def next_key(buffer: Buffer, position: int) -> tuple[str, int, int]:
    """The key that comes next, its place, and the place of its value. Raises ScanError."""
    found = _KEY.match(buffer, position)
    if found is None:
        raise ScanError(position, _past_space(buffer, position) >= len(buffer))
    try:
        key = orjson.loads(found.group(1))
    except orjson.JSONDecodeError:
        key = found.group(1)[1:-1].decode("utf-8", "replace")
    return key, found.start(1), found.end()


def more_members(buffer: Buffer, position: int) -> tuple[int, bool]:
    """Past the comma or the closing brace behind a member, and whether it was a comma. Raises ScanError."""
    return _after(buffer, position, _CLOSE_OBJECT)


def inside_object(buffer: Buffer, start: int) -> tuple[int, bool]:
    """Past the brace at ``start`` (past both if nothing is in between), and whether a member follows. Raises
    ScanError."""
    position = _inside(buffer, start)
    return (position + 1, False) if buffer[position] == _CLOSE_OBJECT else (position, True)


def value_end(buffer: Buffer, start: int) -> int:
    """The place behind the value at ``start``. Raises ScanError."""
    if start >= len(buffer):
        raise ScanError(start, ended=True)
    if buffer[start] not in _OPENING:
        found = _SCALAR.match(buffer, start)
        if found is None:
            raise ScanError(start, ended=buffer[start] == ord('"'))
        return found.end()
    depth, position, step = 0, start, _BRACKET.match
    hand_back_at = start + HELD_BYTES
    while True:
        bracket = step(buffer, position)
        if bracket is None:
            raise ScanError(position, ended=True)
        position = bracket.end()
        depth += 1 if buffer[position - 1] in _OPENING else -1
        if depth == 0:
            return position
        if position > hand_back_at:
            hand_back(buffer)
            hand_back_at = position + HELD_BYTES


def hand_back(buffer: Buffer) -> None:
    """Let the kernel have the pages of a map that were looked at: they would count as memory of this process."""
    if isinstance(buffer, mmap):
        buffer.madvise(MADV_DONTNEED)


class Ending:
    """Where the next record of a section ends, guessed by the look of the last: a program lays out all of them alike.

    A guess costs one search where ``value_end`` takes a step for each bracket. It may be wrong: whoever asks parses
    what it cuts off, and what is JSON from bracket to bracket ends nowhere else."""

    def __init__(self) -> None:
        self._mark, self._on_one_line = b"", False
        self._chances = _WRONG_GUESSES

    def guess(self, buffer: Buffer, start: int) -> int:
        """The place behind the value at ``start``, or 0."""
        if not self._mark or not self._chances:
            return 0
        found = buffer.find(self._mark, start, start + _LONGEST_GUESS)
        if found < 0:
            return 0
        end = found + len(self._mark)
        if self._on_one_line:
            end = found - 1 if buffer[found - 1] == _COMMA else found
        return end if end > start and buffer[end - 1] in _CLOSING else 0

    def wrong(self) -> None:
        """What was guessed last is no value."""
        self._chances -= 1

    def learn(self, buffer: Buffer, start: int, end: int) -> None:
        """A value lies in [start, end)."""
        last_line = buffer.rfind(b"\n", start, end)
        self._on_one_line = last_line < 0
        if self._on_one_line:
            self._mark = b"\n" if buffer[end : end + 2] == b",\n" or buffer[end : end + 1] == b"\n" else b""
        else:
            mark = buffer[last_line:end]
            self._mark = mark if _LAST_LINE.fullmatch(mark) else b""


def nothing_follows(buffer: Buffer, position: int) -> bool:
    """True if only white space is left."""
    return _past_space(buffer, position) == len(buffer)


def _past_space(buffer: Buffer, position: int) -> int:
    found = _SPACES.match(buffer, position)
    return position if found is None else found.end()


def _inside(buffer: Buffer, start: int) -> int:
    position = _past_space(buffer, start + 1)
    if position >= len(buffer):
        raise ScanError(position, ended=True)
    return position


def _after(buffer: Buffer, position: int, closing: int) -> tuple[int, bool]:
    found = _NEXT.match(buffer, position)
    if found is None:
        raise ScanError(position, _past_space(buffer, position) >= len(buffer))
    mark = buffer[found.end() - 1]
    if mark not in (_COMMA, closing):
        raise ScanError(position, ended=False)
    return found.end(), mark == _COMMA
