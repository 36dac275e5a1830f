"""The part of the corpus that is in bodies: JSON and forms. Nothing of the product is imported."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

from tests.reliability.hostile import Request, message

OK = frozenset({200, 202, 204, 304, 406})
JSON = b"Content-Type: application/json"
GOOD = json.dumps(
    {"analysis": "selftest", "params": {"stages": 0}, "options": {"async_mode": {"requested": True}}}
)
SUBMIT = GOOD.encode()
CRLF = b"\r\n"


def bodies() -> Iterator[Request]:
    """JSON that parsers disagree on, that is too deep, too long, or not JSON."""

    def odd(name: str, body: bytes, *more: bytes, good: frozenset[int] = frozenset()) -> Request:
        return Request(f"body: {name}", message("POST", b"/analyze", *(more or (JSON,)), body=body), good)

    def param(text: bytes) -> bytes:
        return b'{"params":{"stages":' + text + b"}}"

    for number in (
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"-1e400",
        b"9" * 5_000,
        b"9" * 200_000,
        b"18446744073709551616",
        b"-9223372036854775809",
        b"1" + b"0" * 300,
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x1",
        b"1_0",
        b"0." + b"1" * 500_000,
        b"1e" + b"9" * 100_000,
        b"-",
        b"true",
        b"1e-400",
        b"\xef\xbc\x91",
    ):
        yield odd(f"number {number[:24]!r} of {len(number)}", param(number))
    for depth in (65, 1_000, 100_000, 450_000):
        yield odd(f"{depth} arrays", param(b"[" * depth + b"]" * depth))
        yield odd(f"{depth} arrays without end", param(b"[" * depth))
        count = min(depth, 150_000)
        yield odd(f"{count} objects", b'{"params":' + b'{"a":' * count + b"1" + b"}" * count + b"}")
    for name, text in {
        "high surrogate": rb"\ud800",
        "low surrogate": rb"\udead",
        "swapped pair": rb"\ude00\ud83d",
        "NUL": rb"\u0000",
        "raw NUL": b"\x00",
        "raw newline": b"\n",
        "overlong": b"\xc0\xaf",
        "cesu": b"\xed\xa0\xbd\xed\xb8\x80",
        "bad UTF-8": b"\xff\xfe",
        "cut UTF-8": b"\xe2\x82",
        "beyond unicode": b"\xf4\x90\x80\x80",
        "bad escape": rb"\x41",
        "short escape": rb"\u12",
        "megabyte of escapes": rb"\u0041" * 200_000,
    }.items():
        for place in (
            b'{"query":"%b"}',
            b'{"labels":{"%b":"x"}}',
            b'{"labels":{"x":"%b"}}',
            b'{"analysis":"%b"}',
            b'{"params":{"%b":1}}',
            b'{"params":{"stages":"%b"}}',
        ):
            yield odd(f"{name} in {place[:24]!r}", place % text)
    for name, body in {
        "BOM": b"\xef\xbb\xbf" + SUBMIT,
        "UTF-16": GOOD.encode("utf-16"),
        "UTF-32": GOOD.encode("utf-32"),
        "duplicate keys": b'{"analysis":"selftest","analysis":"profile"}',
        "trailing text": SUBMIT + b"x",
        "two documents": SUBMIT + SUBMIT,
        "trailing comma": b'{"query":"x",}',
        "comment": b'{/**/"query":"x"}',
        "single quotes": b"{'query':'x'}",
        "NUL behind": SUBMIT + b"\x00",
        "nothing": b"",
        "spaces": b" " * 1_000,
        "array": b"[]",
        "text": b'"x"',
        "number": b"1",
        "null": b"null",
        "half": SUBMIT[:20],
        "many keys": b'{"params":{' + b",".join(b'"k%d":1' % n for n in range(60_000)) + b"}}",
        "many labels": b'{"labels":{' + b",".join(b'"k%d":"v"' % n for n in range(40_000)) + b"}}",
        "equal keys": b'{"params":{' + b",".join(b'"k":1' for n in range(100_000)) + b"}}",
        "proto": b'{"__proto__":{"x":1},"constructor":1,"params":{"__class__":1}}',
        "long query": b'{"query":"' + b"x" * 900_000 + b'"}',
        "two megabytes": b" " * 2_000_000 + SUBMIT,
        "long name": b'{"analysis":"' + b"a" * 900_000 + b'"}',
    }.items():
        yield odd(name, body)
    bomb = gzip.compress(b"[" * 50_000_000, 9)
    for coding, body in {
        "gzip": bomb,
        "deflate": zlib.compress(bomb),
        "br": b"\x00" * 100,
        "gzip, gzip": gzip.compress(bomb),
        "x-gzip": bomb,
        "zstd": bomb,
        "GZIP": bomb,
    }.items():
        yield odd(f"bomb {coding}", body, JSON, b"Content-Encoding: " + coding.encode())
    yield odd("bomb without a word", bomb)
    for kind in (
        b"text/plain",
        b"application/xml",
        b"application/json; charset=utf-16",
        b"application/x-ndjson",
        b"a/b/c",
        b"",
        b"application/json, text/plain",
        b"multipart/mixed; boundary=x",
        b"\xff",
    ):
        yield odd(
            f"Content-Type {kind!r}",
            SUBMIT,
            b"Content-Type: " + kind,
            good=OK if kind.startswith(b"application/json;") else frozenset(),
        )


# ---------------------------------------------------------------- forms
def forms() -> Iterator[Request]:
    """multipart/form-data as nobody's browser makes it. A good one with an odd file name may pass."""

    def form(
        name: str,
        body: bytes,
        kind: bytes = b"multipart/form-data; boundary=b",
        good: frozenset[int] = frozenset(),
    ) -> Request:
        return Request(
            f"form: {name}", message("POST", b"/analyze", b"Content-Type: " + kind, body=body), good
        )

    def part(head: bytes, content: bytes = b"x") -> bytes:
        return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n"

    asked = part(b'Content-Disposition: form-data; name="request"', b'{"analysis":"echo"}')
    file = part(b'Content-Disposition: form-data; name="file"; filename="f"', b"a,b\n1,2\n")
    end = b"--b--\r\n"
    for filename in (
        b"../../etc/passwd",
        b"/etc/passwd",
        b"..\\..\\win.ini",
        b"C:\\x",
        b"a\x00b",
        b"/dev/zero",
        b"CON",
        b".",
        b"..",
        b"",
        b"x" * 5_000,
        b"\xff\xfe",
        "\u202ecod.exe".encode(),
        b"a\nb",
        b"%2e%2e%2f",
        b"-rf",
        b"~root",
        b"\x1b[31m",
        b'a\\"; name=\\"request',
        b"=cmd|calc",
    ):
        head = b'Content-Disposition: form-data; name="file"; filename="' + filename + b'"'
        yield form(f"filename {filename[:24]!r}", asked + part(head) + end, good=OK)
    for name, body in {
        "no end": asked + file,
        "only the end": end,
        "nothing": b"",
        "no boundary": b"x" * 1_000,
        "two files": asked + file + file + end,
        "two requests": asked + asked + file + end,
        "an unknown part": asked + file + part(b'Content-Disposition: form-data; name="x"') + end,
        "no name": part(b"Content-Disposition: form-data") + end,
        "no disposition": part(b"X: y") + end,
        "no headers": b"--b\r\n\r\nx\r\n" + end,
        "ten thousand parts": file * 10_000 + end,
        "a head of a megabyte": part(b'Content-Disposition: form-data; name="' + b"a" * 1_000_000 + b'"')
        + end,
        "ten thousand heads": part(
            CRLF.join(b"A%d: b" % n for n in range(10_000))
            + b'\r\nContent-Disposition: form-data; name="file"'
        )
        + end,
        "a form in a form": part(
            b'Content-Disposition: form-data; name="file"\r\nContent-Type: multipart/mixed; boundary=c',
            b"--c\r\n\r\nx\r\n--c--",
        )
        + end,
        "bad JSON": part(b'Content-Disposition: form-data; name="request"', b"{") + file + end,
        "a long request": part(b'Content-Disposition: form-data; name="request"', b" " * 2_000_000)
        + file
        + end,
        "NUL in a name": part(b'Content-Disposition: form-data; name="fi\x00le"') + end,
        "bare LF": (asked + file + end).replace(b"\r\n", b"\n"),
        "disposition twice": part(
            b'Content-Disposition: form-data; name="file"\r\nContent-Disposition: form-data; name="request"'
        )
        + end,
        "quotes without end": part(b'Content-Disposition: form-data; name="file') + end,
        "many semicolons": part(b"Content-Disposition: form-data" + b";" * 100_000) + end,
        "many backslashes": part(b'Content-Disposition: form-data; name="' + b'\\"' * 50_000) + end,
        "half an end": asked + file + b"--b-",
        "a boundary in the content": asked
        + part(b'Content-Disposition: form-data; name="file"; filename="f"', b"\r\n--b" * 10_000)
        + end,
        "dashes": b"-" * 500_000,
    }.items():
        yield form(name, body)
    for kind in (
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=" + b"x" * 71,
        b'multipart/form-data; boundary="',
        b"multipart/form-data; boundary=\xff",
        b"multipart/form-data; boundary=b; boundary=c",
        b"multipart/form-data;" + b"a=b;" * 10_000 + b"boundary=zz",
        b"multipart/form-data; boundary=a\x0bb",
    ):
        yield form(f"kind {kind[:60]!r}", asked + file + end, kind, OK)
