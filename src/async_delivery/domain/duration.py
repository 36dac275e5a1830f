"""Durations as people write them: ``604800``, ``30m``, ``24h``, ``7d``."""

from __future__ import annotations

import re

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_FORM = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([smhdw]?)\Z")

# A hundred years: beyond it, date arithmetic leaves the range of timestamps.
MAX_SECONDS = 100 * 365 * 86400


def parse_duration(text: str) -> float:
    """Seconds of ``text``: a number of seconds, or a number with s, m, h, d or w.

    Raises ValueError for anything else, negatives included, and beyond MAX_SECONDS.
    """
    found = _FORM.match(text.strip())
    if not found:
        raise ValueError(
            f"{text!r} is not a duration: give seconds or a number with s, m, h, d or w, such as 7d"
        )
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > MAX_SECONDS:
        raise ValueError(f"{text!r} is longer than {MAX_SECONDS} seconds")
    return seconds


def parse_ttl_seconds(text: str) -> int:
    """Whole seconds of a time to live; ``0`` is allowed. Raises ValueError otherwise, or for a fraction."""
    seconds = parse_duration(text)
    if seconds != int(seconds):
        raise ValueError(f"{text!r} is not a whole number of seconds")
    return int(seconds)
