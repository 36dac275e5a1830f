"""From DuckDB's Python values to plain JSON ones, and from text to SQL. No I/O; imports nothing of the project."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

TEXT_LIMIT = 200
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def plain(value: Any) -> Any:
    """``value`` as JSON can say it: not finite → None, integers beyond 64 bits → text, the rest as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _INT_MIN <= value <= _INT_MAX else str(value)
    if isinstance(value, float):
        # Adding 0.0 turns -0.0 into 0.0: which of the two equal values DuckDB meets first is chance.
        return value + 0.0 if math.isfinite(value) else None
    if isinstance(value, Decimal):
        number = float(value)
        return number + 0.0 if math.isfinite(number) and Decimal(repr(number)) == value else str(value)
    return cut(str(value))


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """``text`` with at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rounded(value: float | None, scale: float, digits: int = 9) -> float | None:
    """``value`` to ``digits`` significant digits of the larger of itself and ``scale``; None if not finite.

    Sums of floats depend in their last digits on how threads share the rows. What is left here does not.
    """
    if value is None or not math.isfinite(value):
        return None
    size = max(abs(value), abs(scale) if math.isfinite(scale) else 0.0)
    if size == 0:
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(size))) + 0.0


def percent(part: int, whole: int) -> float:
    """Share in percent with two decimals; 0 of 0 is 0."""
    return round(100 * part / whole, 2) if whole else 0.0


def literal(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def iso(text: str | None) -> str | None:
    """DuckDB's text of an instant as ISO 8601; dates and times of day stay as they are."""
    if text is None:
        return None
    if text[10:11] == " " and text[11:12].isdigit():
        text = text[:10] + "T" + text[11:]
        if text.endswith("+00"):
            text = text[:-3] + "Z"
    return text
