"""A bounded queue with a thread of its own behind it: what observers do about a fact costs its teller next to nothing.

Whoever is behind, the teller never waits: what does not fit is dropped and counted. What is done with the entries is
the business of the one who gives ``handle``. Imports the standard library only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# Entries are handled together so that a busy server wakes its thread ten times a second and not once per request.
GATHER_SECONDS = 0.1
# A batch is a write, and each write gives the interpreter away to whoever waits for it: few large ones are cheaper.
_BATCH = 1024


class Backlog(Generic[T]):
    """Entries on their way to ``handle``, which gets them in order, some at a time, on one thread.

    name      of the thread
    capacity  entries that may wait; more are dropped
    on_drop   hears how many were dropped, on the thread that found out
    dropped   how many were, so far
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], None],
        capacity: int = 10_000,
        *,
        on_drop: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._handle = handle
        self._capacity = capacity
        self._on_drop = on_drop
        self._waiting: deque[T] = deque()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = True
        self._closed = False
        self._dropping = threading.Lock()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, entry: T, *, urgent: bool = False) -> None:
        """Leave ``entry``, from any thread; never waits. An urgent one is handled without waiting for more."""
        if len(self._waiting) >= self._capacity or self._closed:
            self.drop(1)
            return
        self._waiting.append(entry)
        if urgent:
            self._hurry.set()
        # Read after the append; the thread looks for entries after it has set it. So one of both sees the other.
        if self._idle:
            self._idle = False
            self._wake.set()

    def drop(self, count: int) -> None:
        """Count entries that were lost."""
        with self._dropping:
            self.dropped += count
        self._on_drop(count)

    def close(self, seconds: float) -> bool:
        """Take no more, and handle what waits, for so long at most. False if it could not all be handled."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._closed:
                self._hurry.wait(GATHER_SECONDS)
                self._hurry.clear()
            self._drain()
            self._idle = True
            if self._waiting:
                self._idle = False
                self._wake.set()
            elif self._closed:
                return

    def _drain(self) -> None:
        waiting = self._waiting
        while waiting:
            batch = [waiting.popleft() for _ in range(min(len(waiting), _BATCH))]
            try:
                self._handle(batch)
            except Exception:  # noqa: BLE001  an entry that cannot be handled must not end those that can
                self.drop(len(batch))
