"""Jobs that go from a document in place: with all that belongs to them, and never before their results and events."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from async_delivery.domain.retention import RetentionPolicy
from async_delivery.storage.contract import RetentionCount
from async_delivery.storage.document import Document
from async_delivery.storage.document_cleanup import DocumentCleanup
from tests.domain.support import NOON
from tests.storage.documents import Json, at, changed, event, job, notification, result, whole, written

ALL = RetentionPolicy(0, 0, 0)
DAY = 86_400
ENDED = NOON + timedelta(seconds=3)
SECTIONS = ("jobs", "results", "events", "notifications")


def cleaned(
    path: Path, policy: RetentionPolicy = ALL, later: timedelta = timedelta(days=1), *, dry_run: bool = False
) -> RetentionCount:
    """What one cleanup counts, so long after the jobs ended."""
    with Document(path) as document:
        cleanup = DocumentCleanup(document, policy, ENDED + later, lambda: False)
        if not dry_run:
            cleanup.carry_out()
        return cleanup.count()


def read(path: Path) -> Json:
    document: Json = json.loads(path.read_bytes())
    return document


@pytest.mark.parametrize("indent", [None, 2])
def test_a_job_goes_with_all_that_belongs_to_it_and_all_else_stays(
    tmp_path: Path, indent: int | None
) -> None:
    statuses = ("completed", "running", "failed", "queued", "canceled")
    document = whole(*statuses)
    document["something of theirs"] = {"kept": [1, 2, 3.50]}
    path = written(tmp_path / "d.json", document, indent=indent)
    size = path.stat().st_size

    dry = cleaned(path, dry_run=True)
    live = cleaned(path)
    again = cleaned(path)

    assert dry == live
    assert (live.jobs.total, live.jobs.eligible_terminal, live.jobs.delete_count) == (5, 3, 3)
    assert live.per_tenant == {"alpha": {"results": 4, "events": 12, "jobs": 3}}
    assert live.results.bytes + live.events.bytes + live.jobs.bytes == size - path.stat().st_size
    assert (again.jobs.total, again.jobs.delete_count, again.results.total) == (2, 0, 1)
    active = {name: value for name, value in document.items() if name not in SECTIONS}
    for section in SECTIONS:
        active[section] = {
            key: value
            for key, value in document[section].items()
            if not any(word in key for word in ("job-0", "job-2", "job-4"))
        }
    assert read(path) == active


def test_a_job_whose_rows_went_before_takes_their_receipts_along(tmp_path: Path) -> None:
    document = whole("completed", "completed")
    for name in ("job-0-partial", "job-0-final"):
        del document["results"][name]["result_payload"]
        document["results"][name]["deleted_at"] = at(10)
    document["events"]["job-0"] = []
    path = written(tmp_path / "d.json", document)

    live = cleaned(path, RetentionPolicy(2 * DAY, 2 * DAY, 0))

    assert (live.results.delete_count, live.events.delete_count, live.jobs.delete_count) == (0, 0, 1)
    left = read(path)
    assert set(left["jobs"]) == set(left["events"]) == {"job-1"}
    assert set(left["results"]) == {"job-1-partial", "job-1-final"}
    assert set(left["notifications"]) == {"n-job-1"}


@pytest.mark.parametrize("policy", [RetentionPolicy(2 * DAY, 0, 0), RetentionPolicy(0, 2 * DAY, 0)])
def test_a_job_stays_as_long_as_a_result_or_an_event_does(tmp_path: Path, policy: RetentionPolicy) -> None:
    path = written(tmp_path / "d.json", whole("completed"))

    assert cleaned(path, policy).jobs.delete_count == 0
    assert set(read(path)["jobs"]) == {"job-0"}
    assert cleaned(path, policy, timedelta(days=2)).jobs.delete_count == 1
    assert read(path)["jobs"] == {}


def test_the_end_of_the_job_decides_to_the_second_and_off_means_never(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))
    policy = RetentionPolicy(0, 0, DAY)

    assert cleaned(path, RetentionPolicy(0, 0, None), timedelta(days=9999)).jobs.delete_count == 0
    assert cleaned(path, policy, timedelta(seconds=DAY - 1)).jobs.delete_count == 0
    assert cleaned(path, policy, timedelta(seconds=DAY)).jobs.delete_count == 1


def test_a_held_job_stays_and_is_counted(tmp_path: Path) -> None:
    document = whole("completed", "completed")
    document["jobs"]["job-1"]["legal_hold"] = True
    path = written(tmp_path / "d.json", document)

    live = cleaned(path)

    assert (live.jobs.delete_count, live.jobs.held_count, live.jobs.kept_count) == (1, 1, 1)
    assert set(read(path)["jobs"]) == {"job-1"}


UNCLEAR = {
    "no valid end": lambda d: d["jobs"]["job-0"].update(finished_at="yesterday"),
    "a result without an instant": lambda d: d["results"]["job-0-final"].update(created_at=None),
    "a result that is no object": lambda d: d["results"].update({"job-0-final": "text"}),
    "an event without an instant": lambda d: d["events"]["job-0"][1].update(occurred_at=7),
    "events that are no list": lambda d: d["events"].update({"job-0": {"not": "a list"}}),
    "an unknown state": lambda d: d["jobs"]["job-0"].update(status="resting"),
}


@pytest.mark.parametrize("what", sorted(UNCLEAR))
def test_where_the_document_is_not_clear_the_job_stays(tmp_path: Path, what: str) -> None:
    path = written(tmp_path / "d.json", changed(whole("completed", "failed"), UNCLEAR[what]))

    live = cleaned(path)

    assert live.jobs.delete_count == 1
    assert set(read(path)["jobs"]) == {"job-0"}
    assert set(read(path)["notifications"]) == {"n-job-0"}
    assert live.jobs.skipped_missing_timestamp == (1 if what == "no valid end" else 0)


@pytest.mark.parametrize("section", ["jobs", "results", "notifications", "events"])
def test_a_job_of_which_something_stands_twice_stays(tmp_path: Path, section: str) -> None:
    rows = {
        "jobs": ("job-0", job("job-0")),
        "results": ("job-0-final", result("job-0-final", "job-0", "final", 2)),
        "notifications": ("n-job-0", notification("job-0", "completed")),
        "events": ("job-0", [event("job-0", 1, "job.queued")]),
    }
    key, value = rows[section]
    text = json.dumps(whole("completed"))
    doubled = text.replace(f'"{section}": {{', f'"{section}": {{"{key}": {json.dumps(value)}, ', 1)
    path = written(tmp_path / "d.json", doubled)

    assert cleaned(path).jobs.delete_count == 0
    assert set(read(path)["jobs"]) == {"job-0"}


def test_a_file_goes_with_the_last_job_that_names_it(tmp_path: Path) -> None:
    document = whole("completed", "completed", "running")
    for number, name in enumerate(["own", "shared", "shared"]):
        document["jobs"][f"job-{number}"]["input_id"] = name
    document["inputs"] = {name: {"filename": "a.csv"} for name in ("own", "shared", "nobodys")}
    document["input_chunks"] = {f"{name}/{n}": "YQ==" for name in document["inputs"] for n in range(2)}
    path = written(tmp_path / "d.json", document)

    assert cleaned(path).jobs.delete_count == 2

    left = read(path)
    assert set(left["inputs"]) == {"shared", "nobodys"}
    assert set(left["input_chunks"]) == {"shared/0", "shared/1", "nobodys/0", "nobodys/1"}


def test_rows_of_no_job_stay_where_they_are(tmp_path: Path) -> None:
    document = whole("completed")
    document["results"]["stray"] = result("stray", "somebody", "partial", 1)
    document["events"]["somebody"] = [event("somebody", 1, "job.queued")]
    document["notifications"]["n-somebody"] = notification("somebody", "completed")
    path = written(tmp_path / "d.json", document)

    assert cleaned(path).jobs.delete_count == 1

    left = read(path)
    assert left["jobs"] == {}
    assert [set(left[name]) for name in SECTIONS[1:]] == [{"stray"}, {"somebody"}, {"n-somebody"}]
