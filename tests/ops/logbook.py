"""A log in a file that a test reads, and the facts it is fed with."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from async_delivery import telemetry
from async_delivery.ops.logs import Log
from async_delivery.ops.sink import Sink

# The clock of ``at`` has no date; what was told long ago is only dated so.
ANSWERED = {
    "at": time.perf_counter(),
    "route": "/analyze/results/{result_id}",
    "method": "GET",
    "status": 200,
    "seconds": 0.0012345,
    "bytes": 512,
    "request_id": "r-1",
    "correlation_id": "c-1",
    "org_id": "alpha",
    "job": None,
    "traceparent": None,
}
DEADLINE_SECONDS = 30.0


@dataclass
class Page:
    """A file that a log writes to."""

    path: Path

    @contextmanager
    def log(self, level: str = "info", form: str = "json", **more: Any) -> Iterator[Log]:
        """A log that hears every fact and record; closed at the end, so that all of it is in the file."""
        number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        log = Log(Sink(number), level, form, **more)
        detach = telemetry.attach(log.hear)
        root, client = logging.getLogger(), logging.getLogger("httpx2")
        client.setLevel(logging.WARNING)  # the test's own client tells whole addresses
        before, handlers = root.level, root.handlers[:]
        root.handlers[:] = [log.handler]
        root.setLevel(level.upper())
        try:
            yield log
        finally:
            detach()
            root.handlers[:] = handlers
            root.setLevel(before)
            client.setLevel(logging.NOTSET)
            assert log.close()
            os.close(number)

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """Every line as JSON; of one event if it is named."""
        found = [json.loads(line) for line in self.text().split("\n")[:-1]]
        return [record for record in found if event in {None, record["event"]}]


def eventually(condition: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.005)
