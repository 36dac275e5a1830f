"""Single cells of a row to values and back: instants, JSON text.

An instant that is missing or not valid in a row never stops a reader: it shows as EPOCH where a value must have
one, as None where it may lack it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from async_delivery.domain.canonical import canonical_json

Row = Sequence[Any]
# A fraction or an exponent, or text that looks like one.
_FRACTION = re.compile(rb"[0-9][.eE][-+0-9]")

# What both writers of JSON write alike; and floats that are whole numbers up to here.
_ALIKE = frozenset({str, int, bool, type(None)})
_WHOLE = 1e9

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR_FUTURE = datetime(9999, 12, 31, tzinfo=UTC)
# The years 1 to 9999: what a datetime can hold.
MIN_INSTANT = -62_135_596_800_000_000
MAX_INSTANT = 253_402_300_799_999_999


def to_micros(at: datetime) -> int:
    """Microseconds since 1970 of an aware instant."""
    span = at - EPOCH
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def optional_micros(at: datetime | None) -> int | None:
    """``to_micros``, or None for None."""
    return None if at is None else to_micros(at)


def optional_instant(value: Any) -> datetime | None:
    """The instant of a column; None where it is missing or not valid."""
    if type(value) is not int or not MIN_INSTANT <= value <= MAX_INSTANT:
        return None
    return EPOCH + timedelta(microseconds=value)


def instant(value: Any) -> datetime:
    """The instant of a column that every value has; EPOCH where the row lacks it."""
    return optional_instant(value) or EPOCH


def to_json_text(value: Any) -> str:
    """Canonical JSON as the text columns keep it."""
    return canonical_json(value).decode()


def flat_json_text(value: Mapping[str, Any]) -> str:
    """``to_json_text`` of an object of plain values, several times as fast where the fast writer says the same."""
    for each in value.values():
        kind = type(each)
        if kind in _ALIKE or (kind is float and -_WHOLE < each < _WHOLE and each.is_integer()):
            continue
        return to_json_text(dict(value))
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # keys, numbers or texts that it cannot say
        return to_json_text(dict(value))


def canonical_of_parsed(value: Any) -> bytes:
    """``canonical_json`` of what a JSON parser has made, several times as fast where no number in it has a fraction: in
    those alone the fast writer differs. NaN must not be in it."""
    try:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return canonical_json(value)
    return canonical_json(value) if _FRACTION.search(data) else data
