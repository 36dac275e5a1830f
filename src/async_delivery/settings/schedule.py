"""When something is to be done again and again: at an interval, by a cron expression, or never.

Cron expressions are read in UTC, like every instant of the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise

from cronsim import CronSim, CronSimError

from async_delivery.domain.duration import parse_duration

OFF = "off"
MIN_INTERVAL_SECONDS = 10.0
MAX_INTERVAL_SECONDS = 30 * 86_400.0
_CRON_FIELDS = 5
# Gaps looked at to know the longest; over a year for a weekly expression.
_GAPS = 60


@dataclass(frozen=True, slots=True)
class Schedule:
    """``text`` as it was given. At most one of the others is set; neither means never.

    interval_seconds   from one start to the next
    cron               minute, hour, day of month, month, day of week, in UTC
    """

    text: str
    interval_seconds: float | None = None
    cron: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_off(self) -> bool:
        """True if it is never done."""
        return self.interval_seconds is None and self.cron is None

    def next_after(self, at: datetime) -> datetime:
        """The first time after ``at``. Only where ``is_off`` is False."""
        if self.interval_seconds is not None:
            return at + timedelta(seconds=self.interval_seconds)
        return next(_times(self.cron or "", at))

    def longest_gap_seconds(self, at: datetime) -> float:
        """The longest time between two runs; 0 where it is off."""
        if self.is_off:
            return 0.0
        if self.interval_seconds is not None:
            return self.interval_seconds
        times = islice(_times(self.cron or "", at), _GAPS)
        return max((later - earlier).total_seconds() for earlier, later in pairwise(times))


HOURLY = Schedule("1h", interval_seconds=3_600.0)


def parse_schedule(text: str) -> Schedule:
    """``off``, an interval such as ``1h``, or a cron expression. Raises ValueError."""
    given = " ".join(text.split())
    if given.lower() in {OFF, "0", "never"}:
        return Schedule(OFF)
    if len(given.split(" ")) == _CRON_FIELDS:
        return Schedule(given, cron=_checked(given))
    try:
        seconds = parse_duration(given)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither off, nor an interval such as 1h, nor a cron expression such as '15 3 * * *'"
        ) from None
    if not MIN_INTERVAL_SECONDS <= seconds <= MAX_INTERVAL_SECONDS:
        raise ValueError(f"{text!r} is not between {MIN_INTERVAL_SECONDS:g} s and 30 days")
    return Schedule(given, interval_seconds=seconds)


def _checked(expression: str) -> str:
    start = datetime(2026, 1, 1)  # noqa: DTZ001  any day will do, and only its calendar is asked for
    try:
        if next(_times(expression, start), None) is not None:
            return expression
        reason = "there is no such day"
    except ValueError as exc:
        reason = str(exc)
    raise ValueError(f"{expression!r} is not a cron expression such as '15 3 * * *' ({reason})")


def _times(expression: str, after: datetime) -> Iterator[datetime]:
    """Every time after ``after``, soonest first. Raises ValueError."""
    try:
        return CronSim(expression, after)
    except CronSimError as exc:
        raise ValueError(str(exc)) from exc
