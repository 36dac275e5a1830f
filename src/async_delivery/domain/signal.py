"""The five signals of operation: names, thresholds, hints, and how a value becomes a level.

Pure: where values come from is ``ops``'s business. The delete-count signal has two names, so there are six specs.
A threshold is exceeded when the value is larger; equal is still good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from statistics import median
from typing import Any

from async_delivery.domain.instant import format_instant


class Level(StrEnum):
    """How a signal stands. ``no_data``: nothing to judge by, which is neither good nor bad."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    NO_DATA = "no_data"


class SignalExit(IntEnum):
    """What a command that asked for signals ends with."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


# From good to bad. What is not known is worse than good: nobody has seen that it is good.
_ORDER = (Level.OK, Level.NO_DATA, Level.WARNING, Level.CRITICAL)
_EXIT = {
    Level.OK: SignalExit.OK,
    Level.WARNING: SignalExit.WARNING,
    Level.CRITICAL: SignalExit.CRITICAL,
    Level.NO_DATA: SignalExit.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """What a signal is.

    unit               of the value and of both thresholds
    window_seconds     how far back the value looks; None: it is about the last cleanup, or about now
    warning, critical  exceeded by a larger value; None: there is no such level, or it depends on the past
    hint               where to look first, for the one who is called
    """

    name: str
    unit: str
    window_seconds: int | None
    warning: float | None
    critical: float | None
    hint: str


@dataclass(frozen=True, slots=True)
class Signal:
    """A spec as it was judged by, the value (None: no data), its level, and when it was measured (aware UTC)."""

    spec: SignalSpec
    value: float | None
    level: Level
    measured_at: datetime

    def to_json(self) -> dict[str, Any]:
        """As ``GET /ops/signals`` and the command show it."""
        spec = self.spec
        return {
            "name": spec.name,
            "value": self.value,
            "unit": spec.unit,
            "window_seconds": spec.window_seconds,
            "level": self.level.value,
            "warning": spec.warning,
            "critical": spec.critical,
            "hint": spec.hint,
            "measured_at": format_instant(self.measured_at),
        }


_DELETES_HINT = (
    "Check the TTLs and the time sources, and in the last reports the quality of the data"
    " (skipped_missing_timestamp)."
)

HTTP_5XX_RATE = SignalSpec(
    "async_result_permalink_http_5xx_rate_5m",
    "ratio",
    300,
    0.01,
    0.05,
    "Narrow down the error: validation of the tenant headers, read access to the store, the last deployment.",
)
P95_MS = SignalSpec(
    "async_result_permalink_p95_ms_15m",
    "ms",
    900,
    1200.0,
    2500.0,
    "Check the I/O latency of the store, contention for its lock, and the load of the host.",
)
CLEANUP_EXIT_CODE = SignalSpec(
    "async_retention_cleanup_exit_code",
    "exit_code",
    None,
    None,
    0.0,
    "Pause the cleanup, then look at its last words on stderr and at its report.",
)
RESULTS_DELETE_COUNT = SignalSpec(
    "async_retention_results_delete_count", "rows", 604_800, None, None, _DELETES_HINT
)
EVENTS_DELETE_COUNT = SignalSpec(
    "async_retention_events_delete_count", "rows", 604_800, None, None, _DELETES_HINT
)
WITHOUT_IN_APP = SignalSpec(
    "async_notifications_terminal_jobs_without_in_app_10m",
    "jobs",
    600,
    0.0,
    None,
    "Check how notifications are made (async.job.completed, async.job.failed, async.job.canceled), collisions of"
    " dedupe keys, and how they are read.",
)

SPECS: tuple[SignalSpec, ...] = (
    HTTP_5XX_RATE,
    P95_MS,
    CLEANUP_EXIT_CODE,
    RESULTS_DELETE_COUNT,
    EVENTS_DELETE_COUNT,
    WITHOUT_IN_APP,
)


def judge(spec: SignalSpec, value: float | None) -> Level:
    """The level of ``value`` by the spec's thresholds."""
    if value is None:
        return Level.NO_DATA
    if spec.critical is not None and value > spec.critical:
        return Level.CRITICAL
    if spec.warning is not None and value > spec.warning:
        return Level.WARNING
    return Level.OK


def worst(levels: Iterable[Level]) -> Level:
    """The one that decides; ``no_data`` for none at all."""
    return max(levels, key=_ORDER.index, default=Level.NO_DATA)


def exit_code(level: Level) -> SignalExit:
    """What a command ends with at this level."""
    return _EXIT[level]


# ---------------------------------------------------------------- the delete counts
SPIKE_FACTOR = 3.0
BASELINE_SECONDS = 604_800
# Rows are old only after their TTL, and cleanups are a day apart at most.
STALL_MARGIN_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class DeletePoint:
    """What one cleanup did to one kind of row.

    ttl_seconds   by which it judged what is old
    """

    at: datetime
    delete_count: int
    kept_count: int
    ttl_seconds: int


def baseline(points: Sequence[DeletePoint]) -> float | None:
    """The median of what cleanups deleted in the seven days before the last point; None without any.

    Runs that found nothing to delete are left out: on a quiet store they are the many, their median is 0, and
    three times that would make a spike of every first delete.
    """
    if not points:
        return None
    since = points[-1].at - timedelta(seconds=BASELINE_SECONDS)
    counts = [point.delete_count for point in points[:-1] if point.at >= since and point.delete_count > 0]
    return float(median(counts)) if counts else None


def stalled(points: Sequence[DeletePoint]) -> bool:
    """Nothing was deleted for longer than rows are kept, although there were rows and they became more."""
    if not points:
        return False
    last = points[-1]
    began = last.at - timedelta(seconds=last.ttl_seconds + STALL_MARGIN_SECONDS)
    before = [point for point in points if point.at <= began]
    if not before or any(point.delete_count for point in points if point.at >= began):
        return False
    return 0 < before[-1].kept_count < last.kept_count


def judge_deletes(spec: SignalSpec, points: Sequence[DeletePoint], measured_at: datetime) -> Signal:
    """The delete-count signal over cleanups, oldest first; the last is the one that is judged.

    The warning threshold of the answer is three times the baseline, where there is one.
    """
    if not points:
        return Signal(spec, None, Level.NO_DATA, measured_at)
    usual = baseline(points)
    judged_by = spec if usual is None else replace(spec, warning=SPIKE_FACTOR * usual)
    value = float(points[-1].delete_count)
    level = Level.WARNING if stalled(points) else judge(judged_by, value)
    return Signal(judged_by, value, level, measured_at)
