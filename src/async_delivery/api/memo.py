"""Remembering how something was written, for as long as it has not changed. Bounded, and never asked what is true."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """The last ``size`` things at most; when it is full it starts anew. Safe on any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """What was put under ``key``, or None."""
        return self._known.get(key)

    def put(self, key: K, value: V) -> V:
        """Remember ``value`` and return it."""
        if len(self._known) >= self._size:
            self._known = {}
        self._known[key] = value
        return value
