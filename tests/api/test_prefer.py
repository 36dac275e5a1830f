"""The Prefer header, as RFC 7240 writes it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.api.prefer import NOTHING, Prefer, parse_prefer

ASYNC, STRICT = Prefer(respond_async=True), Prefer(strict=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], NOTHING),
        ([""], NOTHING),
        (["respond-async"], ASYNC),
        (["Respond-Async"], ASYNC),
        (["  respond-async  "], ASYNC),
        (["respond-async; foo=bar"], ASYNC),
        (['respond-async; foo="a,b;c"'], ASYNC),
        (["respond-async, wait=10"], Prefer(respond_async=True, wait_seconds=10)),
        (["respond-async", "wait=10"], Prefer(respond_async=True, wait_seconds=10)),
        (["respond-async,wait=10,handling=strict"], Prefer(True, 10, True)),
        (["wait=0"], Prefer(wait_seconds=0)),
        (['wait="7"'], Prefer(wait_seconds=7)),
        (["wait = 7"], Prefer(wait_seconds=7)),
        (["WAIT=7"], Prefer(wait_seconds=7)),
        (["wait=7, wait=9"], Prefer(wait_seconds=7)),
        (["wait=7", "wait=9"], Prefer(wait_seconds=7)),
        (["wait=999999999"], Prefer(wait_seconds=999_999_999)),
        (["wait=9999999999"], Prefer(wait_seconds=999_999_999)),
        (["wait=" + "9" * 1_900], Prefer(wait_seconds=999_999_999)),
        (["wait=-1"], NOTHING),
        (["wait=1.5"], NOTHING),
        (["wait=\N{ARABIC-INDIC DIGIT THREE}"], NOTHING),
        (["wait"], NOTHING),
        (["wait="], NOTHING),
        (["handling=strict"], STRICT),
        (["handling=STRICT"], STRICT),
        (['handling="strict"'], STRICT),
        (["handling=lenient"], NOTHING),
        (["handling=lenient, handling=strict"], NOTHING),
        (["return=minimal, respond-async"], ASYNC),
        (["foo; bar=baz, respond-async"], ASYNC),
        (["(junk), respond-async"], ASYNC),
        (['"quoted", respond-async'], ASYNC),
        (['foo="unclosed, respond-async'], ASYNC),
        (['foo="respond-async"'], NOTHING),
        ([",,,respond-async,"], ASYNC),
        (["respond-asynchronously"], NOTHING),
    ],
)
def test_preferences_are_read_as_the_rfc_writes_them(values: list[str], expected: Prefer) -> None:
    assert parse_prefer(values) == expected


@given(
    st.lists(
        st.text(alphabet='respond-async,;="\\ \twait0123456789handling\x00\xff', max_size=300), max_size=3
    )
)
def test_no_header_breaks_the_reader(values: list[str]) -> None:
    assert isinstance(parse_prefer(values), Prefer)


@pytest.mark.parametrize("piece", [";", "=", '"', "a;", 'a="', "a=b;c=d", "\\", '";"', 'a;"\\'])
def test_a_long_header_costs_no_more_than_its_length(piece: str) -> None:
    began = time.perf_counter()

    parse_prefer([piece * 20_000])

    assert time.perf_counter() - began < 1
