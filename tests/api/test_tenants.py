"""What a foreign tenant gets is, byte for byte, what anyone gets for an id that does not exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from async_delivery.api.app import ROUTES, Route
from async_delivery.engine import jobs
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import NOBODYS, Web, finished, started, stored_jobs, without_request_id
from tests.engine.support import ALPHA, submitted

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Everything that may make a route look at the thing itself before it looks whose it is.
VARIANTS: tuple[dict[str, str], ...] = (
    {},
    {"If-None-Match": "*"},
    {"If-None-Match": 'W/"4"'},
    {"Prefer": "wait=30"},
    {"Prefer": "handling=strict, respond-async"},
    {"Range": "bytes=0-10"},
    {"Accept": "application/problem+json"},
    {"Idempotency-Key": "k"},
)
TAILS = ("", "?view=latest", "?view=requested", "?limit=1&after=0", "?channel=in_app", "?limit=0")


def with_ids() -> list[tuple[str, str]]:
    """Every path of the table that names a job or result, with every method it might be asked by."""
    paths = sorted({route.path for route in ROUTES if "_id}" in route.path})
    return [(method, path) for path in paths for method in METHODS]


def a_completed_job(rt: Runtime) -> tuple[str, str]:
    job = finished(rt)
    return job.job_id, str(job.result_id)


def a_running_job(rt: Runtime) -> tuple[str, str]:
    return started(rt).job.job_id, NOBODYS


def a_canceled_job(rt: Runtime) -> tuple[str, str]:
    job = submitted(rt)
    jobs.cancel(rt, ALPHA, job.job_id, "tenant", None)
    return job.job_id, NOBODYS


def a_held_job(rt: Runtime) -> tuple[str, str]:
    job_id, result_id = a_completed_job(rt)
    jobs.hold(rt, ALPHA, stored_jobs(rt)[0].job_id, True)
    return job_id, result_id


def an_expired_result(rt: Runtime) -> tuple[str, str]:
    job = finished(rt, results_ttl_seconds=0)
    clock = rt.clock
    assert isinstance(clock, FakeClock)
    clock.advance(seconds=1)
    return job.job_id, str(job.result_id)


STATES: tuple[Callable[[Runtime], tuple[str, str]], ...] = (
    a_completed_job,
    a_running_job,
    a_canceled_job,
    a_held_job,
    an_expired_result,
)


def blurred(answer: Any, ident: str) -> Any:
    status, headers, body = without_request_id(answer)
    return status, [(k, v.replace(ident, "ID")) for k, v in headers], body.replace(ident.encode(), b"ID")


@pytest.mark.parametrize("state", STATES)
def test_a_foreign_thing_and_an_unknown_one_are_the_same_on_every_route(
    rt: Runtime, web: Web, state: Callable[[Runtime], tuple[str, str]]
) -> None:
    job_id, result_id = state(rt)
    before = stored_jobs(rt)
    compared = 0
    for method, path in with_ids():
        mine = job_id if "{job_id}" in path else result_id
        for variant in VARIANTS:
            for tail in TAILS if method in ("GET", "HEAD") else ("",):
                headers = {"X-Org-Id": "beta", **variant}
                foreign, unknown = (
                    web(method, path.format(job_id=ident, result_id=ident) + tail, headers=headers)
                    for ident in (mine, NOBODYS)
                )
                assert blurred(foreign, mine) == blurred(unknown, NOBODYS), (method, path, tail, variant)
                assert foreign.status_code in {400, 404, 405}
                compared += 1

    assert compared > 500
    assert stored_jobs(rt) == before


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if "_id}" in route.path], ids=lambda r: f"{r.method} {r.path}"
)
def test_the_owner_is_answered_where_others_find_nothing(rt: Runtime, web: Web, route: Route) -> None:
    job_id, result_id = a_completed_job(rt)
    path = route.path.format(job_id=job_id, result_id=result_id)

    assert web(route.method, path, headers={"X-Org-Id": "beta"}).status_code == 404
    assert web(route.method, path, headers={"X-Org-Id": "Alpha"}).status_code == 404
    assert web(route.method, path, headers={"X-Org-Id": ""}).status_code == 400
    assert web(route.method, path, headers=[]).status_code == 404
    assert web(route.method, path).status_code in {200, 204, 409}


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if not route.open], ids=lambda r: f"{r.method} {r.path}"
)
def test_a_bad_name_is_refused_on_every_route(web: Web, route: Route) -> None:
    path = route.path.format(job_id=NOBODYS, result_id=NOBODYS, name="count")

    for headers in (
        [("X-Org-Id", "a b")],
        [("X-Org-Id", "a"), ("X-Tenant-Id", "b")],
        [("X-Org-Id", "a")] * 2,
    ):
        answer = web(route.method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


ODD_IDS = (
    *(
        "x",
        "0",
        NOBODYS.upper(),
        NOBODYS[:-1],
        NOBODYS + "0",
        NOBODYS.replace("-", ""),
        "x" * 129,
        "x" * 5_000,
    ),
    *("%00", "%2e%2e", "a%2Fb", "%F0%9F%98%80", "%ff", "'%20OR%201=1--", "*", "%25", "id%0d%0aX: y", "%20"),
)


@pytest.mark.parametrize("ident", ODD_IDS)
def test_what_cannot_be_an_id_is_as_unknown_as_any_other(web: Web, ident: str) -> None:
    for path in (
        "/analyze/jobs/{}",
        "/analyze/results/{}",
        "/analyze/jobs/{}/events",
        "/analyze/jobs/{}/results",
    ):
        answer = web.get(path.format(ident))

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_head_is_get_without_the_body_on_every_route(rt: Runtime, web: Web) -> None:
    job_id, result_id = a_completed_job(rt)
    for route in ROUTES:
        if route.method != "GET":
            continue
        for org_id in ("alpha", "beta"):
            path = route.path.format(job_id=job_id, result_id=result_id, name="count")
            headers = {"X-Org-Id": org_id, "X-Request-Id": "r"}
            got, head = (web(method, path, headers=headers) for method in ("GET", "HEAD"))

            assert head.status_code == got.status_code
            assert head.content == b""
            assert int(got.headers["content-length"]) == len(got.content)
            if path == "/metrics":  # what it tells has moved on between the two
                del got.headers["content-length"], head.headers["content-length"]
            assert head.headers == got.headers
