"""A request has one fingerprint for ever, however it is worked out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.text import is_storable
from async_delivery.engine.runtime import Runtime
from async_delivery.engine.submission import Submission, accept
from async_delivery.testing import FakeClock
from tests.engine.support import ALPHA, LIMITS, lent_runtime

_TEXT = st.text(max_size=20).filter(is_storable)
_LABELS = st.dictionaries(
    st.text(min_size=1, max_size=10).filter(str.isprintable).filter(is_storable), _TEXT, max_size=4
)
_ASKED = st.fixed_dictionaries(
    {},
    optional={
        "query": _TEXT,
        "labels": _LABELS,
        "priority": st.sampled_from(["default", "expedite"]),
        "results_ttl_seconds": st.integers(0, 1_000_000),
        "timeout_seconds": st.integers(1, 600) | st.floats(0.001, LIMITS.timeout_seconds),
        "params": st.fixed_dictionaries({"upto": st.integers(0, 2**63)}),
    },
)


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with lent_runtime(tmp_path_factory.mktemp("store"), FakeClock()) as rt:
        yield rt


@given(asked=_ASKED)
def test_the_fingerprint_is_that_of_the_canonical_json_of_what_was_asked(
    rt: Runtime, asked: dict[str, Any]
) -> None:
    accepted = accept(rt, ALPHA, Submission(**asked))

    wish = {
        "analysis": "count",
        "query": asked.get("query"),
        "timeout_seconds": asked.get("timeout_seconds"),
        "labels": asked.get("labels", {}),
        "priority": {"expedite": 0}.get(asked.get("priority", ""), 1),
        "results_ttl_seconds": asked.get("results_ttl_seconds"),
        "input": None,
    }
    written = canonical_json(wish) + b"\n" + canonical_json(asked.get("params", {}))
    assert accepted.request.fingerprint == hashlib.sha256(written).hexdigest()
