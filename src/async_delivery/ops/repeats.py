"""Trouble that lasts: the first line of it is told at once, then one a minute, with how often it came meanwhile.

A full disk lets the same chore fail again and again, and a log that is flooded hides what else happens. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Hashable

TELL_EVERY_SECONDS = 60
_MOST_KEYS = 1_000


class Repeats:
    """What was told when, and how often it came since. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[int, int]] = {}

    def count(self, key: Hashable, at_ns: int) -> int | None:
        """How often ``key`` came since it was told last, this time included; None if it is not to be told now.

        at_ns   ns since 1970; a clock that was set back tells it at once
        """
        told_ns, untold = self._seen.get(key, (None, 0))
        if told_ns is not None and 0 <= at_ns - told_ns < TELL_EVERY_SECONDS * 10**9:
            self._seen[key] = (told_ns, untold + 1)
            return None
        if told_ns is None and len(self._seen) >= _MOST_KEYS:
            self._seen.clear()
        self._seen[key] = (at_ns, 0)
        return untold + 1
