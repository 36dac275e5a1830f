"""Remembering how something was written, for as long as it has not changed. Bounded, and never asked what is true."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """The last ``size`` things at most, with ``max_bytes`` together; when it is full it starts anew. Safe on any
    thread: two that put at the same moment may count a little wrongly until then."""

    def __init__(self, size: int, max_bytes: int = 1 << 62) -> None:
        self._size, self._max_bytes = size, max_bytes
        self._bytes = 0
        self._known: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """What was put under ``key``, or None."""
        return self._known.get(key)

    def put(self, key: K, value: V, size_bytes: int = 0) -> V:
        """Remember ``value`` and return it."""
        self._bytes += size_bytes
        if len(self._known) >= self._size or self._bytes > self._max_bytes:
            self._known, self._bytes = {}, size_bytes
        self._known[key] = value
        return value
