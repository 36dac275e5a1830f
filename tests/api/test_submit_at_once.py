"""A submit that is entered while it is parsed is answered like any other, and not before it is durable."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.errors import ConflictError, UnavailableError
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import Raw, Server, finished, read_answer, serving, stored_jobs, wait_for
from tests.engine.support import runtime
from tests.postgres import shared_server

ASYNC = {"options": {"async_mode": {"requested": True}}}
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.fixture
def server(rt: Runtime) -> Iterator[Server]:
    with serving(rt) as server:
        yield server


def post(
    body: bytes | dict[str, Any], *headers: str, tenant: str = "alpha", target: str = "/analyze"
) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: localhost",
        f"X-Org-Id: {tenant}",
        "X-Request-Id: r-1",
        f"Content-Length: {len(data)}",
        *headers,
    ]
    if not any(header.lower().startswith("content-type") for header in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def plain(raw: Raw) -> bytes:
    """The answer without its date and with its ids made equal; sorted headers, then the body."""
    lines = sorted(line for line in raw.head.split(b"\r\n") if not line.startswith(b"date:"))
    return _ID.sub(b"ID", b"\n".join(lines) + b"\n" + raw.body)


def both(server: Server, body: bytes | dict[str, Any], *headers: str, tenant: str = "alpha") -> list[bytes]:
    """The answer of a whole submit, and that of one whose target sends it the long way."""
    keyed = any(header.startswith("Idempotency-Key") for header in headers)
    found = []
    for number, target in enumerate(("/analyze", "/analyze?")):
        own = [header + f"-{number}" if keyed and "-Key" in header else header for header in headers]
        found.append(plain(server.send(post(body, *own, tenant=tenant, target=target))))
    return found


@contextmanager
def held_writer(rt: Runtime) -> Iterator[None]:
    """Nothing is committed while the block lasts."""
    go_on = threading.Event()
    held = rt.store.write_soon(lambda tx: go_on.wait(30))
    try:
        wait_for(held.running)
        yield
    finally:
        go_on.set()
        held.result(30)


@pytest.mark.parametrize(
    ("body", "headers", "tenant"),
    [
        (ASYNC, [], "alpha"),
        (ASYNC, [], "not a tenant"),
        (ASYNC, ["X-Tenant-Id: beta"], "alpha"),
        (ASYNC, ["Sec-Fetch-Site: cross-site"], "alpha"),
        (ASYNC, ["Idempotency-Key: k"], "alpha"),
        (ASYNC, ["Idempotency-Key: ä"], "alpha"),
        (ASYNC, ["X-Correlation-Id: mine"], "alpha"),
        (ASYNC, ["Prefer: handling=strict"], "alpha"),
        (ASYNC, ["Content-Type: application/json; charset=utf-8"], "alpha"),
        (ASYNC, ["Content-Type: text/plain"], "alpha"),
        (ASYNC, ["Content-Type: application/json", "Content-Type: application/json"], "alpha"),
        (ASYNC, ["Content-Encoding: gzip"], "alpha"),
        (ASYNC, ["Content-Encoding: identity"], "alpha"),
        (ASYNC, ["Accept: application/problem+json", "Prefer: wait=0"], "alpha"),
        ({}, ["Prefer: respond-async"], "alpha"),
        ({}, ["Prefer: respond-async, wait=0"], "alpha"),
        ({}, ["Prefer: wait=0"], "alpha"),
        ({**ASYNC, "unknown": 1}, ["Prefer: handling=strict"], "alpha"),
        ({**ASYNC, "unknown": 1}, [], "alpha"),
        ({**ASYNC, "params": {"upto": -1}, "labels": {"a": 1}}, ["Idempotency-Key: ä"], "alpha"),
        ({**ASYNC, "analysis": "none"}, ["Accept: application/problem+json"], "alpha"),
        ({**ASYNC, "query": "ä", "labels": {"a": "b"}, "timeout_seconds": 5}, [], "alpha"),
        ({"options": []}, ["Prefer: respond-async"], "alpha"),
        ({"options": {"async_mode": 1}}, [], "alpha"),
        ({"options": {"async_mode": {"requested": 1}}}, [], "alpha"),
        ({"options": {**ASYNC["options"], "priority": "expedite", "results_ttl_seconds": 9}}, [], "alpha"),
        (b"[]", ["Prefer: respond-async"], "alpha"),
        (b"{", ["Idempotency-Key: ä"], "alpha"),
        (b'{"a":1,"a":2}', [], "alpha"),
    ],
)
def test_every_answer_is_the_same_whichever_way_it_is_made(
    server: Server, body: bytes | dict[str, Any], headers: list[str], tenant: str
) -> None:
    told: list[dict[str, Any]] = []
    stop = telemetry.attach(lambda name, values: told.append(values) if name == "http.answered" else None)
    try:
        at_once, long_way = both(server, body, *headers, tenant=tenant)
        wait_for(lambda: len(told) == 2)
    finally:
        stop()

    assert at_once == long_way
    first, second = (
        {key: value for key, value in one.items() if key not in {"at", "seconds", "job", "correlation_id"}}
        for one in told
    )
    assert first == second
    assert first["route"] == "/analyze"
    assert [one["job"] is not None for one in told] == [b" 202 " in at_once] * 2


def test_a_repeated_key_is_answered_with_the_first_job_on_either_way(server: Server, rt: Runtime) -> None:
    first = server.send(post(ASYNC, "Idempotency-Key: k"))
    at_once, long_way = (
        server.send(post(ASYNC, "Idempotency-Key: k", target=target)) for target in ("/analyze", "/analyze?")
    )
    other = [
        server.send(post({**ASYNC, "query": "other"}, "Idempotency-Key: k", target=target))
        for target in ("/analyze", "/analyze?")
    ]

    assert plain(at_once) == plain(long_way)
    assert at_once.headers["idempotency-replayed"] == "true"
    assert json.loads(at_once.body)["job"] == json.loads(first.body)["job"]
    assert plain(other[0]) == plain(other[1])
    assert other[0].status == 422
    assert len(stored_jobs(rt)) == 1


@pytest.mark.parametrize("key", [[], ["Idempotency-Key: k"]])
@pytest.mark.parametrize(
    "fault", [ConflictError("the key is there"), UnavailableError("no disk"), RuntimeError("a bug")]
)
def test_what_the_store_refuses_is_answered_the_same_and_leaves_the_key_free(
    server: Server, rt: Runtime, monkeypatch: pytest.MonkeyPatch, fault: Exception, key: list[str]
) -> None:
    def refuse(fn: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(fault)
        return future

    with monkeypatch.context() as patched:
        patched.setattr(rt.store, "write_soon", refuse)
        at_once, long_way = both(server, ASYNC, *key)

    assert at_once == long_way
    assert b" 202 " not in at_once
    assert [b" 202 " in answer for answer in both(server, ASYNC, *key)] == [True, True]


def test_a_full_queue_is_told_the_same_on_either_way(rt: Runtime) -> None:
    small = replace(rt, policy=replace(rt.policy, max_queued_per_tenant=1))
    with serving(small) as server:
        first, second = (server.send(post(ASYNC)) for _ in range(2))
        at_once, long_way = both(server, ASYNC)

    assert (first.status, second.status) == (202, 429)
    assert at_once == long_way


def test_nothing_is_answered_before_it_is_committed(server: Server, rt: Runtime) -> None:
    with server.connect() as connection:
        with held_writer(rt):
            connection.sendall(post(ASYNC))
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            assert stored_jobs(rt) == []  # and the server answers others meanwhile
            assert server.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
        connection.settimeout(30)
        answer = read_answer(connection)

    assert answer.status == 202
    assert [job.job_id for job in stored_jobs(rt)] == [json.loads(answer.body)["job"]["job_id"]]


def test_a_key_whose_first_request_is_on_its_way_is_in_flight(server: Server, rt: Runtime) -> None:
    request = post(ASYNC, "Idempotency-Key: k")
    with server.connect() as connection:
        with held_writer(rt):
            connection.sendall(request)
            wait_for(lambda: server.send(post(ASYNC, "Idempotency-Key: k", target="/analyze?")).status == 409)
            second, long_way = (
                server.send(post(ASYNC, "Idempotency-Key: k", target=target))
                for target in ("/analyze", "/analyze?")
            )
        first = read_answer(connection)

    assert first.status == 202
    assert second.status == 409
    assert plain(second) == plain(long_way)
    assert server.send(request).headers["idempotency-replayed"] == "true"


def test_a_body_may_come_in_any_pieces(server: Server, rt: Runtime) -> None:
    request = post(ASYNC)
    body_at = request.index(b"\r\n\r\n") + 4
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in (10, body_at, body_at + 5, len(request) - 1):
            for piece in (request[:cut], request[cut:]):
                connection.sendall(piece)
                # Another connection is served in between, so that the pieces are not read as one.
                assert server.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
            assert read_answer(connection).status == 202

    assert len(stored_jobs(rt)) == 4


def test_requests_sent_together_are_answered_in_their_order(server: Server, rt: Runtime) -> None:
    done = finished(rt)
    get = f"GET /analyze/results/{done.result_id} HTTP/1.1\r\nHost: x\r\nX-Org-Id: alpha\r\n".encode()
    whole = b""
    with server.connect() as connection:
        requests = [post(ASYNC), get + b"\r\n", post(ASYNC), post(b"{"), post(ASYNC), get]
        connection.sendall(b"".join(requests) + b"Connection: close\r\n\r\n")
        while piece := connection.recv(65_536):
            whole += piece

    codes = [b"202", b"200", b"202", b"400", b"202", b"200"]
    assert re.findall(rb"HTTP/1.1 (\d+)", whole) == codes
    assert len(stored_jobs(rt)) == 4


def test_a_client_that_leaves_before_the_commit_leaves_its_job(server: Server, rt: Runtime) -> None:
    with held_writer(rt):
        with server.connect() as connection:
            connection.sendall(post(ASYNC, "Idempotency-Key: k"))
            wait_for(lambda: server.send(post(ASYNC, "Idempotency-Key: k", target="/analyze?")).status == 409)
        assert server.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").status == 200

    wait_for(lambda: len(stored_jobs(rt)) == 1)
    assert server.send(post(ASYNC)).status == 202


def test_a_tenants_rate_counts_a_submit_once_that_begins_at_once_and_ends_the_long_way(rt: Runtime) -> None:
    with serving(rt, requests_per_second=0.001) as server:  # one, and then none for a long time
        answers = [server.send(post({}, "Prefer: wait=0")).status for _ in range(2)]

    assert answers == [202, 429]


@pytest.mark.postgres
def test_on_postgresql_the_answers_are_the_same_too(tmp_path: Path, clock: FakeClock) -> None:
    with shared_server().lent_store(tmp_path) as store, serving(runtime(store, clock)) as server:
        # The first has to ask the store how long such jobs take; the next know.
        answers = [both(server, ASYNC, "Idempotency-Key: k") for _ in range(2)]
        refused = both(server, {**ASYNC, "params": {"upto": -1}})

    assert answers[0][0] == answers[0][1]
    assert answers[1][0] == answers[1][1]
    assert [b"idempotency-replayed" in one for one, _ in answers] == [False, True]
    assert refused[0] == refused[1]
