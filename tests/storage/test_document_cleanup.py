"""Cleanup of a document in place: what goes, that everything else stays to the byte, and that nothing is half done."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_delivery.domain.cleanup import Runner
from async_delivery.domain.errors import StoreBusyError, StoreFileError
from async_delivery.domain.retention import ExitCode, RetentionPolicy, RetentionReport
from async_delivery.storage.conversion import only_one
from async_delivery.storage.document import Document
from async_delivery.storage.document_cleanup import DocumentCleanup, StoppedError
from async_delivery.storage.document_going import cuts_of
from async_delivery.wiring.cleaning import clean_up
from tests.domain.support import NOON
from tests.storage import documents
from tests.storage.documents import Json, at, changed, whole, written

EVERYTHING = RetentionPolicy(0, 0, None)
ENDED = NOON + timedelta(seconds=3)
LATER = ENDED + timedelta(days=1)


def never() -> bool:
    return False


def cleaned(
    path: Path, policy: RetentionPolicy = EVERYTHING, now: datetime = LATER, *, dry_run: bool = False
) -> tuple[int, int]:
    """How many results and events one cleanup takes."""
    with Document(path) as document:
        cleanup = DocumentCleanup(document, policy, now, never)
        if not dry_run:
            cleanup.carry_out()
        count = cleanup.count()
        return count.results.delete_count, count.events.delete_count


def left(path: Path) -> tuple[set[str], dict[str, int]]:
    """Results that are left, and how many events each job still has."""
    document = json.loads(path.read_bytes())
    return set(document["results"]), {job_id: len(each) for job_id, each in document["events"].items()}


@pytest.mark.parametrize("layout", [{}, {"indent": None, "sort_keys": False}, {"separators": (",", ":")}])
def test_results_and_events_of_ended_jobs_go_and_all_else_stays(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    document = whole("completed", "running", "failed", "queued", "canceled")
    document["something of theirs"] = {"kept": [1, 2, 3.50]}
    path = written(tmp_path / "d.json", document, **layout)

    assert cleaned(path, dry_run=True) == (4, 12)
    assert cleaned(path) == (4, 12)
    assert cleaned(path) == (0, 0)

    assert left(path) == (
        {"job-1-partial"},
        {"job-0": 0, "job-1": 3, "job-2": 0, "job-3": 1, "job-4": 0},
    )
    expected = changed(document, lambda d: None)
    expected["results"] = {"job-1-partial": document["results"]["job-1-partial"]}
    for job_id in ("job-0", "job-2", "job-4"):
        expected["events"][job_id] = []
    assert json.loads(path.read_bytes()) == expected


def test_what_goes_is_cut_out_and_every_other_byte_stays(tmp_path: Path) -> None:
    text = (
        '{ "results" :{\n  "a":{"job_id":"j","created_at":"2026-03-01T12:00:02Z", "x": 1.50},\n'
        '  "b" : {"job_id":"other"} ,\n  "c":{"job_id":"j","created_at":"2026-03-01T12:00:02Z"}},\n'
        '"jobs":{"j":{"status":"failed","finished_at":"2026-03-01T12:00:03Z","é":1E5}},"schema_version":2 ,"z":0}\n'
    )
    path = written(tmp_path / "d.json", text)

    cleaned(path)

    assert path.read_text(encoding="utf-8") == (
        '{ "results" :{\n  "b" : {"job_id":"other"}},\n'
        '"jobs":{"j":{"status":"failed","finished_at":"2026-03-01T12:00:03Z","é":1E5}},"schema_version":2 ,"z":0}\n'
    )


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=6), st.sampled_from(["", " ", "\n  "]))
def test_whatever_goes_what_is_left_is_an_object_of_the_others(going: list[bool], space: str) -> None:
    inside = ",".join(f'{space}"{number}":{space}[{number}]{space}' for number in range(len(going)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d.json")
        path.write_text(f'{{"schema_version":5,"jobs":{{}},"results":{{{inside}{space}}}}}')
        with Document(path) as document:
            place = document.sections.places["results"]
            data = document.raw(place)

            cuts = cuts_of(place, document.section("results"), lambda member: going[int(member.key)])

    for start, end in reversed(cuts):
        data = data[: start - place.start] + data[end - place.start :]
    assert json.loads(data) == {str(number): [number] for number, goes in enumerate(going) if not goes}


KEPT: dict[str, Callable[[Json], object]] = {
    "held": lambda d: d["jobs"]["job-0"].update(held=True),
    "under legal hold": lambda d: d["jobs"]["job-0"].update(legal_hold=True),
    "an end that is not known": lambda d: d["jobs"]["job-0"].update(finished_at=None),
    "an end that is no instant": lambda d: d["jobs"]["job-0"].update(finished_at="2026-03-01"),
    "a state that is not known": lambda d: d["jobs"]["job-0"].update(status="paused"),
    "not ended": lambda d: d["jobs"]["job-0"].update(status="partial"),
    "of no job": lambda d: d["jobs"].clear(),
    "rows without instants": lambda d: [
        each.pop("created_at", None) or each.pop("occurred_at", None)
        for each in [*d["results"].values(), *d["events"]["job-0"]]
    ],
    "rows that are none": lambda d: (
        d["results"].update(dict.fromkeys(d["results"], 5)),
        d["events"].update({"job-0": 7}),
    ),
}


@pytest.mark.parametrize("what", sorted(KEPT))
def test_what_is_not_clearly_old_is_kept_and_counted(tmp_path: Path, what: str) -> None:
    path = written(tmp_path / "d.json", changed(whole("completed"), KEPT[what]))
    before = path.read_bytes()

    with Document(path) as document:
        cleanup = DocumentCleanup(document, EVERYTHING, LATER, never)
        cleanup.carry_out()
        count = cleanup.count()

    assert path.read_bytes() == before
    assert (count.results.delete_count, count.events.delete_count) == (0, 0)
    assert count.results.total == 2
    held = "held" in what or "hold" in what
    assert count.results.held_count == (2 if held else 0)
    undated = what in {"an end that is not known", "an end that is no instant", "rows without instants"}
    assert count.results.skipped_missing_timestamp == (2 if undated else 0)


def test_a_job_that_stands_twice_keeps_its_rows(tmp_path: Path) -> None:
    text = json.dumps(whole("completed"))
    path = written(
        tmp_path / "d.json", text.replace('"jobs": {', '"jobs": {"job-0": {"status": "running"}, ', 1)
    )

    assert cleaned(path) == (0, 0)


@pytest.mark.parametrize(("seconds", "going"), [(86_399, (2, 4)), (86_400, (2, 4)), (86_401, (0, 0))])
def test_the_end_of_the_job_decides_to_the_second(
    tmp_path: Path, seconds: int, going: tuple[int, int]
) -> None:
    path = written(tmp_path / "d.json", whole("completed"))

    assert cleaned(path, RetentionPolicy(seconds, seconds)) == going


def test_a_ttl_that_the_tenant_asked_for_goes_before_the_cleanups_own(tmp_path: Path) -> None:
    own = {"ttl_requested": True, "results_ttl_seconds": 100_000}
    path = written(tmp_path / "d.json", changed(whole("completed"), lambda d: d["jobs"]["job-0"].update(own)))

    assert cleaned(path, RetentionPolicy(0, 10**6)) == (0, 0)
    assert cleaned(path, RetentionPolicy(10**6, 10**6), ENDED + timedelta(seconds=100_000)) == (2, 0)


# ---------------------------------------------------------------- as the command runs it
def run(path: Path, *, dry_run: bool = False, stop: Callable[[], bool] = never) -> RetentionReport:
    return clean_up(path, EVERYTHING, runner=Runner.SCRIPT, dry_run=dry_run, stop=stop, force=False)


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_dry_run_changes_no_byte_and_no_inode_and_leaves_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))
    before = path.read_bytes(), path.stat()

    report = run(path, dry_run=True)

    assert (path.read_bytes(), path.stat()) == before
    assert names(tmp_path) == {"d.json"}
    live = run(path)
    assert (report.results, report.events) == (live.results, live.events)
    assert report.results.bytes + report.events.bytes == before[1].st_size - path.stat().st_size


def test_mode_and_owner_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))
    path.chmod(0o640)
    owner = (12345, 12345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)

    run(path)

    found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, *owner)


def test_through_a_link_it_is_the_document_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = written(tmp_path / "real/d.json", whole("completed"))
    (tmp_path / "d.json").symlink_to(real)

    run(tmp_path / "d.json")

    assert (tmp_path / "d.json").is_symlink()
    assert left(real)[0] == set()


def test_a_second_cleanup_finds_the_place_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))
    before = path.read_bytes()

    with only_one(path), pytest.raises(StoreBusyError, match="running"):
        run(path)

    assert path.read_bytes() == before


def test_asked_to_stop_it_has_deleted_nothing_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))
    before = path.read_bytes()

    report = run(path, stop=lambda: True)

    assert report.exit_code is ExitCode.PARTIAL
    assert (report.results.delete_count, report.results.total) == (0, 2)
    assert path.read_bytes() == before
    assert names(tmp_path) == {"d.json", "d.json.lock"}


@pytest.mark.parametrize("stopping_at", [1, 3, 5, 8])
def test_it_can_be_stopped_at_every_step(tmp_path: Path, stopping_at: int) -> None:
    path = written(tmp_path / "d.json", whole("completed", "failed"))
    before = path.read_bytes()
    asked = iter(range(1, 1000))

    with Document(path) as document, pytest.raises(StoppedError):
        DocumentCleanup(document, EVERYTHING, LATER, lambda: next(asked) > stopping_at).carry_out()

    assert path.read_bytes() == before
    assert names(tmp_path) == {"d.json"}


def test_a_document_that_was_written_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", whole("completed"))
    newer = json.dumps(whole("completed", "queued"))

    with Document(path) as document:
        cleanup = DocumentCleanup(document, EVERYTHING, LATER, never)
        written(tmp_path / "other.json", newer).replace(path)
        with pytest.raises(StoreFileError, match="another program"):
            cleanup.carry_out()

    assert path.read_text() == newer
    assert names(tmp_path) == {"d.json"}


def test_a_damaged_document_is_refused_in_words(tmp_path: Path) -> None:
    path = written(tmp_path / "d.json", json.dumps(whole("completed", version=5))[:-30])
    path.write_text(path.read_text() + " " * 70_000)

    with pytest.raises(StoreFileError, match="truncated"):
        run(path)


def test_the_report_has_what_every_report_has(tmp_path: Path) -> None:
    document = whole("completed", "running")
    document["jobs"]["job-0"]["org_id"] = "beta"
    path = written(tmp_path / "d.json", document)

    report = run(path).to_json()

    assert report["store_file"] == str(path)
    assert report["per_tenant"] == {"beta": {"results": 2, "events": 4, "jobs": 0}}
    assert (report["terminal_job_count"], report["active_job_count"]) == (1, 1)
    assert report["results"]["kept_count"] == 1


def test_receipts_of_an_export_are_neither_counted_nor_taken(tmp_path: Path) -> None:
    receipt = documents.result("job-0-final", "job-0", "final", 2, deleted_at=at(4))
    receipt.pop("result_payload")
    path = written(
        tmp_path / "d.json",
        changed(whole("completed"), lambda d: d["results"].update({"job-0-final": receipt})),
    )

    assert cleaned(path) == (1, 4)
    assert left(path)[0] == {"job-0-final"}
