"""Whatever stands in a document: nothing is lost, the invariants hold, and what came of it moves on without change."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_delivery.domain.account import Kind, Verdict
from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import NotSerializableError
from async_delivery.storage.cells import canonical_of_parsed
from async_delivery.storage.document import Document
from async_delivery.storage.document_index import Place
from tests.storage.documents import Json, at, exported, taken_in, whole, written
from tests.storage.support import sqlite_store

IDS = st.sampled_from(["job-0", "job-1", "job-2", "", "a/b", "x"])
WORDS = st.sampled_from(
    [
        "queued",
        "running",
        "partial",
        "completed",
        "failed",
        "canceled",
        "cancelled",
        "final",
        "paused",
        "in_app",
    ]
)
INSTANTS = st.sampled_from([at(0), at(5), "2026-03-01T12:00:00Z", "yesterday", "", None, 5])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**64, -(2**70), 1e300, float("nan"), float("inf"), 0.5]),
    st.text(max_size=4),
    st.just("\0\ud800"),
    IDS,
    WORDS,
    INSTANTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
FIELDS = st.sampled_from(
    [
        *(
            "status",
            "result_id",
            "org_id",
            "owner_org_id",
            "queued_at",
            "finished_at",
            "updated_at",
            "due_at",
        ),
        *("attempt", "attempts", "partial_count", "event_seq", "progress_percent", "labels", "held", "query"),
        *("request_payload_json", "cancel_requested_at", "error_code", "idempotency_keys", "priority"),
        *("result_kind", "result_seq", "created_at", "expires_at", "deleted_at", "result_payload", "sha256"),
        *("event_type", "occurred_at", "actor_type", "payload_json", "event_id", "channel", "template_key"),
        *("dedupe_key", "delivery_status", "job_id", "input_id", "timeout_seconds", "results_ttl_seconds"),
    ]
)
SECTIONS = st.sampled_from(["jobs", "results", "events", "notifications"])


@st.composite
def odd_documents(draw: st.DrawFn) -> Json:
    """A document as the older service wrote it, with some fields bent, records moved, dropped and made up."""
    states = st.sampled_from(["queued", "running", "partial", "completed", "failed", "canceled"])
    document = whole(*draw(st.lists(states, min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 6))):
        section = document[draw(SECTIONS)]
        match draw(st.sampled_from(["bend", "bend", "bend", "drop", "move", "replace"])):
            case "bend" if section:
                record = section[draw(st.sampled_from(sorted(section)))]
                if isinstance(record, list) and record:
                    record = record[draw(st.integers(0, len(record) - 1))]
                if isinstance(record, dict):
                    record[draw(FIELDS)] = draw(VALUES)
            case "drop" if section:
                del section[draw(st.sampled_from(sorted(section)))]
            case "move" if section:
                section[draw(IDS)] = section[draw(st.sampled_from(sorted(section)))]
            case _:
                section[draw(IDS)] = draw(VALUES)
    return document


def records(document: Json) -> Counter[Kind]:
    """How many records of each kind the text of the document has."""
    count: Counter[Kind] = Counter()
    for kind in (Kind.JOBS, Kind.RESULTS, Kind.NOTIFICATIONS):
        count[kind] = len(document[kind])
    for given_events in document["events"].values():
        count[Kind.EVENTS] += len(given_events) if isinstance(given_events, list) else 1
    return count


# Also what looks like the end of a record, and what only one of two parsers takes.
TRICKY = st.recursive(
    st.sampled_from([1, 2**70, float("nan"), "}", "\n    }", '},\n"', "]\n", "\ud800", '\\"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab}\n"), inner, max_size=3),
    max_leaves=6,
)
LAYOUTS = st.sampled_from([None, 0, 2, 4])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TRICKY, LAYOUTS, st.sampled_from(["", " ", "\n", "\n    "])), max_size=8))
def test_however_records_are_laid_out_each_is_found_where_it_ends(given_: Any) -> None:
    texts = [json.dumps(value, indent=layout).replace("\n", "\n    ") for value, layout, _ in given_]
    inside = ",".join(
        f'{space}"{number}":{text}'
        for number, (text, (*_, space)) in enumerate(zip(texts, given_, strict=True))
    )
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "d.json")
        path.write_text(f'{{"schema_version":5,"jobs":{{}},\n  "notifications": {{{inside}\n  }}\n}}\n')

        with Document(path) as document:
            found = [
                (member.key, document.raw(Place(member.start, member.end)).decode())
                for member in document.section("notifications")
            ]

    assert found == [(str(number), text) for number, text in enumerate(texts)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=odd_documents())
def test_nothing_that_stands_in_a_document_is_lost_or_breaks_an_invariant(document: Any) -> None:
    text = json.dumps(document)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = written(folder / "d.json", text)
        (folder / "one").mkdir()
        (folder / "two").mkdir()
        one, two = sqlite_store(folder / "one"), sqlite_store(folder / "two")
        try:
            account, entries = taken_in(one, path)

            assert {kind: tally.read for kind, tally in account.counts.items() if tally.read} == dict(
                +records(json.loads(text))
            )
            for tally in account.counts.values():
                assert tally.read == tally.taken + tally.odd + tally.refused
                assert min(tally.taken, tally.odd, tally.refused) >= 0
            assert all(entry.notes for entry in entries)
            assert all(entry.record for entry in entries if entry.verdict is Verdict.REFUSED)
            assert one.read(lambda reader: reader.violations(5)) == []
            kept = sum(one.info().counts[kind] for kind in ("jobs", "results", "events", "notifications"))
            assert kept == account.total("taken") + account.total("odd") + account.total("made")

            first = exported(one, folder / "first.json")
            moved, _ = taken_in(two, folder / "first.json")
            assert moved.total("refused") == moved.total("made") == 0
            assert exported(two, folder / "second.json") == first

            again, _ = taken_in(one, path)
            assert (again.total("taken"), again.total("odd"), again.total("made"), again.conflicts) == (
                0,
                0,
                0,
                0,
            )
        finally:
            one.close()
            two.close()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@settings(max_examples=500, deadline=None)
@given(JSON)
def test_the_fast_writer_makes_the_canonical_bytes(value: Any) -> None:
    try:
        expected = canonical_json(value)
    except NotSerializableError:
        with pytest.raises(NotSerializableError):
            canonical_of_parsed(value)
    else:
        assert canonical_of_parsed(value) == expected
