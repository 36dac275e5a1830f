"""Counts of HTTP answers, made for the busiest of facts: to tell of one costs a place in a list.

Answers are counted some hundred at a time, or when somebody asks: code that runs once in a request is cold, and in a
loop it costs a third. Numbers are put into Prometheus' terms when they are scraped, as the client library's own
counters take a lock for each. No label comes from a client: what it makes up is unmatched.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from async_delivery.ops.windows import STEP_SECONDS, Window

PERMALINK_ROUTE = "/analyze/results/{result_id}"
UNMATCHED = "unmatched"
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")

# Both thresholds of the p95 signal are buckets, so that a rule can tell on which side of them an answer was.
_HTTP_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.2, 2.5, 5.0, 15.0, 60.0)
_PERMALINK_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.2, 1.8, 2.5, 5.0, 10.0)
_FIRST_CLASS, _LAST_CLASS = 2, 5
_TOGETHER = 256


class _Latencies:
    """A histogram: how many answers fell between which bounds, and the sum of all."""

    __slots__ = ("bounds", "counts", "total_seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_seconds = 0.0

    def add(self, seconds: Sequence[float]) -> None:
        """Several answers, the quickest first."""
        before = 0
        for place, bound in enumerate(self.bounds):
            within = bisect_right(seconds, bound, before)
            self.counts[place] += within - before
            if within == len(seconds):
                break
            before = within
        else:
            self.counts[-1] += len(seconds) - before
        self.total_seconds += sum(seconds)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        names = [*map(floatToGoString, self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


class _Series:
    """The answers of one route and method: by class of status, and by latency."""

    __slots__ = ("classes", "latencies")

    def __init__(self) -> None:
        self.classes = [0] * len(STATUS_CLASSES)
        self.latencies = _Latencies(_HTTP_BOUNDS)


class Answers:
    """Safe to use from any thread. A collector of prometheus-client.

    routes   (template, method) of every route: the series there are, with 0 from the start
    """

    def __init__(self, routes: Iterable[tuple[str, str]]) -> None:
        self._window = Window()
        self._told: list[Mapping[str, Any]] = []
        self._lock = threading.Lock()
        self._unmatched = _Series()
        self._series: dict[tuple[str, str], _Series] = {}
        for route, method in sorted({*routes}):
            self._series[route, method] = _Series()
            if method == "GET":
                self._series[route, "HEAD"] = _Series()
        self._series[UNMATCHED, "GET"] = self._unmatched
        self._permalink_classes = [0] * len(STATUS_CLASSES)
        self._permalink = _Latencies(_PERMALINK_BOUNDS)

    def add(self, answer: Mapping[str, Any]) -> None:
        """One answer: ``at`` (seconds of the monotonic clock), ``route``, ``method``, ``status``, ``seconds``.

        A status of 0, where none was sent, is a failure of the service.
        """
        self._told.append(answer)
        if len(self._told) >= _TOGETHER:
            self._count()

    @property
    def window(self) -> Window:
        """The permalink's last minutes."""
        self._count()
        return self._window

    def _count(self) -> None:
        with self._lock:
            # Appending goes on meanwhile, on other threads: what comes after this length waits for the next time.
            told = self._told[:]
            del self._told[: len(told)]
            alike: dict[tuple[str, str, int, float], list[float]] = {}
            for answer in told:
                key = answer["route"], answer["method"], answer["status"], answer["at"] // STEP_SECONDS
                alike.setdefault(key, []).append(answer["seconds"])
            for (route, method, status, step), seconds in alike.items():
                seconds.sort()
                self._count_alike(route or UNMATCHED, method, status, step * STEP_SECONDS, seconds)

    def _count_alike(self, route: str, method: str, status: int, at: float, seconds: Sequence[float]) -> None:
        number = status // 100 if status else _LAST_CLASS
        place = min(max(number, _FIRST_CLASS), _LAST_CLASS) - _FIRST_CLASS
        series = self._series.get((route, method), self._unmatched)
        series.classes[place] += len(seconds)
        series.latencies.add(seconds)
        if route == PERMALINK_ROUTE:
            self._permalink_classes[place] += len(seconds)
            self._permalink.add(seconds)
            self._window.add(at, seconds, number >= _LAST_CLASS)

    def describe(self) -> Iterable[Metric]:
        """Nothing to say ahead."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Everything told so far."""
        self._count()
        requests = CounterMetricFamily(
            "async_delivery_http_requests",
            "Answers by route, method and class of status.",
            labels=["route", "method", "status_class"],
        )
        seconds = HistogramMetricFamily(
            "async_delivery_http_request_seconds",
            "From the first byte of a request to the last of its answer.",
            labels=["route", "method"],
        )
        permalinks = CounterMetricFamily(
            "async_result_permalink_requests", "Answers of the permalink.", labels=["status_class"]
        )
        latency = HistogramMetricFamily("async_result_permalink_seconds", "Latency of the permalink.")
        with self._lock:
            for (route, method), series in self._series.items():
                for status_class, count in zip(STATUS_CLASSES, series.classes, strict=True):
                    requests.add_metric([route, method, status_class], count)
                seconds.add_metric(
                    [route, method], series.latencies.buckets(), series.latencies.total_seconds
                )
            for status_class, count in zip(STATUS_CLASSES, self._permalink_classes, strict=True):
                permalinks.add_metric([status_class], count)
            latency.add_metric([], self._permalink.buckets(), self._permalink.total_seconds)
        yield from (requests, seconds, permalinks, latency)
