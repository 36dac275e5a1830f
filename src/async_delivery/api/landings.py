"""From the threads of the store back to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

Landed = Callable[[Future[Any]], None]


class Landings:
    """Hears on ``loop`` of futures that are done on other threads: of all those of one commit in one go.

    To wake the loop takes a system call and a turn of it, so those that are done before it is awake come along.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[tuple[Landed, Future[Any]]] = deque()
        self._waking = False

    def expect(self, future: Future[Any], landed: Landed) -> None:
        """Call ``landed`` with ``future`` on the loop when it is done."""
        future.add_done_callback(lambda done: self._wake(landed, done))

    def _wake(self, landed: Landed, future: Future[Any]) -> None:
        self._done.append((landed, future))
        # Looked at after the append, and set back before the loop looks: so one of both sees the other.
        if not self._waking:
            self._waking = True
            # The loop may have been closed since; then nobody waits any more.
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._land)

    def _land(self) -> None:
        self._waking = False
        done = self._done
        while done:
            landed, future = done.popleft()
            try:
                landed(future)
            except Exception as exc:  # noqa: BLE001  the loop's to tell; those behind it are not to be left waiting
                self.loop.call_exception_handler({"message": "an answer failed", "exception": exc})
