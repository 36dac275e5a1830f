"""What the serving process says on stderr: everything goes through one log, in one form, from one thread."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO

from async_delivery import telemetry
from async_delivery.ops.logs import Log
from async_delivery.ops.sink import Sink

_STDERR = 2


def log_to_stderr(level: str, form: str | None = None) -> Callable[[], None]:
    """Log facts and records from ``level`` on. Returns the way to stop, which writes what is still to be written.

    form   json or text; None: text on a terminal, JSON elsewhere
    """
    stack = ExitStack()
    log = Log(Sink(_STDERR), level, form or _form_for(sys.stderr))
    stack.callback(log.close)
    _take_over_logging(log, level, stack)
    _take_over_threads(stack)
    stack.callback(telemetry.attach(log.hear))
    return stack.close


def _form_for(stream: TextIO | None) -> str:
    return "text" if stream is not None and stream.isatty() else "json"


def _take_over_logging(log: Log, level: str, stack: ExitStack) -> None:
    root = logging.getLogger()
    handlers, number = root.handlers[:], root.level

    def give_back() -> None:
        root.handlers[:] = handlers
        root.setLevel(number)
        logging.captureWarnings(False)

    root.handlers[:] = [log.handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # What clients get wrong on the wire is theirs to hear, and they do: each has its 400.
    logging.getLogger("uvicorn.error").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    # A client's own line has the whole address, and with it whatever stands in its query.
    for name in ("httpcore2", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A line for each try to connect; what it means is told once, as store.away.
    logging.getLogger("psycopg.pool").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    # Libraries' own news are not this service's.
    for name in ("alembic", "asyncio", "opentelemetry", "urllib3"):
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    stack.callback(give_back)


def _take_over_threads(stack: ExitStack) -> None:
    """A thread that dies is told in one line, and not by Python in many."""
    before = threading.excepthook

    def told(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            name = args.thread.name if args.thread else "?"
            logging.getLogger("async_delivery").error("thread %s ended", name, exc_info=args.exc_value)

    def give_back() -> None:
        threading.excepthook = before

    threading.excepthook = told
    stack.callback(give_back)
