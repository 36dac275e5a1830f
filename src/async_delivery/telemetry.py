"""Facts for whoever wants to know: metrics, logs, traces attach here; nobody below knows them.

``emit`` is called after a commit, so nobody hears of what was not kept. A subscriber that breaks never breaks the
caller; its fault is told once on stderr. Imports nothing of the house.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

Subscriber = Callable[[str, dict[str, Any]], None]

_subscribers: tuple[Subscriber, ...] = ()
_lock = threading.Lock()
_told: set[int] = set()


def attach(subscriber: Subscriber) -> Callable[[], None]:
    """Hear every fact from now on as ``subscriber(name, values)``, on the thread that emits it. Returns detach."""
    global _subscribers  # noqa: PLW0603  one process, one set of observers
    with _lock:
        _subscribers = (*_subscribers, subscriber)

    def detach() -> None:
        global _subscribers  # noqa: PLW0603
        with _lock:
            _subscribers = tuple(other for other in _subscribers if other is not subscriber)

    return detach


def emit(name: str, **values: Any) -> None:
    """Tell a fact. ``name`` is ``noun.past_participle``; values are plain."""
    for subscriber in _subscribers:
        try:
            subscriber(name, values)
        except Exception as exc:  # noqa: BLE001  whatever an observer does, the work goes on
            if id(subscriber) not in _told:
                _told.add(id(subscriber))
                sys.stderr.write(f"a telemetry subscriber failed on {name}: {exc!r}\n")


@contextmanager
def span(name: str, **values: Any) -> Iterator[None]:
    """Emit ``name`` with ``seconds`` and ``ok`` when the block ends."""
    began = perf_counter()
    ok = False
    try:
        yield
        ok = True
    finally:
        emit(name, seconds=perf_counter() - began, ok=ok, **values)
