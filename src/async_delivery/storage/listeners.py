"""Who wants to hear of changes in a store, as ``contract.Store.subscribe`` promises it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from async_delivery.storage.contract import Signal

Listener = Callable[[Signal], Any]


class Listeners:
    """May be changed from any thread, also by a listener that is being told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` from now on, until what is returned is called."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def stop() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return stop

    def tell(self, signal: Signal) -> None:
        """Call every listener; what one raises goes to standard error."""
        for listener in self._listeners:
            try:
                listener(signal)
            except Exception as exc:  # noqa: BLE001  a broken listener must not stop every write of the process
                sys.stderr.write(f"a subscriber of the store failed: {exc!r}\n")
