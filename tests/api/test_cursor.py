"""Cursors belong to one tenant and one set of filters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_delivery.api.cursor import make_cursor, read_cursor
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.job import JobId
from tests.api.support import NOBODYS
from tests.engine.support import ALPHA, BETA

LAST = JobId(NOBODYS)


def test_a_cursor_leads_back_to_where_the_page_ended() -> None:
    assert read_cursor(ALPHA, "f", make_cursor(ALPHA, "f", LAST)) == LAST


@pytest.mark.parametrize(("org_id", "filters"), [(BETA, "f"), (ALPHA, "g"), (ALPHA, ""), (BETA, "")])
def test_a_cursor_of_another_tenant_or_list_is_refused(org_id: str, filters: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        read_cursor(type(ALPHA)(org_id), filters, make_cursor(ALPHA, "f", LAST))

    assert [one.field for one in refusal.value.details] == ["cursor"]


def test_every_altered_cursor_is_refused() -> None:
    cursor = make_cursor(ALPHA, "f", LAST)
    altered = [cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :] for n in range(len(cursor))]

    for other in [
        *altered,
        cursor[:-1],
        cursor + "=",
        cursor + "A",
        " " + cursor,
        cursor.replace("-", "+") + " ",
    ]:
        with pytest.raises(ValidationError):
            read_cursor(ALPHA, "f", other)


@given(st.text(max_size=100))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(ValidationError):
        read_cursor(ALPHA, "f", text)
