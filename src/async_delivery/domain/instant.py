"""Instants as text: RFC 3339 in UTC with milliseconds, the one form on every edge."""

from __future__ import annotations

from datetime import UTC, datetime


def format_instant(at: datetime) -> str:
    """``2026-03-01T12:00:00.000Z``. Raises ValueError for a naive datetime."""
    if at.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """The aware UTC instant of an RFC 3339 text. Raises ValueError for anything else, a missing zone included."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or len(text) < len("2026-03-01T12:00Z"):
        raise ValueError(f"{text!r} is not an RFC 3339 instant such as 2026-03-01T12:00:00Z")
    return at if at.tzinfo is UTC else at.astimezone(UTC)
