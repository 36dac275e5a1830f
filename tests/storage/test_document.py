"""The older document, read: what is refused whole, what becomes of each odd record, and that nothing is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from async_delivery.domain.account import Kind, Verdict
from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.job import Job, JobId, JobStatus, ResultId
from async_delivery.domain.tenant import DEFAULT_ORG, OrgId
from async_delivery.domain.transfer import JobBundle
from async_delivery.storage.contract import Store
from async_delivery.storage.document import Document
from tests.contract.support import House
from tests.storage import documents
from tests.storage.documents import Json, at, changed, exported, named, taken_in, whole, written
from tests.storage.support import sqlite_store

ALPHA = OrgId("alpha")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    opened = sqlite_store(tmp_path / "store")
    yield opened
    opened.close()


def bundle(store: Store, job_id: str = "job-0") -> JobBundle:
    (found,) = store.read(lambda reader: reader.find_bundles([JobId(job_id)]))
    return found


def sound(store: Store) -> bool:
    found = store.read(lambda reader: reader.violations(20))
    assert found == []
    return True


# ---------------------------------------------------------------- refused whole
REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "empty.*restore"),
    "white": (" \n ", "truncated"),
    "truncated": (json.dumps(whole("completed"))[:-40], "truncated.*restore"),
    "truncated in a text": (json.dumps(whole("completed"))[:200], "truncated.*restore"),
    "rubbish in the middle": (
        json.dumps(whole("completed")).replace('"org_id": "alpha"', '"org_id": alpha'),
        "damaged.*byte",
    ),
    "something behind it": (json.dumps(whole("completed")) + "{}", "something follows"),
    "a list": ("[]", "damaged"),
    "jobs in a list": (json.dumps({"schema_version": 5, "jobs": []}), "'jobs' is no object"),
    "results in a list": (json.dumps({"schema_version": 5, "jobs": {}, "results": []}), "'results'"),
    "no jobs": (json.dumps({"schema_version": 5, "results": {}}), "no 'jobs'"),
    "jobs twice": ('{"schema_version": 5, "jobs": {}, "jobs": {}}', "twice"),
    "no version": (json.dumps({"jobs": {}}), "schema_version is None"),
    "version 0": (json.dumps({"schema_version": 0, "jobs": {}}), "schema_version is 0"),
    "version as text": (json.dumps({"schema_version": "5", "jobs": {}}), "schema_version is '5'"),
    "newer": (json.dumps({"schema_version": 6, "jobs": {}}), "newer version.*upgrade"),
    "a comma too much": ('{"schema_version": 5, "jobs": {"a": {},}}', "damaged"),
    "no comma": ('{"schema_version": 5 "jobs": {}}', "damaged"),
    "a bracket of the other kind": ('{"schema_version": 5, "jobs": {"a": {]}}', "damaged"),
    "deep and not closed": ("[" * 100_000, "damaged"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_a_document_that_is_not_right_is_refused_in_words(tmp_path: Path, what: str) -> None:
    content, words = REFUSED[what]
    path = written(tmp_path / "store.v1.json", content)

    with pytest.raises(StoreFileError, match=f"(?s){words}"):
        Document(path)
    assert path.read_text() == content


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "store.v1.json")

    with pytest.raises(StoreFileError, match="name the document"):
        Document(tmp_path / "store.v1.json")


def test_a_document_that_is_cut_short_while_it_is_read_is_told_of_in_words(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))

    with Document(path) as document:
        os.truncate(path, 100)

        with pytest.raises(StoreFileError, match="cut it short meanwhile"):
            document.parsed(document.job("job-0"))


# ---------------------------------------------------------------- taken as it is
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", [{}, {"indent": None, "sort_keys": False}, {"ensure_ascii": True}])
def test_every_version_and_layout_is_read_to_the_same(
    store: Store, tmp_path: Path, version: int, layout: dict[str, Any]
) -> None:
    document = whole("completed", "failed", "canceled", "queued", version=version)

    account, entries = taken_in(store, written(tmp_path / "d.json", document, **layout))

    assert named(entries, Verdict.ODD) == named(entries, Verdict.REFUSED) == {}
    assert {kind: tally.taken for kind, tally in account.counts.items()} == {
        Kind.JOBS: 4,
        Kind.RESULTS: 4,
        Kind.EVENTS: 13,
        Kind.NOTIFICATIONS: 2,
        Kind.INPUTS: 0,
    }
    assert list(named(entries, Verdict.MADE)) != []
    assert sound(store)
    done = bundle(store)
    assert done.job.status is JobStatus.COMPLETED
    assert done.job.result_id == "job-0-final"
    assert [event.event_id for event in done.events] == [f"e-job-0-{seq}" for seq in (1, 2, 3, 4)]
    assert store.read(lambda reader: reader.find_body(ALPHA, ResultId("job-0-final"))) == (
        b'{"of":"job-0-final"}'
    )
    assert account.left[Kind.JOBS]["intelligence_mode"] == 4
    assert bundle(store, "job-1").job.error is not None
    assert [told.template_key for told in bundle(store, "job-2").notifications] == ["async.job.canceled"]
    assert House(store).claim()[0].job_id == "job-3"


def test_a_second_run_enters_nothing_and_says_so(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed", "failed", "running", "canceled", "queued"))
    first, _ = taken_in(store, path)
    before = exported(store, tmp_path / "before.json")

    second, entries = taken_in(store, path)

    assert first.total("taken") + first.total("odd") == second.total("there") == second.total("read")
    assert (second.total("taken"), second.total("odd"), entries, second.conflicts) == (0, 0, [], 0)
    assert exported(store, tmp_path / "after.json") == before


def test_what_has_moved_on_since_is_there_and_not_another(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("queued", "completed"))
    taken_in(store, path)
    house = House(store)
    house.complete(house.claim()[0], {"done": True})
    store.write(lambda tx: tx.set_hold(ALPHA, JobId("job-1"), True))

    account, entries = taken_in(store, path)

    assert (account.counts[Kind.JOBS].there, account.conflicts, entries) == (2, 0, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["jobs"]["job-0"].update(org_id="beta", owner_org_id="beta"),
        lambda d: d["jobs"]["job-0"].update(query="another"),
        lambda d: d["results"]["job-0-final"].update(result_payload={"other": 1}),
        lambda d: d["events"]["job-0"].append(documents.event("job-0", 5, "job.progress")),
        lambda d: d["jobs"]["job-0"].update(status="failed"),
    ],
)
def test_an_id_with_other_content_is_named_and_refused(
    store: Store, tmp_path: Path, change: Callable[[Json], object]
) -> None:
    document = whole("completed", "completed")
    taken_in(store, written(tmp_path / "d.json", {**document, "jobs": {"job-0": document["jobs"]["job-0"]}}))
    before = bundle(store)
    other = changed(document, change)
    for name in ("results", "notifications"):
        for record in other[name].values():
            record["owner_org_id"] = other["jobs"][record["job_id"]]["owner_org_id"]

    account, entries = taken_in(store, written(tmp_path / "other.json", other))

    assert account.conflicts == 1
    assert "another job" in named(entries, Verdict.REFUSED, Kind.JOBS)["job-0"]
    assert bundle(store) == before
    assert bundle(store, "job-1").job.status is JobStatus.COMPLETED
    original = next(each.record for each in entries if each.record_id == "job-0")
    assert orjson.loads(original or b"") == other["jobs"]["job-0"]


# ---------------------------------------------------------------- odd ones
Expect = Callable[[Store], object]


def _job(store: Store) -> Job:
    return bundle(store).job


def _types(store: Store) -> list[str]:
    return [str(event.event_type) for event in bundle(store).events]


# What is changed in a document with one completed job; who is named and with what words; what the store has then.
ODD: dict[str, tuple[Callable[[Json], object], str, str, Expect]] = {
    "a running job": (
        lambda d: d.update(whole("running")),
        "job-0",
        "its worker is not of this store: queued again",
        lambda s: (
            _job(s).status is JobStatus.QUEUED
            and _types(s)[3:] == ["job.attempt_lost", "job.requeued"]
            and [each.outcome for each in bundle(s).attempts] == ["lost"]
            and [each.job_id for each in House(s).claim()] == ["job-0"]
        ),
    ),
    "a running job with its final result": (
        lambda d: (
            d["jobs"]["job-0"].update(status="partial", finished_at=None),
            d["notifications"].clear(),
            d["events"]["job-0"].pop(),
        ),
        "job-0",
        "completed",
        lambda s: _job(s).status is JobStatus.COMPLETED and _types(s)[-1] == "job.completed",
    ),
    "a running job to be canceled": (
        lambda d: (
            d.update(whole("running")),
            d["jobs"]["job-0"].update(cancel_requested_at=at(2), canceled_by="user"),
        ),
        "job-0",
        "canceled again",
        lambda s: _job(s).status is JobStatus.CANCELED and len(bundle(s).notifications) == 1,
    ),
    "a waiting job to be canceled": (
        lambda d: (d.update(whole("queued")), d["jobs"]["job-0"].update(cancel_requested_at=at(2))),
        "job-0",
        "a cancel had been asked for",
        lambda s: _job(s).status is JobStatus.CANCELED and _types(s) == ["job.queued", "job.canceled"],
    ),
    "the other spelling": (
        lambda d: (d.update(whole("canceled")), d["jobs"]["job-0"].update(status="Cancelled")),
        "job-0",
        "status is canceled here",
        lambda s: _job(s).status is JobStatus.CANCELED,
    ),
    "an unknown state": (
        lambda d: d["jobs"]["job-0"].update(status="paused"),
        "job-0",
        "unknown_state",
        lambda s: _job(s).status is JobStatus.FAILED and _types(s)[-1] == "job.failed",
    ),
    "no state": (
        lambda d: d["jobs"]["job-0"].pop("status"),
        "job-0",
        "unknown_state",
        lambda s: _job(s).status is JobStatus.FAILED,
    ),
    "an end without an instant": (
        lambda d: d["jobs"]["job-0"].update(finished_at=None),
        "job-0",
        "finished_at",
        lambda s: _job(s).finished_at is None,
    ),
    "an end with an instant that is none": (
        lambda d: d["jobs"]["job-0"].update(finished_at="gestern"),
        "job-0",
        "finished_at",
        lambda s: _job(s).finished_at is None,
    ),
    "instants without a zone and out of range": (
        lambda d: d["jobs"]["job-0"].update(
            queued_at="2026-03-01T12:00:00", started_at="0001-01-01T00:00:00+14:00"
        ),
        "job-0",
        "queued_at",
        lambda s: _job(s).started_at is None,
    ),
    "a result without an instant": (
        lambda d: d["results"]["job-0-final"].update(created_at=None),
        "job-0-final",
        "created_at",
        lambda s: len(bundle(s).results) == 2,
    ),
    "an event without an instant": (
        lambda d: d["events"]["job-0"][1].pop("occurred_at"),
        "job-0#2",
        "occurred_at",
        lambda s: len(bundle(s).events) == 4,
    ),
    "events without numbers": (
        lambda d: [each.pop("event_seq") for each in d["events"]["job-0"]],
        "job-0#3",
        "numbered 3",
        lambda s: _job(s).event_seq == 4,
    ),
    "an event missing": (
        lambda d: d["events"]["job-0"].pop(1),
        "job-0#2",
        "numbered 2",
        lambda s: _job(s).event_seq == 3,
    ),
    "an event of an unknown type": (
        lambda d: d["events"]["job-0"][1].update(event_type="job.paused"),
        "job-0#3",
        "numbered 2",
        lambda s: len(bundle(s).events) == 3,
    ),
    "two final results": (
        lambda d: d["results"].update({"second": documents.result("second", "job-0", "final", 3)}),
        "second",
        "a second final result",
        lambda s: _job(s).result_id == "job-0-final" and _job(s).partial_count == 2,
    ),
    "a final result of a failed job": (
        lambda d: (
            d["jobs"]["job-0"].update(status="failed"),
            d["notifications"].clear(),
        ),
        "job-0-final",
        "did not complete",
        lambda s: _job(s).partial_count == 2,
    ),
    "only the named partial result": (
        lambda d: (
            d["results"].pop("job-0-final"),
            d["jobs"]["job-0"].update(result_id="job-0-partial"),
        ),
        "job-0-partial",
        "its final result",
        lambda s: [each.result.is_final for each in bundle(s).results] == [True],
    ),
    "the result of another job": (
        lambda d: (
            d.update(whole("completed", "completed")),
            d["results"].pop("job-0-final"),
            d["jobs"]["job-0"].update(result_id="job-1-final"),
        ),
        "job-0",
        "not the newest",
        lambda s: _job(s).result_id not in (None, "job-1-final"),
    ),
    "results numbered backwards": (
        lambda d: (
            d["results"]["job-0-partial"].update(result_seq=7),
            d["results"]["job-0-final"].update(result_seq=3),
        ),
        "job-0-final",
        "numbered 2",
        lambda s: _job(s).result_seq == 2,
    ),
    "NaN in a result": (
        lambda d: d["results"]["job-0-final"].update(result_payload={"x": float("nan"), "y": 2**70}),
        "job-0-final",
        "replaced",
        lambda s: (
            s.read(lambda r: r.find_body(ALPHA, ResultId("job-0-final")))
            == b'{"x":null,"y":"1180591620717411303424"}'
        ),
    ),
    "a long number alone": (
        lambda d: d["results"]["job-0-final"].update(result_payload={"y": 2**64}),
        "job-0-final",
        "integer beyond 64 bits",
        lambda s: (
            s.read(lambda r: r.find_body(ALPHA, ResultId("job-0-final"))) == b'{"y":"18446744073709551616"}'
        ),
    ),
    "no body": (
        lambda d: d["results"]["job-0-final"].pop("result_payload"),
        "job-0-final",
        "no body",
        lambda s: s.read(lambda r: r.find_body(ALPHA, ResultId("job-0-final"))) == b"null",
    ),
    "NUL in a text": (
        lambda d: d["jobs"]["job-0"].update(query="a\0b"),
        "job-0",
        "query held",
        lambda s: bundle(s).request.query == "a�b",
    ),
    "another id inside": (
        lambda d: d["jobs"]["job-0"].update(job_id="job-9"),
        "job-0",
        "stands under job-0",
        lambda s: _job(s).job_id == "job-0",
    ),
    "progress beyond the end": (
        lambda d: d["jobs"]["job-0"].update(progress_percent=250),
        "job-0",
        "outside 0 to 100",
        lambda s: _job(s).progress_percent == 100,
    ),
    "another dedupe key": (
        lambda d: d["notifications"]["n-job-0"].update(dedupe_key="x"),
        "n-job-0",
        "dedupe key",
        lambda s: bundle(s).notifications[0].dedupe_key == "job-0:in_app:async.job.completed",
    ),
}


@pytest.mark.parametrize("what", sorted(ODD))
def test_an_odd_record_is_mended_named_and_kept(store: Store, tmp_path: Path, what: str) -> None:
    change, record_id, words, holds = ODD[what]
    path = written(tmp_path / "d.json", changed(whole("completed"), change))

    account, entries = taken_in(store, path)

    assert words in named(entries, Verdict.ODD)[record_id]
    assert account.counts[Kind.JOBS].refused == 0
    assert sound(store)
    assert holds(store)
    again, _ = taken_in(store, path)
    assert (again.total("taken"), again.total("odd"), again.conflicts) == (0, 0, 0)


# What is changed; the ids of what is refused, and the words for the first of them.
OUT: dict[str, tuple[Callable[[Json], object], set[str], str]] = {
    "a result of no job": (
        lambda d: d["results"].update(x=documents.result("x", "gone", "final", 1)),
        {"x"},
        "its job is not in the document",
    ),
    "a result that names no job": (
        lambda d: d["results"].update(x=documents.result("x", "", "final", 1)),
        {"x"},
        "names no job",
    ),
    "events of no job": (
        lambda d: d["events"].update(gone=[documents.event("gone", 1, "job.queued"), 5]),
        {"gone#1", "gone#2"},
        "its job is not in the document",
    ),
    "a notification of no job": (
        lambda d: d["notifications"].update(x=documents.notification("gone", "completed")),
        {"x"},
        "its job is not in the document",
    ),
    "a second notification": (
        lambda d: d["notifications"].update(x=documents.notification("job-0", "completed")),
        {"x"},
        "a second one",
    ),
    "a notification of another end": (
        lambda d: d["notifications"].update(x=documents.notification("job-0", "failed")),
        {"x"},
        "the job is completed",
    ),
    "a job without an id": (
        lambda d: (d["jobs"].update({"": documents.job("")}), d["events"].update({"": [{}]})),
        {"", "#1"},
        "empty",
    ),
    "an id that nobody can ask for": (
        lambda d: d["jobs"].update({"a/b": documents.job("a/b", result_id=None)}),
        {"a/b"},
        "its id is not",
    ),
    "a job that is no object": (lambda d: d["jobs"].update(x=[1, 2]), {"x"}, "not an object"),
    "a result that is no object": (lambda d: d["results"].update(x="y"), {"x"}, "names no job"),
    "an event that is no object": (lambda d: d["events"]["job-0"].append(None), {"job-0#5"}, "not an object"),
    "events that are no list": (
        lambda d: d["events"].update({"job-0": {"a": 1}}),
        {"job-0"},
        "not a list",
    ),
    "a tenant that cannot be named": (
        lambda d: (
            d["jobs"].update(x=documents.job("x", org_id="no such/org", result_id=None)),
            d["results"].update(y=documents.result("y", "x", "final", 1)),
        ),
        {"x", "y"},
        "its tenant",
    ),
    "another tenant's result": (
        lambda d: d["results"]["job-0-partial"].update(owner_org_id="beta"),
        {"job-0-partial"},
        "another tenant",
    ),
    "a body that is not the one that was sealed": (
        lambda d: d["results"]["job-0-partial"].update(sha256="0" * 64),
        {"job-0-partial"},
        "not the one that was sealed",
    ),
    "a channel that is not known": (
        lambda d: d["notifications"].update(x=documents.notification("job-0", "completed", channel="fax")),
        {"x"},
        "channel",
    ),
}


@pytest.mark.parametrize("what", sorted(OUT))
def test_what_cannot_be_kept_is_refused_with_the_whole_of_it(store: Store, tmp_path: Path, what: str) -> None:
    change, ids, words = OUT[what]
    document = changed(whole("completed"), change)

    account, entries = taken_in(store, written(tmp_path / "d.json", document))

    refused = named(entries, Verdict.REFUSED)
    assert set(refused) == ids
    assert words in refused[min(ids)]
    assert account.total("refused") == len(ids)
    for entry in entries:
        if entry.verdict is Verdict.REFUSED:
            assert orjson.loads(entry.record or b"") == original(document, entry.kind, entry.record_id)
    assert bundle(store).job.status is JobStatus.COMPLETED
    assert sound(store)


def original(document: Json, kind: Kind, record_id: str) -> Any:
    if kind is Kind.EVENTS and "#" in record_id:
        job_id, _, number = record_id.rpartition("#")
        return document["events"][job_id][int(number) - 1]
    return document[kind][record_id]


def test_an_id_that_comes_twice_counts_once_and_the_earlier_one_is_refused(
    store: Store, tmp_path: Path
) -> None:
    text = json.dumps(whole("completed"))
    earlier = json.dumps(documents.job("job-0", "failed", message="the earlier one"))
    path = written(tmp_path / "d.json", text.replace('"jobs": {', f'"jobs": {{"job-0": {earlier}, ', 1))

    account, entries = taken_in(store, path)

    assert "comes again" in named(entries, Verdict.REFUSED, Kind.JOBS)["job-0"]
    assert b"the earlier one" in (entries[-1].record or b"")
    assert (account.counts[Kind.JOBS].read, account.counts[Kind.JOBS].taken) == (2, 1)
    assert bundle(store).job.status is JobStatus.COMPLETED


def test_a_value_too_deep_for_any_reader_is_refused_alone(store: Store, tmp_path: Path) -> None:
    text = json.dumps(changed(whole("completed"), lambda d: d["results"].update(deep="HERE")))
    deep = '{"job_id": "job-0", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path = written(tmp_path / "d.json", text.replace('"HERE"', deep))

    _, entries = taken_in(store, path)

    assert set(named(entries, Verdict.REFUSED)) == {"deep"}
    assert sound(store)


def test_a_cleaned_up_job_answers_410_for_its_result_and_nothing_is_odd(store: Store, tmp_path: Path) -> None:
    document = whole("completed", "failed")
    document["results"].clear()
    document["events"] = {"job-0": [], "job-1": []}

    account, entries = taken_in(store, written(tmp_path / "d.json", document))

    assert named(entries, Verdict.ODD) == {}
    found = store.read(lambda reader: reader.find_result(ALPHA, ResultId("job-0-final")))
    assert found is not None
    assert found.result.deleted_at is not None
    assert account.counts[Kind.RESULTS].made == 1
    assert sound(store)


def test_without_a_tenant_a_job_is_the_default_ones(store: Store, tmp_path: Path) -> None:
    def forget(document: Json) -> None:
        for record in (*document["jobs"].values(), *document["results"].values()):
            record.pop("org_id", None)
            record.pop("owner_org_id", None)
        document["jobs"]["job-1"]["tenant_id"] = "beta"

    taken_in(store, written(tmp_path / "d.json", changed(whole("completed", "completed"), forget)))

    assert bundle(store).job.org_id == DEFAULT_ORG
    assert bundle(store, "job-1").job.org_id == "beta"
    assert store.read(lambda reader: reader.find_body(DEFAULT_ORG, ResultId("job-0-final"))) is not None
