"""What the protocol answers by itself is, to the byte, what the application would have answered."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator

import pytest

from async_delivery import telemetry
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import NOBODYS, Server, Web, finished, read_answer, serving, started
from tests.engine.support import published

# Any of these sends a request the long way, and changes nothing in its answer.
LONG_WAY = b"Prefer: nothing-known\r\n"


@pytest.fixture
def server(rt: Runtime) -> Iterator[Server]:
    with serving(rt) as server:
        yield server


def request(path: str, *headers: str, tenant: str = "alpha") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"X-Org-Id: {tenant}", "X-Request-Id: r-1", *headers]
    return "\r\n".join(lines).encode() + b"\r\n"


def both(server: Server, path: str, *headers: str, tenant: str = "alpha") -> tuple[bytes, bytes]:
    """The answer at once and the one by the long way, without the date; sorted headers, then the body."""
    head = request(path, *headers, tenant=tenant)
    found = []
    for data in (head + b"\r\n", head + LONG_WAY + b"\r\n"):
        raw = server.send(data)
        lines = sorted(line for line in raw.head.split(b"\r\n") if not line.startswith(b"date:"))
        found.append(b"\n".join(lines) + b"\n" + raw.body)
    return found[0], found[1]


def tag_of(server: Server, path: str) -> str:
    return server.send(request(path) + b"\r\n").headers["etag"]


def test_every_answer_is_the_same_whichever_way_it_is_made(
    server: Server, rt: Runtime, clock: FakeClock
) -> None:
    done, long = finished(rt), finished(rt, {"text": "x" * 70_000})
    running = started(rt)
    partial = published(rt, running, {"part": 1}).result_id
    result, job = f"/analyze/results/{done.result_id}", f"/analyze/jobs/{done.job_id}"
    asked: list[tuple[str, list[str], str]] = [
        (result, [], "alpha"),
        (result + "?view=latest", [], "alpha"),
        (result + "?view=requested", [], "alpha"),
        (result + "?view=other", [], "alpha"),
        (result + "?other=1", [], "alpha"),
        (f"/analyze/results/{partial}", [], "alpha"),
        (f"/analyze/results/{long.result_id}", [], "alpha"),
        (result, [f"If-None-Match: {tag_of(server, result)}"], "alpha"),
        (result, ['If-None-Match: "another"'], "alpha"),
        (result, ["If-None-Match: *"], "alpha"),
        (f"/analyze/results/{NOBODYS}", [], "alpha"),
        (f"/analyze/results/{NOBODYS}", ["Accept: application/problem+json"], "alpha"),
        (result, [], "beta"),
        (result, [], "not a tenant"),
        (result, ["X-Tenant-Id: beta"], "alpha"),
        ("/analyze/results/%41", [], "alpha"),
        ("/analyze/results/", [], "alpha"),
        ("/analyze/results/" + "a" * 129, [], "alpha"),
        (job, [], "alpha"),
        (job + "?unknown=1", [], "alpha"),
        (job, [f"If-None-Match: {tag_of(server, job)}"], "alpha"),
        (job, [], "beta"),
        (f"/analyze/jobs/{running.job.job_id}", [], "alpha"),
        (f"/analyze/jobs/{running.job.job_id}", ["If-None-Match: *"], "alpha"),
        (f"/analyze/jobs/{NOBODYS}", [], "alpha"),
        (f"/analyze/jobs/{done.job_id}/events", [], "alpha"),
    ]
    for path, headers, tenant in asked:
        at_once, long_way = both(server, path, *headers, tenant=tenant)
        assert at_once == long_way, path

    clock.advance(seconds=rt.policy.results_ttl_seconds + 1)
    for path in (result, job):
        at_once, long_way = both(server, path)
        assert at_once == long_way, path
        assert (b" 410 " in at_once) == (path == result)


def test_requests_sent_together_are_answered_in_their_order(server: Server, rt: Runtime) -> None:
    done = finished(rt)
    paths = [
        f"/analyze/results/{done.result_id}",
        "/health",
        f"/analyze/jobs/{done.job_id}",
        f"/analyze/results/{NOBODYS}",
        "/analyses",
        f"/analyze/results/{done.result_id}",
    ]
    with server.connect() as connection:
        whole = b""
        connection.sendall(
            b"".join(
                request(path) + (b"Connection: close\r\n\r\n" if path is paths[-1] and last else b"\r\n")
                for last, path in zip([False] * 5 + [True], paths, strict=True)
            )
        )
        while piece := connection.recv(65_536):
            whole += piece

    assert re.findall(rb"HTTP/1.1 (\d+)", whole) == [b"200", b"200", b"200", b"404", b"200", b"200"]
    assert whole.count(b'"result_kind":"final"') >= 2


def test_a_connection_serves_on_after_an_answer_at_once(server: Server, rt: Runtime) -> None:
    done = finished(rt)
    head = request(f"/analyze/results/{done.result_id}") + b"\r\n"
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(head)
            assert read_answer(connection).status == 200
            connection.sendall(request("/analyses") + b"\r\n")
            assert read_answer(connection).status == 200


def test_a_status_changes_with_its_job(server: Server, rt: Runtime) -> None:
    run = started(rt)
    path = f"/analyze/jobs/{run.job.job_id}"

    def stage() -> tuple[str, int]:
        job = json.loads(server.send(request(path) + b"\r\n").body)["job"]
        return job["status"], len(job["events"])

    before = stage()
    published(rt, run, {"part": 1})

    assert stage() == ("partial", before[1] + 1)


def test_each_answer_at_once_is_told_of_like_any_other(server: Server, rt: Runtime) -> None:
    done = finished(rt)
    told: list[dict[str, object]] = []
    stop = telemetry.attach(lambda name, values: told.append(values) if name == "http.answered" else None)
    try:
        both(server, f"/analyze/results/{done.result_id}")
        both(server, f"/analyze/jobs/{NOBODYS}")
    finally:
        stop()

    plain = [{key: value for key, value in one.items() if key not in {"at", "seconds"}} for one in told]
    assert plain[0] == plain[1]
    assert plain[2] == plain[3]
    assert plain[0]["route"] == "/analyze/results/{result_id}"
    assert plain[0]["correlation_id"] == done.correlation_id
    assert (plain[2]["status"], plain[2]["org_id"]) == (404, "alpha")


def test_a_tenants_rate_counts_each_request_once(rt: Runtime) -> None:
    done = finished(rt, {"text": "x" * 2_000_000})
    head = request(f"/analyze/results/{done.result_id}") + b"\r\n"
    with serving(rt, requests_per_second=0.001) as server:  # one, and then none for a long time
        answers = [server.send(head).status for _ in range(2)]  # begins at once, and ends the long way

    assert answers == [200, 429]


def test_a_request_leaves_nothing_to_the_garbage_collection(rt: Runtime, web: Web) -> None:
    job = finished(rt)
    # The last one is let in, and goes the long way.
    targets = [f"/analyze/results/{job.result_id}", f"/analyze/jobs/{job.job_id}"]
    targets += [f"{targets[0]}?other=1", f"/analyze/results/{NOBODYS}"]

    def ask() -> None:
        for target in targets:
            web.app.at_once(target.encode(), {"headers": [(b"x-org-id", b"alpha")], "client": None})

    ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            ask()
        assert gc.collect() < 50
    finally:
        gc.enable()
