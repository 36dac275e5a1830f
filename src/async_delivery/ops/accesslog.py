"""The two signals of the permalink, computed from the log of a server instead of asked of it.

Reads what ``logs`` writes in its JSON form, also where a collector has put something before it, or wrapped it as
Docker does. Whatever else stands in the file is counted and passed over. Memory does not grow with the file: lines are
bounded, and what is kept are counts by second. Imports ``domain``.
"""

from __future__ import annotations

import gzip
import math
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import orjson

from async_delivery.domain.instant import parse_instant
from async_delivery.ops.facts import REQUEST

PERMALINK_ROUTE = "/analyze/results/{result_id}"
SHORT_SECONDS = 300
LONG_SECONDS = 900

_MAX_LINE = 65_536
_GZIP = b"\x1f\x8b"
_BEGIN = b'{"ts":"'
# The same inside the JSON of Docker, or of `journalctl -o json`.
_WRAPPED = rb"{\"ts\":\""
_WRAPPERS = ("log", "MESSAGE")
# Latencies are counted in buckets that grow by 1 %, each with its longest: what is reported is at most 1 % too long.
_GROWTH = math.log(1.01)


@dataclass(frozen=True, slots=True)
class LogFigures:
    """What a log says about the permalink. The shares are None where no answer fell into the window.

    error_share   of 5xx among the answers of the last 5 minutes, 0..1
    p95_ms        latency that 95 % of the answers of the last 15 minutes did not exceed
    answers_5m, errors_5m, answers_15m   what they are computed from
    ended_at      the end of both windows (aware UTC); None if the log has no line of ours and none was given
    requests      lines about a request, of any route and time
    others        further lines of the service's log
    foreign       lines of somebody else
    broken        lines that were meant to be ours and cannot be read
    """

    error_share: float | None
    p95_ms: float | None
    answers_5m: int
    errors_5m: int
    answers_15m: int
    ended_at: datetime | None
    requests: int
    others: int
    foreign: int
    broken: int


def measure_log(
    lines: Iterable[bytes], now: datetime | None = None, *, not_after: datetime | None = None
) -> LogFigures:
    """Both figures over windows that end at ``now`` (aware), or at the latest line of the log where None.

    Windows are exact to the second. Later lines than ``now`` are not counted.

    not_after   lines from after it are of a clock that went wrong: they count as broken. One of them would
                otherwise end the windows where no other answer is, and what is critical would be ok
    """
    seen: Counter[str] = Counter()
    windows = _Windows(now.timestamp() if now else None, not_after.timestamp() if not_after else math.inf)
    for line in lines:
        seen[_take(line, windows)] += 1
    short, long = windows.look(SHORT_SECONDS), windows.look(LONG_SECONDS)
    end = windows.end
    return LogFigures(
        error_share=short.errors / short.answers if short.answers else None,
        p95_ms=long.p95_ms(),
        answers_5m=short.answers,
        errors_5m=short.errors,
        answers_15m=long.answers,
        ended_at=datetime.fromtimestamp(end, UTC) if end is not None else None,
        requests=seen["requests"],
        others=seen["others"],
        foreign=seen["foreign"],
        broken=seen["broken"],
    )


def read_log(path: str) -> Iterator[bytes]:
    """The lines of the file ``path``, or of stdin for ``-``; compressed with gzip or not. Raises OSError.

    Of a line that is too long to be one of ours only the beginning is given. Where compressed data break off, the
    last line is one that cannot be read.
    """
    with ExitStack() as stack:
        raw = cast(
            BufferedReader, sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        )
        packed = raw.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
        source = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw))) if packed else raw
        try:
            yield from _bounded_lines(source)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            yield _BEGIN


def _bounded_lines(source: IO[bytes]) -> Iterator[bytes]:
    while line := source.readline(_MAX_LINE):
        yield line
        while len(line) == _MAX_LINE and not line.endswith(b"\n"):
            line = source.readline(_MAX_LINE)


def _take(line: bytes, windows: _Windows) -> str:
    """Count the line where it belongs; what it was."""
    record = _record(line)
    if record is None:
        return "foreign" if line.strip() else "blank"
    try:
        at = parse_instant(record["ts"]).timestamp()
        if at > windows.not_after:
            raise ValueError("from the future")
        request = record["event"] == REQUEST
        route, status, ms = (record["route"], record["status"], record["ms"]) if request else ("", 0, 0)
        if type(status) is not int or type(ms) not in {int, float} or ms < 0:
            raise ValueError("not an answer")
    except (KeyError, TypeError, ValueError, OverflowError):
        return "broken"
    windows.reach(at)
    if route == PERMALINK_ROUTE:
        windows.add(at, ms, failed=not 100 <= status < 500)
    return "requests" if request else "others"


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in ``line``, empty if it is one that cannot be read; None if it is somebody else's."""
    begin = line.find(_BEGIN)
    try:
        if begin < 0:
            if _WRAPPED not in line:
                return None
            outer = orjson.loads(line)
            line = next(outer[name] for name in _WRAPPERS if name in outer).encode()
            begin = line.index(_BEGIN)
        found = orjson.loads(line[begin:])
    except (ValueError, TypeError, AttributeError, StopIteration):
        return {}
    return found if "event" in found else None


class _Step:
    """The answers of one second, or of a window. ``latencies`` is bucket -> (how many, the longest in ms)."""

    __slots__ = ("answers", "errors", "latencies")

    def __init__(self) -> None:
        self.answers = 0
        self.errors = 0
        self.latencies: dict[int, tuple[int, float]] = {}

    def add(self, answers: int, errors: int, latencies: Iterable[tuple[int, tuple[int, float]]]) -> None:
        self.answers += answers
        self.errors += errors
        for bucket, (count, longest) in latencies:
            known, before = self.latencies.get(bucket, (0, 0.0))
            self.latencies[bucket] = (known + count, max(before, longest))

    def p95_ms(self) -> float | None:
        rank = math.ceil(0.95 * self.answers)
        for bucket in sorted(self.latencies):
            count, longest = self.latencies[bucket]
            rank -= count
            if rank <= 0:
                return longest
        return None


class _Windows:
    """The last LONG_SECONDS before ``end``, by second. Lines may come a little out of order."""

    def __init__(self, end: float | None, not_after: float) -> None:
        self.end = end
        self.not_after = not_after
        self._fixed = end is not None
        self._steps: dict[int, _Step] = {}

    def reach(self, at: float) -> None:
        """The log goes on at least until ``at``."""
        if self._fixed or (self.end is not None and at <= self.end):
            return
        self.end = at
        if len(self._steps) > 2 * LONG_SECONDS:
            oldest = int(at) - LONG_SECONDS
            self._steps = {second: step for second, step in self._steps.items() if second > oldest}

    def add(self, at: float, ms: float, *, failed: bool) -> None:
        """One answer within the longest window, or not."""
        end = at if self.end is None else self.end
        if at > end or int(at) <= int(end) - LONG_SECONDS:
            return
        step = self._steps.get(int(at)) or self._steps.setdefault(int(at), _Step())
        step.add(1, failed, [(_bucket(ms), (1, ms))])

    def look(self, seconds: int) -> _Step:
        """All answers of the last ``seconds``."""
        whole = _Step()
        newest = int(self.end or 0)
        for second, step in self._steps.items():
            if newest - seconds < second <= newest:
                whole.add(step.answers, step.errors, step.latencies.items())
        return whole


def _bucket(ms: float) -> int:
    return math.ceil(math.log(max(ms, 0.001)) / _GROWTH)
