"""Answers are counted many at a time, and each falls where it would alone."""

from __future__ import annotations

import random

import pytest

from async_delivery.ops import answers
from async_delivery.ops.answers import PERMALINK_ROUTE, Answers

JOBS_ROUTE = "/analyze/jobs/{job_id}"


def buckets_of(counted: Answers, name: str, **labels: str) -> list[float]:
    (family,) = [each for each in counted.collect() if each.name == name]
    return [
        sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and labels.items() <= sample.labels.items()
    ]


@pytest.mark.parametrize("together", [1, 7, 256])
def test_each_answer_falls_into_the_bucket_of_its_own_latency(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_TOGETHER", together)
    chance = random.Random(5)
    bounds = [*answers._PERMALINK_BOUNDS, 0.0, 100.0]
    told = [
        (chance.choice([PERMALINK_ROUTE, JOBS_ROUTE]), chance.choice([200, 304, 404, 500, 0]), seconds)
        for seconds in [*bounds, *bounds, *(chance.lognormvariate(-5, 3) for _ in range(400))]
    ]

    counted = Answers([(PERMALINK_ROUTE, "GET"), (JOBS_ROUTE, "GET")])
    for number, (route, status, seconds) in enumerate(told):
        at = 1_000.0 + number / 50
        counted.add({"at": at, "route": route, "method": "GET", "status": status, "seconds": seconds})

    permalinks = [seconds for route, _, seconds in told if route == PERMALINK_ROUTE]
    assert buckets_of(counted, "async_result_permalink_seconds") == [
        sum(seconds <= bound for seconds in permalinks) for bound in (*answers._PERMALINK_BOUNDS, 1e9)
    ]
    others = [seconds for route, _, seconds in told if route == JOBS_ROUTE]
    assert buckets_of(counted, "async_delivery_http_request_seconds", route=JOBS_ROUTE, method="GET") == [
        sum(seconds <= bound for seconds in others) for bound in (*answers._HTTP_BOUNDS, 1e9)
    ]
    traffic = counted.window.look(1_000.0 + len(told) / 50, 300)
    failed = sum(status in (0, 500) for route, status, _ in told if route == PERMALINK_ROUTE)
    assert (traffic.answers, traffic.failed) == (len(permalinks), failed)
