from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import NotSerializableError
from async_delivery.storage.cells import flat_json_text

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats()
    | st.integers(-(10**10), 10**10).map(float)
    | st.text(st.characters())
    | st.lists(st.floats(allow_nan=False), max_size=2)
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(st.text(st.characters()), _SCALARS, max_size=5))
def test_the_short_way_to_a_rows_json_says_what_the_long_way_says(value: dict[str, Any]) -> None:
    try:
        expected = canonical_json(value).decode()
    except NotSerializableError:
        with pytest.raises(NotSerializableError):
            flat_json_text(value)
    else:
        assert flat_json_text(value) == expected
