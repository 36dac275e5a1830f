"""Sliding windows over the answers of one route: how many, how many failed, how long they took.

Kept in a ring of time steps, each with counts in log-spaced buckets of latency, so memory is fixed and adding
answers costs a search for each bucket that they fall into. Time is an argument (seconds of a monotonic clock).
Standard library only.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

STEP_SECONDS = 5
SHORT_SECONDS = 300
LONG_SECONDS = 900

# Buckets grow by 10 %, and a value is reported as the middle of its bucket: at most 5 % off.
_GROWTH = 1.1
_FASTEST_SECONDS = 1e-5
_SLOWEST_SECONDS = 600.0
_BUCKETS = math.ceil(math.log(_SLOWEST_SECONDS / _FASTEST_SECONDS, _GROWTH)) + 1
# The longest latency of each bucket but the last, which has no end.
_BOUNDS = [_FASTEST_SECONDS * _GROWTH**bucket for bucket in range(_BUCKETS)]
_STEPS = LONG_SECONDS // STEP_SECONDS


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a window holds. ``failed`` are answers of the class 5xx; both shares are None without answers.

    p95_seconds   latency that 95 % of the answers did not exceed, within 5 %
    """

    answers: int
    failed: int
    p95_seconds: float | None

    @property
    def failed_share(self) -> float | None:
        """``failed`` of ``answers``, 0..1."""
        return self.failed / self.answers if self.answers else None


class _Step:
    """One step of time. ``number`` says which; an older one is emptied when its place is used again."""

    __slots__ = ("answers", "failed", "latencies", "number")

    def __init__(self) -> None:
        self.number = -1
        self.answers = 0
        self.failed = 0
        self.latencies: dict[int, int] = {}

    def begin(self, number: int) -> None:
        self.number = number
        self.answers = self.failed = 0
        self.latencies = {}


class Window:
    """The last LONG_SECONDS of one route. Safe to use from any thread."""

    def __init__(self) -> None:
        self._steps = [_Step() for _ in range(_STEPS + 1)]
        self._lock = threading.Lock()

    def add(self, now: float, seconds: Sequence[float], failed: bool) -> None:
        """Answers of the step that ``now`` is in: how long each took, in ascending order."""
        number = int(now // STEP_SECONDS)
        step = self._steps[number % len(self._steps)]
        with self._lock:
            if step.number != number:
                step.begin(number)
            step.answers += len(seconds)
            step.failed += failed * len(seconds)
            place = 0
            while place < len(seconds):
                # Many are alike, so whole buckets are counted at a time.
                bucket = bucket_of(seconds[place])
                end = len(seconds) if bucket == _BUCKETS else bisect_right(seconds, _BOUNDS[bucket], place)
                step.latencies[bucket] = step.latencies.get(bucket, 0) + end - place
                place = end

    def look(self, now: float, window_seconds: int) -> Traffic:
        """What the ``window_seconds`` before ``now`` held, to the step."""
        newest = int(now // STEP_SECONDS)
        oldest = newest - window_seconds // STEP_SECONDS
        answers = failed = 0
        latencies: dict[int, int] = {}
        with self._lock:
            for step in self._steps:
                if oldest < step.number <= newest:
                    answers += step.answers
                    failed += step.failed
                    for bucket, count in step.latencies.items():
                        latencies[bucket] = latencies.get(bucket, 0) + count
        return Traffic(answers, failed, quantile(latencies, 0.95))


def bucket_of(seconds: float) -> int:
    """The bucket of a latency; the first and the last one take what is beyond them."""
    return bisect_left(_BOUNDS, seconds)


def quantile(latencies: dict[int, int], share: float) -> float | None:
    """The latency in seconds that ``share`` of the counted answers did not exceed; None without any."""
    total = sum(latencies.values())
    if not total:
        return None
    rank = math.ceil(share * total)
    for bucket in sorted(latencies):
        rank -= latencies[bucket]
        if rank <= 0:
            break
    # The middle of the bucket, by ratio: its ends are _GROWTH apart.
    return float(_FASTEST_SECONDS * _GROWTH ** (bucket - 0.5))
