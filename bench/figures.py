"""The arithmetic of the benchmarks: spreads, percentiles, ratios to a limit, verdicts. Pure; standard library only.

A figure has one value per round and, from the same rounds, one value of its limit. Ratios are formed within a round
and then reduced to their median, because two rounds on a shared machine are not comparable with each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

DASH = "\u2013"
TIMES = "\u00d7"


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and how far they lie apart."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest of at least one value."""
    if not values:
        raise ValueError("a spread needs at least one value")
    return Spread(statistics.median(values), min(values), max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below or at which ``share`` (0 < share <= 1) of the values lie, by nearest rank.

    Nearest rank gives a value that was measured, never one between two.
    """
    if not values or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    return sorted(values)[math.ceil(share * len(values)) - 1]


class Sense(StrEnum):
    """Which way is better. Rates are told as a percentage of their limit, costs as a multiple of it."""

    RATE = "rate"
    COST = "cost"


class Measure(StrEnum):
    """What a target speaks of."""

    VALUE = "value"
    RATIO = "ratio"


class Verdict(StrEnum):
    """Whether the median reaches the target. UNKNOWN: this run did not measure what the target speaks of."""

    YES = "yes"
    NO = "no"
    UNKNOWN = DASH


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach.

    text     as people read it, with the unit
    measure  whether ``bound`` is for the value or for its ratio to the limit
    bound    None if this run cannot judge it (it speaks of something that was not measured)
    """

    text: str
    measure: Measure = Measure.RATIO
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    name, unit   of the measured value; unit is "/s" for rates
    ours         the service, one value per round
    limits       the limit, one value per round of the same rounds; empty if there is none
    limit_name   what the limit is
    cpu_us       CPU microseconds of all server processes per operation, one per round; empty if not counted
    settings     how it was measured, in one sentence or two
    multiple     ratios are told as multiples also where more is better, as beside a peer
    """

    name: str
    unit: str
    sense: Sense
    ours: tuple[float, ...]
    settings: str
    limits: tuple[float, ...] = ()
    limit_name: str = ""
    target: Target | None = None
    cpu_us: tuple[float, ...] = ()
    limit_cpu_us: tuple[float, ...] = ()
    multiple: bool = False

    @property
    def ratios(self) -> tuple[float, ...]:
        """``ours`` over the limit, round by round. Raises ValueError if their rounds differ."""
        if not self.limits:
            return ()
        return tuple(value / limit for value, limit in zip(self.ours, self.limits, strict=True))

    @property
    def verdict(self) -> Verdict:
        """By the median; UNKNOWN without a bound or without what it is compared with."""
        if self.target is None or self.target.bound is None:
            return Verdict.UNKNOWN
        measured = self.ratios if self.target.measure is Measure.RATIO else self.ours
        if not measured:
            return Verdict.UNKNOWN
        median = statistics.median(measured)
        good = median >= self.target.bound if self.sense is Sense.RATE else median <= self.target.bound
        return Verdict.YES if good else Verdict.NO
