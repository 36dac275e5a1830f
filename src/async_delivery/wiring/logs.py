"""What the serving process says on stderr: log records, and the facts of telemetry an operator must hear of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from async_delivery import telemetry

log = logging.getLogger("async_delivery")

# The service's own troubles; a job that fails is its tenant's business and has its own record.
_WARNINGS = frozenset(
    {
        "chore.failed",
        "claim.failed",
        "fork.failed",
        "heartbeat.failed",
        "slot.failed",
        "workdir.kept",
        "write.refused",
    }
)
_NEWS = frozenset({"worker.started", "worker.ended", "forkserver.started", "cleanup.finished"})


def log_to_stderr(level: str) -> Callable[[], None]:
    """Log records and facts from ``level`` on. Returns the way to stop telling facts."""
    handler = logging.StreamHandler()
    form = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    form.converter = time.gmtime
    handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What clients get wrong on the wire is theirs to hear, and they do: each has its 400.
    logging.getLogger("uvicorn.error").setLevel(
        max(logging.ERROR, root.level) if level != "debug" else logging.DEBUG
    )
    return telemetry.attach(_tell)


def _tell(name: str, values: Mapping[str, Any]) -> None:
    level = logging.WARNING if name in _WARNINGS else logging.INFO if name in _NEWS else logging.DEBUG
    # Another forkserver was needed: the one before it died.
    if name == "forkserver.started" and values.get("again"):
        level = logging.WARNING
    if log.isEnabledFor(level):
        log.log(level, "%s %s", name, " ".join(f"{key}={_text(value)}" for key, value in values.items()))


def _text(value: object) -> str:
    """A value on one line, and of a job its name only: what is in it may be a tenant's secret."""
    value = getattr(value, "job_id", value)
    return repr(value) if isinstance(value, str) and not value.isalnum() else str(value)[:500]
