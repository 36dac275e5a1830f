"""Through the real HTTP server, byte by byte: what a client library would never send."""

from __future__ import annotations

import socket
import time
from typing import Any

import orjson
import psutil
import pytest

from async_delivery.api import request as request_module
from async_delivery.engine.runtime import Runtime
from tests.api.support import (
    ASYNC,
    NOBODYS,
    SETTINGS,
    Server,
    finished,
    read_answer,
    serving,
    stored_files,
    stored_jobs,
    wait_for,
)
from tests.engine.support import submitted


def message(method: str, path: str, *headers: bytes, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: service", *headers]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


JSON = b"Content-Type: application/json"


@pytest.mark.parametrize(
    "header",
    [
        b"X-Org-Id: alpha\r\nX-Org-Id: beta",
        b"X-Org-Id: alpha\r\nx-org-id: alpha",
        b"X-Org-Id: alpha\r\nX-Tenant-Id: beta",
        b"X-Org-Id:",
        b"X-Org-Id: ",
        b"X-Org-Id: a b",
        b"X-Org-Id: a,b",
        b"X-Org-Id: a\tb",
        b"X-Org-Id: \xc3\xa4",
        b"X-Org-Id: \xff",
        b"X-Org-Id: a\x01",
        b"X-Org-Id: a\x00b",
        b"X-Org-Id: a\x7f",
        b"X-Org-Id: " + b"x" * 129,
        b"X-Org-Id: " + b"x" * 300,
        b"X-Org-Id: alpha\r\n beta",
        b"X-Org-Id: alpha\rX-Org-Id: beta",
        b"X-Org-Id : alpha",
    ],
)
def test_a_tenant_header_that_is_not_right_is_400(server: Server, header: bytes) -> None:
    answer = server.send(message("GET", "/analyze/jobs", header))

    assert answer.status == 400
    assert b"X-Evil" not in answer.head


@pytest.mark.parametrize(
    "name", [b"X-Request-Id", b"Idempotency-Key", b"X-Correlation-Id", b"Prefer", b"Accept"]
)
@pytest.mark.parametrize(
    "value",
    [b"a\x01b", b"\xff\xfe", b"x" * 300, b"a b", b"\x1b[31m", b"", b'"', b"\xe2\x80\xae", b",;=" * 50],
)
def test_no_header_breaks_an_answer_or_comes_back_raw(server: Server, name: bytes, value: bytes) -> None:
    body = orjson.dumps(ASYNC)

    answer = server.send(
        message("POST", "/analyze", b"X-Org-Id: alpha", JSON, name + b": " + value, body=body)
    )

    assert answer.status in {202, 400}
    assert not any(byte in answer.head for byte in b"\x01\x1b\xff\xe2")
    if answer.headers["content-type"].startswith("application/json"):
        assert 1 <= len(answer.headers["x-request-id"]) <= 128


@pytest.mark.parametrize(
    "path",
    [
        "/analyze/jobs/%00",
        "/analyze/results/%ff%fe",
        "/analyze/jobs/%0d%0aX-Evil:%20a",
        "/analyze/results/" + "a" * 8_000,
        "/analyze/results/x?view=%00%ff",
        "/analyze/results/x?" + "&".join("a=1" for _ in range(500)),
        "/analyze/jobs?limit=" + "9" * 5_000,
        "/analyze/jobs?cursor=%ff%00",
        "/analyze/jobs?label.%ff=%00",
        "/analyze/jobs?created_after=9999-12-31T23:59:59-23:59",
        "/analyses/%ff",
        "/docs/static/..%2fapp.py",
        "/docs/static/%2e%2e%2fapp.py",
        "/docs/static/../app.py",
        "//analyze/jobs",
        "/analyze/jobs/../jobs",
        "/analyze/jobs/a;b=c",
        "*",
        "http://elsewhere/analyze/jobs/x",
    ],
)
def test_no_path_or_query_breaks_an_answer(server: Server, path: str) -> None:
    answer = server.send(message("GET", path, b"X-Org-Id: alpha"))

    assert answer.status in {400, 404}
    assert "x-evil" not in answer.headers
    assert b"import annotations" not in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_over_the_wire_a_foreign_result_and_an_unknown_one_are_the_same_bytes(
    server: Server, method: str
) -> None:
    job = finished(server.rt)

    def ask(path: str, ident: str) -> Any:
        with server.connect() as connection:
            connection.sendall(message(method, path.format(ident), b"X-Org-Id: beta", b"X-Request-Id: r"))
            answer = read_answer(connection, method=method)
        head = [
            line for line in answer.head.replace(ident.encode(), b"ID").split(b"\r\n") if b"date:" not in line
        ]
        return head, answer.body.replace(ident.encode(), b"ID")

    for path, mine in (
        ("/analyze/results/{}", str(job.result_id)),
        ("/analyze/results/{}?view=requested", str(job.result_id)),
        ("/analyze/jobs/{}", job.job_id),
        ("/analyze/jobs/{}/events", job.job_id),
    ):
        assert ask(path, mine) == ask(path, NOBODYS)


def test_several_requests_on_one_connection_are_answered_in_turn(server: Server) -> None:
    job = finished(server.rt)
    with server.connect() as connection:
        for _ in range(3):
            for path in (
                f"/analyze/results/{job.result_id}",
                f"/analyze/jobs/{job.job_id}",
                "/health",
                "/nowhere",
            ):
                connection.sendall(message("GET", path, b"X-Org-Id: alpha"))
                assert read_answer(connection).status == (404 if path == "/nowhere" else 200)
            connection.sendall(message("HEAD", f"/analyze/results/{job.result_id}", b"X-Org-Id: alpha"))
            assert read_answer(connection, method="HEAD").status == 200
            # A refusal that comes before the body was read leaves the connection usable.
            connection.sendall(message("POST", "/nowhere", JSON, body=b'{"a":1}'))
            assert read_answer(connection).status == 404


# ---------------------------------------------------------------- bodies
def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


HEAD = message("POST", "/analyze", b"X-Org-Id: alpha", JSON, b"Transfer-Encoding: chunked")


def test_a_body_without_a_length_is_taken(server: Server) -> None:
    body = orjson.dumps(ASYNC)

    assert server.send(HEAD + chunked(body[:5], body[5:], b"")).status == 202


def test_an_announced_body_that_is_too_large_is_refused_before_it_comes(server: Server) -> None:
    head = message("POST", "/analyze", b"X-Org-Id: alpha", JSON, b"Content-Length: 100000000000")
    with server.connect() as connection:
        connection.sendall(head)
        answer = read_answer(connection)

    assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_an_endless_body_is_refused_and_costs_no_memory(server: Server) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    piece = chunked(b"x" * 65_536)
    with server.connect() as connection:
        connection.sendall(HEAD)
        sent = 0
        try:
            while sent < 200_000_000:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        grown = process.memory_info().rss - before

    assert sent < 200_000_000, "the server went on taking it"
    assert grown < 64_000_000
    assert stored_jobs(server.rt) == []


def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(server: Server) -> None:
    body = b"x" * 8_000_000

    answer = server.send(message("POST", "/analyze", b"X-Org-Id: alpha", JSON, body=body))

    assert (answer.status, orjson.loads(answer.body)["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("drip", [False, True])
def test_a_body_that_does_not_come_ends(rt: Runtime, monkeypatch: pytest.MonkeyPatch, drip: bool) -> None:
    monkeypatch.setattr(request_module, "BODY_GRACE_SECONDS", 0.5)
    with serving(rt) as server, server.connect() as connection:
        connection.sendall(
            message("POST", "/analyze", b"X-Org-Id: alpha", JSON, b"Content-Length: 1000") + b"{"
        )
        connection.settimeout(0.1)
        began, data = time.monotonic(), b""
        while b"did not arrive in time" not in data:
            assert time.monotonic() - began < 20
            try:
                if drip:
                    connection.sendall(b" ")
                data += connection.recv(65_536)
            except TimeoutError:
                continue

    assert data.startswith(b"HTTP/1.1 400")
    assert stored_jobs(rt) == []


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(server: Server) -> None:
    form = b"Content-Type: multipart/form-data; boundary=b"
    head = message("POST", "/analyze", b"X-Org-Id: alpha", form, b"Content-Length: 4000000")
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    for content in (b'{"query":', start, start + b"x" * 3_000_000):
        with server.connect() as connection:
            connection.sendall(head + content)

    wait_for(lambda: stored_files(server.rt) == 0)
    assert server.send(message("GET", "/analyze/jobs", b"X-Org-Id: alpha")).status == 200
    assert stored_jobs(server.rt) == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /analyze HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /analyze HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /analyze HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        b"GET /hea lth HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_the_server_lives(server: Server, data: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert b"Traceback" not in answer
    assert server.send(message("GET", "/health")).status == 200


def test_a_large_result_read_slowly_arrives_whole(rt: Runtime) -> None:
    payload = "y" * 4_000_000
    job = finished(rt, payload)
    with serving(rt) as server, server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.sendall(message("GET", f"/analyze/results/{job.result_id}", b"X-Org-Id: alpha"))
        time.sleep(0.2)  # the server meets a full pipe
        answer = read_answer(connection)

        assert server.send(message("GET", "/health")).status == 200
    assert orjson.loads(answer.body)["result"] == payload


def test_waiting_clients_that_leave_give_their_places_back(rt: Runtime) -> None:
    job = submitted(rt)
    ask = message("GET", f"/analyze/jobs/{job.job_id}", b"X-Org-Id: alpha", b"Prefer: wait=60")
    with serving(rt, max_waits_per_tenant=1) as server:
        with server.connect() as first:
            first.sendall(ask)
            wait_for(lambda: server.send(ask.replace(b"wait=60", b"wait=0")).status == 429)

        wait_for(lambda: server.send(ask.replace(b"wait=60", b"wait=0")).status == 200)


def test_limits_are_the_ones_that_were_set(server: Server) -> None:
    padding = b" " * (SETTINGS.max_body_bytes - len(orjson.dumps(ASYNC)))

    exact = server.send(message("POST", "/analyze", b"X-Org-Id: a", JSON, body=orjson.dumps(ASYNC) + padding))
    more = server.send(
        message("POST", "/analyze", b"X-Org-Id: a", JSON, body=orjson.dumps(ASYNC) + padding + b" ")
    )

    assert (exact.status, more.status) == (202, 413)
