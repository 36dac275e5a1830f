"""R15: no bytes break a parser, and none keep it busy."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from tests.reliability.conftest import Score
from tests.reliability.hostile_parsers import TARGETS, feed

SHORT_EXAMPLES, LONG_EXAMPLES = 250, 100_000

# Words that lead a generator into the grammar of each target.
WORDS: dict[str, list[bytes]] = {
    "json_body": [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\u", b"\\ud800", b"\\u0000", b"1e400",
        b"NaN", b"-", b"\xef\xbb\xbf",
                  b"9" * 20, b'{"a":' * 40, b"[" * 2_000, b'{"a":[' * 2_000, b'[[{"":' * 1_000,
                  b'"params":', b'"labels":', b"\xff", b"true",
        b"null", b"0."],
    "prefer": [b"wait", b"=", b'"', b";", b",", b"respond-async", b"handling=strict", b"\\", b" ", b"\t",
        b"9" * 100, b"\n", b"wait=1" * 50],
    "cursor": [b"a", b"=", b"-", b"_", b"A" * 40, b"\xff", b"\x00", b".", b"eyJ"],
    "headers": [b"\n", *[bytes([n]) for n in range(16)], b";q=", b"0.5", b",", b"application/json",
        b"W/", b'"', b"*", b"boundary=",
                b"multipart/form-data;", b"\xff", b"\x00", b"alpha", b" ", b"\t", b";" * 500, b"a=\"" * 50],
    "form": [b"--b", b"\r\n", b"--b--", b'Content-Disposition: form-data; name="request"',
        b'; filename="f"', b"; filename*=utf-8''x",
             b"\r\n\r\n", b'Content-Disposition: form-data; name="file"', b"\n", b"\r", b"\\", b'"',
        b"{}", b"\xff", b"\x00", b"--", b"=" * 200, b";" * 500],
    "connection": [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n",
        b"Content-Length: 3\r\n", b"\n", b"\r", b"abc",
                   b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b":", b" ", b"\t",
        b"\x00", b"\xff", b"Connection: close\r\n",
                   b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"A" * 5_000],
}  # fmt: skip


# Their first byte is no part of what they read: it says how the rest is cut, or which header it is.
LED_BY_A_BYTE = ("headers", "form", "connection")


def stuff(target: str) -> st.SearchStrategy[bytes]:
    words = st.lists(st.sampled_from(WORDS[target]) | st.binary(max_size=8), max_size=60).map(b"".join)
    if target not in LED_BY_A_BYTE:
        return words
    return st.builds(lambda first, rest: first + rest, st.binary(min_size=1, max_size=1), words)


def fuzzed(target: str, examples: int, seed: int, score: Score) -> None:
    limits = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    broken = 1
    try:
        with_seed(seed)(limits(given(stuff(target))(lambda data: feed(target, data))))()
        broken = 0
    finally:
        score("R15", "-", broken, cases=examples, seed=seed)


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_break_a_parser_or_keep_it_busy(target: str, seed: int, score: Score) -> None:
    fuzzed(target, SHORT_EXAMPLES, seed, score)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_a_hundred_thousand_attempts_break_no_parser(target: str, seed: int, score: Score) -> None:
    fuzzed(target, LONG_EXAMPLES, seed, score)


@pytest.mark.parametrize("target", TARGETS)
def test_the_time_that_a_parser_takes_grows_no_faster_than_what_it_is_given(target: str) -> None:
    for word in WORDS[target]:
        feed(target, b"\xff" + (word * 60_000)[:60_000])
