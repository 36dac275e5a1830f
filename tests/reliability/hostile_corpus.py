"""The corpus of hostile requests: framing, headers and paths; ``hostile_bodies`` has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.reliability.hostile import EVIL, Request, message
from tests.reliability.hostile_bodies import CRLF, JSON, OK, SUBMIT, bodies, forms

KNOWN = "01890000-0000-7000-8000-000000000000"  # of the right form, and nobody's


# ---------------------------------------------------------------- framing
def framing() -> Iterator[Request]:
    """What two parsers could read as two different requests."""
    hidden = b"GET /analyze/jobs HTTP/1.1\r\nHost: service\r\nX-Org-Id: victim\r\n\r\n"
    post = (
        b"POST /analyze HTTP/1.1\r\nHost: service\r\nX-Org-Id: hostile\r\nContent-Type: application/json\r\n"
    )
    lengths = [
        b"+5",
        b"-1",
        b"0x10",
        b"5 5",
        b"5,5",
        b"5, 6",
        b"1_0",
        b"\xb2",
        b"",
        b"9" * 30,
        b"00000000000000000005a",
        b"\x0b5",
        b"5\x00",
    ]
    for length in lengths:
        yield Request(f"Content-Length {length!r}", post + b"Content-Length: " + length + CRLF * 2 + hidden)
    codings = [
        b"chunked, identity",
        b"identity",
        b"gzip, chunked",
        b"chunked, chunked",
        b"xchunked",
        b"chunked\x0b",
        b"\x0bchunked",
        b"chunked;q=1",
        b" chunked , ",
        b"",
        b"CHUNKED\x00",
        b'"chunked"',
        b"x",
    ]
    for coding in codings:
        yield Request(
            f"Transfer-Encoding {coding!r}",
            post + b"Transfer-Encoding: " + coding + CRLF * 2 + b"0\r\n\r\n" + hidden,
            answers=1,
        )
    for name, fields in {
        "CL and TE": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "TE and CL": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "two CL": b"Content-Length: 5\r\nContent-Length: 6\r\n",
        "two equal CL": b"Content-Length: 5\r\nContent-Length: 5\r\n",
        "two TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "TE folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "TE with a space": b"Transfer-Encoding : chunked\r\n",
        "TE with a tab": b"Transfer-Encoding\t: chunked\r\n",
        "CL folded": b"Content-Length:\r\n 5\r\n",
        "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
        "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\n",
        "a line without a colon": b"Transfer-Encoding chunked\r\n",
        "a name of nothing": b": chunked\r\n",
        "a line that begins with a space": b" X: y\r\n",
    }.items():
        yield Request(name, post + fields + CRLF + b"0\r\n\r\n" + hidden)
    for name, chunks in {
        "endless size": b"F" * 40 + b"\r\n",
        "negative size": b"-1\r\n",
        "0x size": b"0x5\r\n{}\r\n",
        "size with a space": b"5 5\r\n{    }",
        "no CRLF": b"2\r\n{}0\r\n\r\n",
        "bare LF": b"2\n{}\n0\n\n",
        "size beyond 64 bits": b"10000000000000002\r\n{}\r\n0\r\n\r\n",
    }.items():
        yield Request(f"chunk: {name}", post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + hidden)
    extended = b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 70_000 + b"\r\n{}\r\n0\r\n\r\n"
    # Long, and no fault: what follows is another request.
    yield Request("chunk: a long extension", post + extended + hidden, OK | {200}, answers=2)
    trailers = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX-Org-Id: victim\r\nX-Evil: 1\r\n\r\n"
    yield Request("trailers", post + b"Connection: close\r\n" + trailers % (len(SUBMIT), SUBMIT), OK)
    hosts = [
        b"",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nHost: a\r\n",
        b"Host\t: a\r\n",
        b"Host: a\r\n b\r\n",
    ]
    for number, host in enumerate(hosts):
        yield Request(f"host {number}", b"GET /health HTTP/1.1\r\n" + host + CRLF)
    lines = [
        b"GET",
        b"GET /health",
        b"GET /health HTTP/1.10",
        b"GET /health HTTP/2.0",
        b"GET /health http/1.1",
        b"G\x00T /health HTTP/1.1",
        b"GET /hea\x00lth HTTP/1.1",
        b"GET /hea lth HTTP/1.1",
        b"GET /health\x0b HTTP/1.1",
        b"GET\t/health\tHTTP/1.1",
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0",
        b"GET /health\rX: y HTTP/1.1",
    ]
    for first in lines:
        yield Request(f"request line {first!r}", first + b"\r\nHost: service\r\nConnection: close\r\n\r\n")
    # RFC 9112, section 3: a server may take more white space than one space.
    yield Request("two spaces", b"GET  /health  HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n", OK)
    yield Request("ten thousand headers", message("GET", b"/health", *[b"A%d: b" % n for n in range(10_000)]))
    yield Request("one header of 100 kB", message("GET", b"/health", b"A: " + b"b" * 100_000))
    yield Request("a name of 100 kB", message("GET", b"/health", b"A" * 100_000 + b": b"))
    yield Request("a path of 100 kB", message("GET", b"/" + b"a" * 100_000))
    for name, header in {
        "h2c": b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        "websocket": b"Upgrade: websocket",
        "expect": b"Expect: 200-ok",
        "connection": b"Connection: X-Org-Id",
    }.items():
        yield Request(name, message("GET", b"/analyze/jobs", header), OK)
    for method in ("CONNECT", "TRACE", "OPTIONS", "PATCH", "PUT", "PROPFIND", "M-SEARCH"):
        yield Request(method, message(method, b"/analyze", EVIL + b": reflected"))


# ---------------------------------------------------------------- headers
VALUES = (
    b"", b" ", b"a b", b"a\tb", b"a\x01b", b"a\x00b", b"a\x7f", b"\xff\xfe", b"\xc3\xa4", b"\xe2\x80\xae", b"\x1b[31m",
    b"x" * 300, b"x" * 60_000, b'"', b"'", b"\\", b",;=" * 100, b"%0d%0aX-Evil:%201", b"a\rX-Evil: 1", b"a\nX-Evil: 1",
    b"a\r\n X-Evil: 1", b"a\r\nX-Org-Id: victim", b"../../etc/passwd", b"${jndi:ldap://x}", b"{{7*7}}", b"' OR 1=1 --",
    "\uff41\uff4c\uff50\uff48\uff41".encode(), "\u0430lpha".encode(), b"*", b"W/", b"\xc0\xaf", b"q=" + b"9" * 400,
)  # fmt: skip
NAMES = (
    "X-Org-Id", "X-Tenant-Id", "X-Request-Id", "X-Correlation-Id", "Idempotency-Key", "Prefer", "Accept", "Traceparent",
    "If-None-Match", "Content-Type", "Content-Encoding", "Content-Length", "Sec-Fetch-Site", "Host", "Cookie", "Range",
    "Authorization", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Accept-Language", "Last-Event-ID",
    "User-Agent", "Tracestate", "Origin",
)  # fmt: skip


def headers() -> Iterator[Request]:
    """Every header that anything could read, with every value that could hurt."""
    for name in NAMES:
        for number, value in enumerate(VALUES):
            line = name.encode() + b": " + value
            org = "" if name == "X-Org-Id" else "hostile"
            label = f"{name} {number} {value[:20]!r}"
            yield Request(f"GET {label}", message("GET", b"/analyze/jobs", line, org=org), OK)
            sent = [JSON] if name != "Content-Type" else []
            yield Request(
                f"POST {label}", message("POST", b"/analyze", *sent, line, body=SUBMIT, org=org), OK
            )
    twice = [
        b"X-Org-Id: a\r\nX-Org-Id: b",
        b"X-Org-Id: a\r\nx-org-id: a",
        b"X-Org-Id: a\r\nX-Tenant-Id: b",
        b"X-Tenant-Id: a\r\nX-Tenant-Id: a",
        b"X-Org-Id: a,b",
        b"X-Org-Id: a, a",
        b"X-Org-Id :a",
        b"X-Org-Id: A\r\nX-Tenant-Id: a",
    ]
    for both in twice:
        yield Request(f"tenant {both!r}", message("GET", b"/analyze/jobs", both, org=""))


# ---------------------------------------------------------------- paths and queries
SEGMENTS = (
    b"%00", b"%ff%fe", b"%0d%0aX-Evil:%201", b"..%2f..%2fetc%2fpasswd", b"%2e%2e", b"..", b".", b"%", b"%zz", b"%u0041",
    b"a" * 300, b"a" * 60_000, b"\xff", b"\xc3\xa4", b"%c0%ae%c0%ae", b"a;b=c",
    b"'%20OR%201=1--", b"%7b%7b7*7%7d%7d", b"*",
    b"<script>", b"%3Cscript%3E", b"-1", b"9" * 400, b"null", b"%E2%80%AE", b"%F0%9F%92%A9",
)  # fmt: skip
QUERIES = (
    b"%s=", b"%s=%%00", b"%s=%%ff", b"%s=%%0d%%0aX-Evil:1", b"%s[]=1", b"%s=1&%s=2", b"%s=-1", b"%s=2147483648",
    b"%s=4611686018427387904", b"%s=9223372036854775808", b"%s=" + b"9" * 5_000,
    b"%s=1e400", b"%s=NaN", b"%s=true", b"%s='--", b"%s=9999-12-31T23:59:59-23:59", b"%s=" + b"x" * 50_000, b"%s",
    b"%s=%%zz", b"%s=\xff", b"%s=%%E2%%80%%AE",
)  # fmt: skip


def paths(openapi: dict[str, Any]) -> Iterator[Request]:
    """Every route with hostile ids and parameters, and paths that are none."""
    for template, operations in openapi["paths"].items():
        for method, operation in operations.items():
            verb = method.upper()
            if "{" in template:
                stem, _, rest = template.partition("{")
                tail = rest.partition("}")[2]
                for segment in SEGMENTS:
                    target = stem.encode() + segment + tail.encode()
                    yield Request(f"{verb} {template} {segment[:20]!r}", message(verb, target), OK)
            asked = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            target = (
                template.replace("{job_id}", KNOWN)
                .replace("{result_id}", KNOWN)
                .replace("{name}", "selftest")
            )
            for name in [*asked, "label.x", "unknown"]:
                for number, form in enumerate(QUERIES):
                    query = form.replace(b"%s", name.encode()).replace(b"%%", b"%")
                    yield Request(
                        f"{verb} {template} ?{name} {number}",
                        message(verb, target.encode() + b"?" + query),
                        OK | {503},
                    )
            many = b"&".join(b"a%d=1" % n for n in range(5_000))
            yield Request(
                f"{verb} {template} with many parameters",
                message(verb, target.encode() + b"?" + many),
                OK | {503},
            )
    for path in (
        b"//analyze/jobs",
        b"/analyze/../health",
        b"/analyze/jobs/",
        b"/ANALYZE",
        b"http://elsewhere/analyze/jobs",
        b"/analyze#x",
        b"*",
        b"/%2fanalyze",
        b"/analyze%00",
        b"/docs/static/..%2fapp.py",
        b"/docs/static/%2e%2e/app.py",
        b"?",
        b"/\\..\\",
        b"/.git/config",
        b"/docs/static//etc/passwd",
    ):
        yield Request(f"path {path!r}", message("GET", path), OK)


def everything(openapi: dict[str, Any]) -> list[Request]:
    """All of it, in the same order for every store."""
    return [*framing(), *headers(), *paths(openapi), *bodies(), *forms()]
