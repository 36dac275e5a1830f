"""One error body for everything that goes wrong, each code once, and never more than it should say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from httpx2 import Response

from async_delivery.api.errors import KINDS
from async_delivery.domain.errors import AsyncDeliveryError, UnavailableError, ValidationError
from async_delivery.engine import jobs
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Reader
from async_delivery.testing import FakeClock
from tests.api.support import ASYNC, NOBODYS, Web, finished
from tests.engine.support import ALPHA, submitted

MEMBERS = {
    *("ok", "error", "code", "message", "details", "request_id", "type", "title", "status", "instance"),
}


def check(answer: Response, code: str, status: int, path: str) -> dict[str, Any]:
    """The body, if it is what every error has to be."""
    content: dict[str, Any] = answer.json()
    assert answer.status_code == status == content["status"] == KINDS[code].status
    assert set(content) >= MEMBERS
    assert content["ok"] is False
    assert content["error"] == content["code"] == code
    assert content["message"]
    assert content["type"] == f"urn:async-delivery:error:{code}"
    assert content["title"] == KINDS[code].title
    assert content["instance"] == path
    assert content["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert all(set(one) == {"field", "issue"} for one in content["details"])
    assert "Traceback" not in answer.text
    return content


def expired(rt: Runtime, clock: FakeClock) -> str:
    job = finished(rt, results_ttl_seconds=0)
    clock.advance(seconds=1)
    return f"/analyze/results/{job.result_id}"


def test_a_malformed_request(web: Web) -> None:
    content = check(web.post("/analyze", json={"analysis": 7}), "bad_request", 400, "/analyze")

    assert content["details"] == [{"field": "analysis", "issue": "must be a string"}]


def test_a_stranger_behind_no_proxy(rt: Runtime) -> None:
    with Web(rt, trusted_proxies=("10.0.0.0/8",)) as web:
        check(web.get("/analyses"), "forbidden", 403, "/analyses")


def test_something_unknown(web: Web) -> None:
    for path in (
        f"/analyze/jobs/{NOBODYS}",
        f"/analyze/results/{NOBODYS}",
        "/nowhere",
        "/",
        "/analyze/",
        "/analyses/x",
    ):
        check(web.get(path), "not_found", 404, path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/analyze", "POST"),
        ("HEAD", "/analyze", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", f"/analyze/jobs/{NOBODYS}", "DELETE, GET, HEAD"),
        ("PATCH", f"/analyze/jobs/{NOBODYS}/hold", "DELETE, PUT"),
        ("GET", f"/analyze/jobs/{NOBODYS}/cancel", "POST"),
        ("DELETE", f"/analyze/results/{NOBODYS}", "GET, HEAD"),
        ("OPTIONS", "/analyze/jobs", "GET, HEAD"),
        ("BREW", "/docs", "GET, HEAD"),
    ],
)
def test_a_method_that_a_route_does_not_have(web: Web, method: str, path: str, allowed: str) -> None:
    answer = web(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        check(answer, "method_not_allowed", 405, path)


def test_a_media_type_that_is_not_there(rt: Runtime, web: Web) -> None:
    path = f"/analyze/jobs/{submitted(rt).job_id}/events"

    check(web.get(path, headers={"Accept": "text/event-stream"}), "not_acceptable", 406, path)


def test_a_state_that_does_not_allow_it(rt: Runtime, web: Web) -> None:
    path = f"/analyze/jobs/{submitted(rt).job_id}"

    check(web("DELETE", path), "conflict", 409, path)


def test_a_result_whose_time_is_over(rt: Runtime, web: Web, clock: FakeClock) -> None:
    path = expired(rt, clock)

    assert check(web.get(path), "result_expired", 410, path)["expired_at"].endswith("Z")


def test_a_body_that_is_too_large(web: Web) -> None:
    answer = web.post("/analyze", content=b"x" * 100_001, headers={"Content-Type": "application/json"})

    assert "100000" in check(answer, "payload_too_large", 413, "/analyze")["message"]


def test_a_key_that_was_used(web: Web) -> None:
    key = {"Idempotency-Key": "k"}
    web.submit(headers=key)

    answer = web.submit({**ASYNC, "query": "another"}, headers=key)

    assert (
        check(answer, "idempotency_key_reused", 422, "/analyze")["details"][0]["field"] == "Idempotency-Key"
    )


def test_a_hold(rt: Runtime, web: Web) -> None:
    job = finished(rt)
    jobs.hold(rt, ALPHA, job.job_id, True)
    path = f"/analyze/jobs/{job.job_id}"

    check(web("DELETE", path), "legal_hold", 423, path)


def test_a_job_that_ended_without_a_result(rt: Runtime, web: Web) -> None:
    job_id = web.submit(headers={"Idempotency-Key": "k"}).json()["job"]["job_id"]
    jobs.cancel(rt, ALPHA, job_id, "tenant", None)

    content = check(web.submit({}, headers={"Idempotency-Key": "k"}), "job_failed", 424, "/analyze")

    assert content["job_id"] == job_id


def test_a_quota_that_is_used_up(rt: Runtime) -> None:
    with Web(rt, requests_per_second=1) as web:
        web.get("/analyze/jobs")
        answer = web.get("/analyze/jobs")
        other = web.get("/analyze/jobs", headers={"X-Org-Id": "beta"})
        health = [web.get("/health").status_code for _ in range(3)]

    content = check(answer, "rate_limited", 429, "/analyze/jobs")
    assert content["details"][0]["field"] == "quota.requests_per_second"
    assert answer.headers["retry-after"] == "1"
    assert other.status_code == 200
    assert health == [200, 200, 200]


def test_a_store_that_cannot(rt: Runtime, web: Web) -> None:
    path = f"/analyze/jobs/{submitted(rt).job_id}"
    rt.store.close()

    for method, each in (("GET", path), ("GET", "/analyze/jobs"), ("POST", f"{path}/cancel")):
        answer = web(method, each)
        check(answer, "unavailable", 503, each)
        assert int(answer.headers["retry-after"]) >= 1
    check(web.submit(), "unavailable", 503, "/analyze")


ROUTES = {
    "a plain route": lambda job: f"/analyze/jobs/{job.job_id}",
    "a route of the framework": lambda job: f"/analyze/jobs/{job.job_id}/events",
}


@pytest.mark.parametrize("route", ROUTES)
def test_what_nobody_foresaw(
    rt: Runtime, web: Web, route: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(_: Callable[[Reader], Any]) -> Any:
        raise ZeroDivisionError("secret detail")

    path = ROUTES[route](submitted(rt))
    monkeypatch.setattr(rt.store, "read", surprise)

    with caplog.at_level(logging.ERROR, "async_delivery.api"):
        answer = web.get(path, headers={"X-Request-Id": "find-me"})

    check(answer, "internal", 500, path)
    assert "secret" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    (record,) = caplog.records
    assert "find-me" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_a_fault_that_is_the_houses_own_is_no_answer(
    rt: Runtime, web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OddError(AsyncDeliveryError):
        code = "lease_lost"

    def surprise(_: Callable[[Reader], Any]) -> Any:
        raise OddError("token 4711")

    path = f"/analyze/jobs/{submitted(rt).job_id}"
    monkeypatch.setattr(rt.store, "read", surprise)

    answer = web.get(path)

    check(answer, "internal", 500, path)
    assert "4711" not in answer.text
    assert len(caplog.records) == 1


def test_every_code_has_a_status_of_its_own() -> None:
    statuses = [kind.status for kind in KINDS.values()]

    assert len(set(statuses)) == len(statuses)
    assert ValidationError.code in KINDS
    assert UnavailableError.code in KINDS


# ---------------------------------------------------------------- the form of it
PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROBLEM, PROBLEM),
        (f"text/html, {PROBLEM};q=0.5", PROBLEM),
        ("Application/Problem+JSON", PROBLEM),
        (f"{PROBLEM};q=0", "application/json"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (";q=,,,", "application/json"),
    ],
)
def test_problem_details_are_sent_to_those_who_ask_for_them(web: Web, accept: str, expected: str) -> None:
    for path in (f"/analyze/jobs/{NOBODYS}", "/nowhere", "/analyze/jobs?limit=0"):
        assert web.get(path, headers={"Accept": accept}).headers["content-type"] == expected
    assert web.get("/health", headers={"Accept": accept}).headers["content-type"] == "application/json"


@pytest.mark.parametrize("sent", ["a", "x" * 128, "!~\"'<>{}\\", "0190f3a2-7c1e-7d2b"])
def test_a_request_id_is_taken_over(web: Web, sent: str) -> None:
    for path in ("/health", f"/analyze/jobs/{NOBODYS}", "/analyze/jobs", "/nowhere", "/docs"):
        answer = web.get(path, headers={"X-Request-Id": sent})

        assert answer.headers["x-request-id"] == sent
        if path != "/docs":
            assert answer.json()["request_id"] == sent


@pytest.mark.parametrize(
    "sent", [[], [b""], [b"x" * 129], [b"a b"], [b"a\tb"], [b"\xc3\xa4"], [b"a\x7f"], [b"a", b"a"]]
)
def test_a_request_id_of_another_form_is_replaced(web: Web, sent: list[bytes]) -> None:
    for path in ("/health", f"/analyze/jobs/{NOBODYS}"):
        headers = [("X-Org-Id", b"alpha"), *(("X-Request-Id", value) for value in sent)]
        made = web.get(path, headers=headers).headers["x-request-id"]

        assert len(made) == 36
        assert made.encode() not in sent


def test_a_path_is_told_back_as_it_was_sent(web: Web) -> None:
    answer = web.get("/analyze/jobs/%0d%0aX-Evil:%20a/%3Cscript%3E")

    assert answer.json()["instance"] == "/analyze/jobs/%0d%0aX-Evil:%20a/%3Cscript%3E"
    assert "x-evil" not in answer.headers
    assert len(web.get("/" + "x" * 5_000).json()["instance"]) == 1_000
