"""One record of a document, read field by field: each value in the form it must have here, or a note that it was
not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from math import isfinite
from typing import Any

from async_delivery.domain.account import Note
from async_delivery.domain.canonical import MAX_DEPTH, canonical_json
from async_delivery.domain.errors import NotSerializableError
from async_delivery.domain.found import UNKNOWN
from async_delivery.domain.instant import parse_instant

# What an id may be that clients can ask for in a path and every database can keep.
ID_FORM = "1 to 128 characters of A-Z a-z 0-9 _ . : -, the first a letter or digit"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SHOWN = 200
_NOTHING: tuple[Any, ...] = (None, "", [], {})
MISSING_INSTANT = "no valid instant: kept without one, so cleanup keeps it and counts it"


class RefusedRecord(Exception):  # noqa: N818  what becomes of a record, not a fault of the program
    """The record cannot be kept; says why."""


def is_id(text: object) -> bool:
    """True if ``text`` has ID_FORM."""
    return isinstance(text, str) and _ID.match(text) is not None


class Fields:
    """The fields of one record.

    known   those that mean something here
    plain   every value in it has a canonical form as it is
    data    the record as it stands in the document
    """

    __slots__ = ("_known", "data", "get", "notes", "plain", "record")

    def __init__(
        self,
        record: Mapping[str, Any],
        known: frozenset[str] = frozenset(),
        *,
        plain: bool = False,
        data: bytes = b"",
    ) -> None:
        self.record, self._known, self.plain, self.data = record, known, plain, data
        self.get = record.get
        self.notes: list[Note] = []

    def note(self, name: str, done: str) -> None:
        """Something is odd about a field."""
        self.notes.append(Note(done, name, shown(self.record.get(name))))

    def left(self) -> list[str]:
        """Fields with a value that mean nothing here."""
        if self._known.issuperset(self.record):
            return []
        return [name for name in self.record.keys() - self._known if self.record[name] not in _NOTHING]

    # ------------------------------------------------------------ values
    def text(self, name: str) -> str | None:
        """Text that any database can keep, or None."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.note(name, f"{name} is no text: left out")
            return None
        mended = storable(value)
        if mended != value:
            self.note(name, f"{name} held characters that no text may hold: replaced")
        return mended

    def one_of(self, name: str, known: Mapping[str, str], default: str, quiet: bool = False) -> str:
        """A word, by what it means here; ``default`` where it is missing or not known.

        quiet   another spelling of the same is nothing to be noted"""
        value = self.get(name)
        if value is None:
            return default
        meant = known.get(value.strip().lower()) if isinstance(value, str) else None
        if meant is None:
            self.note(name, f"{name} is not known here: taken as {default}")
            return default
        if meant != value and not quiet:
            self.note(name, f"{name} is {meant} here")
        return meant

    def instant(self, name: str) -> datetime | None:
        """An instant, or None where it is missing or not valid; the latter is noted."""
        value = self.get(name)
        if value is None:
            return None
        found = instant_of(value)
        if found is None:
            self.note(name, f"{name}: {MISSING_INSTANT}")
        return found

    def needed_instant(self, name: str) -> datetime:
        """An instant that should be there; UNKNOWN, with a note, where it is not."""
        found = self.instant(name)
        if found is not None:
            return found
        if self.record.get(name) is None:
            self.note(name, f"{name}: {MISSING_INSTANT}")
        return UNKNOWN

    def whole(self, name: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
        """A whole number within its bounds; ``default`` where it is missing, and with a note where it is not one."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, float) and isfinite(value) and value == int(value):
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            self.note(name, f"{name} is no whole number from {low} to {high}: {default}")
            return default
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number, brought within its bounds; ``default`` where it is none."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            self.note(name, f"{name} is no number: {default:g}")
            return default
        if not low <= value <= high:
            value = min(high, max(low, value))
            self.note(name, f"{name} is outside {low:g} to {high:g}: {value:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True only if it is true."""
        value = self.get(name)
        if value not in (None, True, False) or type(value) in (int, float):
            self.note(name, f"{name} is neither true nor false: false")
        return value is True

    def object(self, name: str) -> dict[str, Any]:
        """An object that has a JSON form; an empty one where it is missing, and with a note where it is none."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.note(name, f"{name} is no object: left empty")
            return {}
        return self.mend(name, value) or {}

    def mend(self, name: str, value: Any) -> Any:
        """``value``, with what JSON cannot say replaced and noted."""
        if self.plain:
            return value
        try:
            canonical_json(value)
        except NotSerializableError as exc:
            self.note(name, f"{name} at {exc}: replaced by null, U+FFFD or text")
            return mended(value)
        except RecursionError:
            self.note(name, f"{name} is nested too deeply: left empty")
            return None
        return value


def instant_of(value: Any) -> datetime | None:
    """The instant of an RFC 3339 text; None for anything else."""
    try:
        return parse_instant(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def mended(value: Any, depth: int = 0) -> Any:
    """``value`` with null for NaN and infinities, U+FFFD for lone surrogates, text for numbers beyond 64 bits and for
    what is nested too deeply."""
    match value:
        case dict() if depth < MAX_DEPTH:
            return {str(mended(key, depth + 1)): mended(item, depth + 1) for key, item in value.items()}
        case list() if depth < MAX_DEPTH:
            return [mended(item, depth + 1) for item in value]
        case dict() | list():
            return "…"
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case float() if not isfinite(value):
            return None
        case int() if not isinstance(value, bool) and not -(2**63) <= value < 2**64:
            return str(value) if value.bit_length() < 4096 else None
    return value


def storable(text: str) -> str:
    """``text`` as every database can keep it: no NUL, no lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return _SURROGATE.sub("\ufffd", text).replace("\0", "\ufffd")


def shown(value: Any) -> Any:
    """A value for a note: whole where it is small, else its beginning."""
    if isinstance(value, str):
        text = storable(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    text = storable(repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
