"""JSON as strictly as it is kept: what one reader could understand otherwise than another is refused.

Refused, each with the path of the place: text that is not JSON, NaN and infinities, numbers beyond a double,
integers beyond 64 bits, keys that occur twice, lone surrogates, U+0000, nesting deeper than MAX_DEPTH, a byte
order mark, bytes that are not UTF-8, and anything but an object at the top.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from async_delivery.domain.errors import FieldIssue, ValidationError

MAX_DEPTH = 64
MAX_ISSUES = 50
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_SPACE = b" \t\r\n"
# Numbers that might not fit into 64 bits; most bodies have none, and decode at full speed.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


class _Twice(dict[str, Any]):
    """An object in which keys occur more than once, and which."""

    repeated: tuple[str, ...] = ()


class _Unreadable:
    """Stands where a number was that has no exact form."""

    def __init__(self, issue: str) -> None:
        self.issue = issue


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice, seen = _Twice(found), set[str]()
    twice.repeated = tuple(dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return twice


def _constant(name: str) -> Any:
    return _Unreadable(f"{name} is not JSON")


def _integer(text: str) -> Any:
    # int() refuses thousands of digits with an error of its own, and would take long before that.
    value = int(text) if len(text) <= 20 else None
    if value is None or not _INT_MIN <= value <= _INT_MAX:
        return _Unreadable("an integer must fit into 64 bits; give it as text")
    return value


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant).decode
_decode_long = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer
).decode


def decode_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``. Raises ValidationError naming every faulty place, at most MAX_ISSUES."""
    plain = _plain_object(data)
    return _look_through(data) if plain is None else plain


def _plain_object(data: bytes) -> dict[str, Any] | None:
    """The object in ``data`` if it is so plain that nothing in it could be refused; None: it has to be looked through.

    Written again it has to be the same text but for white space. A key that occurs twice would be missing then, and a
    number beyond its kind would be another one. What escapes bring in is not looked at, nor is deep nesting.
    """
    if b"\\" in data or data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        return None
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if type(value) is not dict or orjson.dumps(value).translate(None, _SPACE) != data.translate(None, _SPACE):
        return None
    return value


def _look_through(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise ValidationError.of("body", "is empty; send a JSON object")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ValidationError.of("body", f"is not UTF-8 at byte {exc.start}") from None
    if text.startswith("\ufeff"):
        raise ValidationError.of("body", "starts with a byte order mark; send plain UTF-8")
    try:
        value = (_decode_long if _LONG_NUMBER.search(data) else _decode)(text)
    except RecursionError:
        raise ValidationError.of("body", f"is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as exc:
        raise ValidationError.of("body", f"is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise ValidationError.of("body", "must be a JSON object")
    # Only an escape can bring U+0000 or half a surrogate pair past the decoders above.
    look = _Look(escapes=b"\\u" in data)
    look.walk(value, "", 1)
    if look.issues:
        first = look.issues[0]
        raise ValidationError(f"{first.field}: {first.issue}", look.issues)
    return value


class _Look:
    """One walk over a decoded body that collects what is wrong with it."""

    def __init__(self, escapes: bool) -> None:
        self._escapes = escapes
        self.issues: list[FieldIssue] = []

    def walk(self, value: Any, path: str, depth: int) -> None:
        """``path`` of ``value`` without a leading dot; ``depth`` counts the containers around and including it."""
        kind = type(value)
        if kind is str:
            if self._escapes:
                self._text(value, path)
        elif kind is float:
            if math.isinf(value):
                self._fault(path, "a number must fit into a double")
        elif kind is dict or kind is _Twice:
            self._object(value, path, depth)
        elif kind is list:
            self._array(value, path, depth)
        elif kind is _Unreadable:
            self._fault(path, value.issue)

    def _object(self, value: dict[str, Any], path: str, depth: int) -> None:
        if self._too_deep(path, depth):
            return
        for key in value.repeated if isinstance(value, _Twice) else ():
            self._fault(_join(path, key), "the key occurs more than once")
        for key, item in value.items():
            name = _join(path, key)
            if self._escapes:
                self._text(key, name)
            self.walk(item, name, depth + 1)

    def _array(self, value: list[Any], path: str, depth: int) -> None:
        if self._too_deep(path, depth):
            return
        for index, item in enumerate(value):
            # Long arrays are mostly numbers: those that are fine are not worth a path.
            if type(item) is not int:
                self.walk(item, f"{path}[{index}]", depth + 1)

    def _too_deep(self, path: str, depth: int) -> bool:
        if depth > MAX_DEPTH:
            self._fault(path, f"is nested deeper than {MAX_DEPTH} levels")
        return depth > MAX_DEPTH

    def _text(self, text: str, path: str) -> None:
        if "\0" in text:
            self._fault(path, "text must not contain U+0000")
        # isascii is known without a look at the text.
        elif not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            self._fault(path, "text must not contain half of a surrogate pair")

    def _fault(self, path: str, issue: str) -> None:
        if len(self.issues) < MAX_ISSUES:
            self.issues.append(FieldIssue(path or "body", issue))


def _join(path: str, key: str) -> str:
    # The path is shown to people: long keys are cut, and what cannot be sent as UTF-8 is escaped.
    name = key[:64].encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")
    return f"{path}.{name}" if path else name
