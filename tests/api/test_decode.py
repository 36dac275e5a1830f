"""JSON is read strictly, and every faulty place is named."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.api.decode import MAX_DEPTH, MAX_ISSUES, decode_object
from async_delivery.domain.errors import ValidationError


def refused(data: bytes) -> list[tuple[str, str]]:
    """The faults of a body, as (field, issue)."""
    with pytest.raises(ValidationError) as caught:
        decode_object(data)
    return [(one.field, one.issue) for one in caught.value.details]


def fields(data: bytes) -> list[str]:
    return [field for field, _ in refused(data)]


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object with containers inside each other, ``depth`` of them in all."""
    return b'{"a":' + opening.encode() * (depth - 1) + closing.encode() * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"  \n", "body"),
        (b"not json", "body"),
        (b'{"a":1', "body"),
        (b'{"a":1}}', "body"),
        (b'{"a":1,}', "body"),
        (b"{'a':1}", "body"),
        (b'{"a":01}', "body"),
        (b'{"a":+1}', "body"),
        (b'{"a":.5}', "body"),
        (b'{"a":"\n"}', "body"),
        (b'{"a":"\x00"}', "body"),
        (b'{"a":"\\x"}', "body"),
        (b'{"a":1}//', "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b"1", "body"),
        (b"null", "body"),
        (b"NaN", "body"),
        (b'\xef\xbb\xbf{"a":1}', "body"),
        ('{"a":1}'.encode("utf-16"), "body"),
        (b'{"a":"\xff"}', "body"),
        (b'{"a":"\xed\xa0\x80"}', "body"),
        (b'{"a":"\xc0\xaf"}', "body"),
        (b'{"a":NaN}', "a"),
        (b'{"a":{"b":[1,NaN]}}', "a.b[1]"),
        (b'{"a":Infinity}', "a"),
        (b'{"a":-Infinity}', "a"),
        (b'{"a":[1e400]}', "a[0]"),
        (b'{"a":-1e400}', "a"),
        (b'{"a":18446744073709551616}', "a"),
        (b'{"a":-9223372036854775809}', "a"),
        (b'{"a":[0,' + b"9" * 5_000 + b"]}", "a[1]"),
        (b'{"a":"\\ud800"}', "a"),
        (b'{"a":["\\udc00x"]}', "a[0]"),
        (b'{"\\ud800":1}', "\\ud800"),
        (b'{"a":"x\\u0000y"}', "a"),
        (b'{"a":{"x\\u0000":1}}', "a.x\\u0000"),
        (b'{"a":1,"a":2}', "a"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"p":[{"k":{"a":1,"a":1}}]}', "p[0].k.a"),
        (nested(MAX_DEPTH + 1), "a" + "[0]" * (MAX_DEPTH - 1)),
    ],
)
def test_what_is_not_exactly_one_json_object_is_refused_with_its_place(body: bytes, field: str) -> None:
    assert fields(body) == [field]


def test_every_fault_is_named_not_only_the_first() -> None:
    body = b'{"a":NaN,"b":{"c":1,"c":2,"d":1,"d":1},"e":[1e999,"\\udfff"]}'

    assert fields(body) == ["a", "b.c", "b.d", "e[0]", "e[1]"]


def test_a_body_full_of_faults_makes_a_short_answer() -> None:
    assert len(refused(b'{"a":[' + b"NaN," * 10_000 + b"1]}")) == MAX_ISSUES
    assert len(str(refused(b'{"' + b"k" * 10_000 + b'":NaN}'))) < 200


@pytest.mark.parametrize("depth", [100_000, 5_000, MAX_DEPTH + 1])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused_and_costs_little(depth: int, opening: str, closing: str) -> None:
    body = b'{"a":' + opening.encode() * depth + b"1" + closing.encode() * depth + b"}"
    began = time.perf_counter()

    faults = refused(body)

    assert f"deeper than {MAX_DEPTH} levels" in faults[0][1]
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b' {"a" : [ ] } ', {"a": []}),
        (b'{"a":18446744073709551615,"b":-9223372036854775808}', {"a": 2**64 - 1, "b": -(2**63)}),
        (b'{"a":"12345678901234567890123"}', {"a": "12345678901234567890123"}),
        (b'{"a":1e22,"b":1.5,"c":-0.0,"d":1e-400}', {"a": 1e22, "b": 1.5, "c": -0.0, "d": 0.0}),
        (b'{"a":"\\ud83d\\ude00","b":"\xf0\x9f\x98\x80"}', {"a": "\U0001f600", "b": "\U0001f600"}),
        (b'{"":{"":null}}', {"": {"": None}}),
        (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
    ],
)
def test_what_is_right_comes_through_as_it_is(body: bytes, value: Any) -> None:
    assert decode_object(body) == value


_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5), st.booleans())
def test_every_object_survives_the_way_there(value: dict[str, Any], ascii_only: bool) -> None:
    assert decode_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(
    st.binary(max_size=200)
    | st.text('{}[]",:0123456789.eE+-truefalsnl\\uNaInity ', max_size=60).map(str.encode)
)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with suppress(ValidationError):
        assert isinstance(decode_object(data), dict)


def _text(value: Any, spaced: bool) -> str:
    """``value`` as JSON; an object is a list of pairs, so that a key may come twice."""
    gap = "\n " if spaced else ""
    if isinstance(value, tuple):
        inner = f",{gap}".join(
            f"{json.dumps(key, ensure_ascii=False)}:{gap}{_text(item, spaced)}" for key, item in value
        )
        return f"{{{gap}{inner}{gap}}}"
    if isinstance(value, list):
        return f"[{gap}{f',{gap}'.join(_text(item, spaced) for item in value)}]"
    return json.dumps(value)


def _repeats(value: Any) -> bool:
    """True if a key occurs twice anywhere in it."""
    if isinstance(value, tuple):
        return len({key for key, _ in value}) < len(value) or any(_repeats(item) for _, item in value)
    return isinstance(value, list) and any(map(_repeats, value))


_FEW_KEYS = st.sampled_from(["", "a", "b", " ", "a b", "é", "1", ":", "{", "}"])
_PAIRS = st.recursive(
    st.sampled_from([None, True, 0, -1, 1.5, "", "a", " ", '"', ":", "a:b"]),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(_FEW_KEYS, inner), max_size=3).map(tuple),
    max_leaves=12,
)


@given(st.lists(st.tuples(_FEW_KEYS, _PAIRS), max_size=4).map(tuple), st.booleans())
def test_a_key_that_occurs_twice_is_found_wherever_it_is(pairs: tuple[Any, ...], spaced: bool) -> None:
    body = _text(pairs, spaced)

    if _repeats(pairs):
        assert all("more than once" in issue for _, issue in refused(body.encode()))
    else:
        assert decode_object(body.encode()) == json.loads(body)
