"""The page of the store document names every field that is read, and no other."""

from __future__ import annotations

import re

import pytest

from async_delivery.storage.document import NEWEST_VERSION
from async_delivery.storage.document_jobs import JOB_FIELDS
from async_delivery.storage.document_records import EVENT_FIELDS, NOTIFICATION_FIELDS, RESULT_FIELDS
from tests.system.live import CHECKOUT

PAGE = (CHECKOUT / "docs/reference/store-document.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("A job", JOB_FIELDS),
        ("A result", RESULT_FIELDS),
        ("An event", EVENT_FIELDS),
        ("A notification", NOTIFICATION_FIELDS),
    ],
)
def test_the_page_has_every_field_that_is_read_and_no_other(heading: str, fields: frozenset[str]) -> None:
    section = PAGE.partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]

    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert documented == fields


def test_the_page_tells_of_the_version_that_is_written() -> None:
    assert f"Version {NEWEST_VERSION}, one record per line" in PAGE
    assert f"Versions 1 to {NEWEST_VERSION} are read" in PAGE
