"""The fact that a request was answered: one for each, with the route it was about however it ended."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.engine.runtime import Runtime
from tests.api.support import NOBODYS, Web, finished

PERMALINK = "/analyze/results/{result_id}"


@pytest.fixture
def facts() -> Iterator[list[dict[str, Any]]]:
    heard: list[dict[str, Any]] = []
    detach = telemetry.attach(lambda name, values: heard.append(values) if name == "http.answered" else None)
    yield heard
    detach()


def test_an_answer_is_told_once_with_its_size_and_its_time(
    rt: Runtime, web: Web, facts: list[dict[str, Any]]
) -> None:
    job = finished(rt)
    began = perf_counter()

    answer = web.get(f"/analyze/results/{job.result_id}", headers={"X-Request-Id": "r-1"})

    (fact,) = facts
    assert began <= fact["at"] <= perf_counter()
    assert 0 < fact["seconds"] <= fact["at"] - began
    assert (fact["route"], fact["method"], fact["status"]) == (PERMALINK, "GET", 200)
    assert (fact["bytes"], fact["request_id"], fact["org_id"]) == (len(answer.content), "r-1", "alpha")
    assert fact["correlation_id"] == job.correlation_id


@pytest.mark.parametrize("path", ["/analyze/results/{}", "/analyze/jobs", "/analyses"])
def test_the_size_is_that_of_the_body_that_was_sent(
    rt: Runtime, web: Web, facts: list[dict[str, Any]], path: str
) -> None:
    job = finished(rt)

    got = web.get(path.format(job.result_id))
    head = web("HEAD", path.format(job.result_id))

    assert head.content == b""
    assert [fact["bytes"] for fact in facts] == [len(got.content), 0]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "route"),
    [
        ("GET", f"/analyze/results/{NOBODYS}", {}, 404, PERMALINK),
        # Refused before its route is looked for: it is an answer of that route all the same.
        ("GET", f"/analyze/results/{NOBODYS}", {"X-Org-Id": "not valid"}, 400, PERMALINK),
        ("POST", "/analyze", {"X-Org-Id": "not valid"}, 400, "/analyze"),
        ("POST", f"/analyze/results/{NOBODYS}", {}, 405, PERMALINK),
        ("GET", "/analyze/results/a/b", {}, 404, ""),
        ("GET", "/nowhere", {}, 404, ""),
    ],
)
def test_an_answer_belongs_to_the_route_of_its_path_however_it_ends(
    web: Web,
    facts: list[dict[str, Any]],
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    route: str,
) -> None:
    answer = web(method, path, headers=headers)

    (fact,) = facts
    assert (fact["route"], fact["status"]) == (route, status)
    assert fact["bytes"] == len(answer.content)
