"""What triage decides: the class, the order of causes, which artefacts are bad and how they differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from async_delivery.domain.cleanup import CleanupRun, Pause, Runner
from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.instant import format_instant
from async_delivery.domain.smoke import SMOKE_KIND
from async_delivery.domain.tenant import parse_org_id
from async_delivery.domain.triage import (
    ArtefactKind,
    ErrorClass,
    Fault,
    Finding,
    NextStep,
    badness,
    class_of,
    differences,
    kind_of,
    next_step,
    ordered,
    other_spellings,
    settle,
    skipped_rows,
)
from async_delivery.engine.runtime import new_id
from async_delivery.ops.triage import IncidentExistsError, TriageReport
from async_delivery.ops.triage.compare import compare_artefacts
from async_delivery.ops.triage.incident import write_incident
from async_delivery.ops.triage.notes import Notes
from async_delivery.ops.triage.store import look_at_store
from async_delivery.storage.contract import Store
from async_delivery.storage.opening import Mode, StoreFile, create_store, open_store
from async_delivery.wiring.stores import look
from tests.domain.support import NOON

T = TypeVar("T")


def finding(fault: Fault, error_class: ErrorClass, text: str = "") -> Finding:
    return Finding(fault, error_class, text or fault, NextStep(f"mend {fault}"))


# ---------------------------------------------------------------- class and next step


def test_causes_come_first_and_give_the_one_next_step() -> None:
    found = ordered(
        [
            finding(Fault.SIGNAL, ErrorClass.RESULT_READ),
            finding(Fault.CLEANUP_PAUSED, ErrorClass.RETENTION),
            finding(Fault.SERVER_UNREACHABLE, ErrorClass.RESULT_READ),
            finding(Fault.SIGNAL, ErrorClass.RESULT_READ),
            finding(Fault.DISK_NEARLY_FULL, ErrorClass.NONE),
        ]
    )

    assert [each.fault for each in found] == [
        Fault.SERVER_UNREACHABLE,
        Fault.DISK_NEARLY_FULL,
        Fault.CLEANUP_PAUSED,
        Fault.SIGNAL,
    ]
    assert settle(found) is ErrorClass.RESULT_READ
    assert next_step(found).text == "mend server_unreachable"


@pytest.mark.parametrize(
    ("faults", "error_class"),
    [
        ([], ErrorClass.NONE),
        ([(Fault.NOT_READY, ErrorClass.NONE)], ErrorClass.NONE),
        (
            [
                (Fault.DISK_NEARLY_FULL, ErrorClass.NONE),
                (Fault.NOTIFICATION_MISSING, ErrorClass.NOTIFICATION_READ),
            ],
            ErrorClass.NOTIFICATION_READ,
        ),
        (
            [(Fault.STORE_UNUSABLE, ErrorClass.RETENTION), (Fault.SIGNAL, ErrorClass.RESULT_READ)],
            ErrorClass.RETENTION,
        ),
        (
            [(Fault.STORE_UNUSABLE, ErrorClass.RETENTION), (Fault.RESULT_READ_FAILS, ErrorClass.RESULT_READ)],
            ErrorClass.RESULT_READ,
        ),
    ],
)
def test_the_class_is_that_of_the_first_cause_that_has_one(
    faults: list[tuple[Fault, ErrorClass]], error_class: ErrorClass
) -> None:
    assert settle([finding(*each) for each in faults]) is error_class


# ---------------------------------------------------------------- tenants


@pytest.mark.parametrize("org_id", ["acme", "ACME", "Acme-Labs", "acme_labs", "a", "x" * 128, "acme.", "1:2"])
def test_other_spellings_are_few_valid_and_never_the_name_itself(org_id: str) -> None:
    found = other_spellings(org_id)

    assert len(found) <= 8
    assert org_id not in found
    assert len(set(found)) == len(found)
    assert [parse_org_id(each) for each in found] == found


# ---------------------------------------------------------------- artefacts


def retention(**changes: Any) -> dict[str, Any]:
    section = {"total": 9, "delete_count": 2, "kept_count": 7, "skipped_missing_timestamp": 0, "bytes": 10}
    return {
        "dry_run": False,
        "finished_at": format_instant(NOON),
        "duration_seconds": 0.5,
        "ttl_seconds": {"results": 604_800, "events": 259_200},
        "results": dict(section),
        "events": dict(section),
        "errors": [],
        **changes,
    }


def smoke(*failed: str, profile: str = "staging", **changes: Any) -> dict[str, Any]:
    ids = ("health", "job_terminal", *failed)
    checks = [
        {"id": each, "ok": each not in failed, "outcome": "failed" if each in failed else "ok", "detail": "d"}
        for each in ids
    ]
    return {
        "kind": SMOKE_KIND,
        "profile": profile,
        "ok": not failed,
        "finished_at": format_instant(NOON),
        "checks": checks,
        **changes,
    }


@pytest.mark.parametrize(
    ("name", "body", "kind"),
    [
        ("retention-live.json", retention(), ArtefactKind.RETENTION_LIVE),
        ("retention-live.json", retention(dry_run=True), ArtefactKind.RETENTION_DRY_RUN),
        ("retention-dry-run.json", None, ArtefactKind.RETENTION_DRY_RUN),
        ("retention-scheduled-20260301T120000.json", None, ArtefactKind.RETENTION_LIVE),
        ("smoke-staging-1.json", smoke(), ArtefactKind.SMOKE_STAGING),
        ("smoke-renamed.json", smoke(profile="prod"), ArtefactKind.SMOKE_PROD),
        ("smoke-prod-1.json", None, ArtefactKind.SMOKE_PROD),
        ("smoke-of-something-else.json", {"a": 1}, None),
        ("other.json", retention(), None),
    ],
)
def test_an_artefact_is_known_by_what_it_holds_else_by_its_name(
    name: str, body: dict[str, Any] | None, kind: ArtefactKind | None
) -> None:
    assert kind_of(name, body) is kind


@pytest.mark.parametrize(
    ("kind", "body", "why", "error_class"),
    [
        (ArtefactKind.RETENTION_LIVE, retention(), None, ErrorClass.RETENTION),
        (ArtefactKind.RETENTION_LIVE, retention(errors=["a", "b"]), "errors: a; b", ErrorClass.RETENTION),
        (ArtefactKind.RETENTION_LIVE, retention(exit_code=2), "exit code 2", ErrorClass.RETENTION),
        (ArtefactKind.RETENTION_LIVE, {}, "lacks results, events", ErrorClass.RETENTION),
        (ArtefactKind.SMOKE_STAGING, smoke(), None, ErrorClass.NONE),
        (
            ArtefactKind.SMOKE_STAGING,
            smoke("permalink_latest", "retention_dry_run"),
            "failed: permalink_latest, retention_dry_run (d)",
            ErrorClass.RESULT_READ,
        ),
        (
            ArtefactKind.SMOKE_PROD,
            smoke("notifications_read"),
            "failed: notifications_read (d)",
            ErrorClass.NOTIFICATION_READ,
        ),
        (
            ArtefactKind.SMOKE_PROD,
            smoke("artefact_plausible"),
            "failed: artefact_plausible (d)",
            ErrorClass.RETENTION,
        ),
        (ArtefactKind.SMOKE_PROD, smoke("staging_green"), "failed: staging_green (d)", ErrorClass.NONE),
        (ArtefactKind.SMOKE_PROD, {"ok": False}, "is not green", ErrorClass.NONE),
    ],
)
def test_a_bad_artefact_says_why_and_speaks_of_a_class(
    kind: ArtefactKind, body: dict[str, Any], why: str | None, error_class: ErrorClass
) -> None:
    assert badness(kind, body) == why
    assert class_of(kind, body) is error_class


def test_what_differs_between_good_and_bad_is_listed_and_nothing_else() -> None:
    good = retention(store_file="a")
    bad = retention(
        store_file="a",
        ttl_seconds={"results": 60, "events": 259_200},
        results={**good["results"], "skipped_missing_timestamp": 4},
        duration_seconds=9.0,
        errors=["disk"],
    )

    found = {each.name: (each.good, each.bad) for each in differences(ArtefactKind.RETENTION_LIVE, good, bad)}

    assert found == {
        "ttl_seconds.results": (604_800, 60),
        "results.skipped_missing_timestamp": (0, 4),
        "duration_seconds": (0.5, 9.0),
        "errors": ([], ["disk"]),
    }
    assert differences(ArtefactKind.RETENTION_LIVE, None, bad) == []


def test_what_an_older_version_did_not_report_is_no_difference() -> None:
    section = {"total": 3, "skipped_missing_timestamp": 1}
    older: dict[str, Any] = {
        "results": section,
        "events": section,
        "ttl_seconds": {"results": 1, "events": 1},
    }
    newer = {**older, "jobs": section, "ttl_seconds": {"results": 1, "events": 1, "jobs": None}}

    for good, bad in ((older, newer), (newer, older)):
        for kind in (ArtefactKind.RETENTION_LIVE, ArtefactKind.SMOKE_STAGING):
            assert differences(kind, good, bad) == []
    assert badness(ArtefactKind.RETENTION_LIVE, older) is None
    assert (skipped_rows(newer), skipped_rows(newer, like=older), skipped_rows(older)) == (3, 2, 2)
    changed = {**newer, "ttl_seconds": {**newer["ttl_seconds"], "jobs": 60}, "jobs": {"total": 4}}
    names = {each.name for each in differences(ArtefactKind.RETENTION_LIVE, newer, changed)}
    assert names == {"ttl_seconds.jobs", "jobs.total", "jobs.skipped_missing_timestamp"}


def test_a_smoke_run_is_compared_by_the_checks_that_failed() -> None:
    found = differences(ArtefactKind.SMOKE_STAGING, smoke(), smoke("health", server_version="2"))

    assert {each.name: (each.good, each.bad) for each in found} == {
        "server_version": (None, "2"),
        "checks.health": ("ok: d", "failed: d"),
    }


def put(folder: Path, name: str, body: Any, hours: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(body, dict):
        body = {**body, "finished_at": format_instant(NOON + timedelta(hours=hours))}
    (folder / name).write_text(body if isinstance(body, str) else json.dumps(body))


def test_only_a_bad_artefact_that_no_good_one_follows_is_found(tmp_path: Path) -> None:
    put(tmp_path, "retention-1.json", retention(), 0)
    put(tmp_path, "retention-2.json", retention(errors=["disk"]), 1)
    put(tmp_path, "retention-3.json", retention(), 2)
    put(tmp_path, "smoke-staging-1.json", smoke(), 0)
    put(tmp_path, "smoke-staging-2.json", smoke("notification_in_app"), 1)
    notes = Notes()

    cleanup, staging = compare_artefacts(tmp_path, notes)

    assert (cleanup.is_open, staging.is_open) == (False, True)
    assert cleanup.bad is not None
    assert cleanup.good is not None
    assert (cleanup.good.path.name, cleanup.bad.path.name) == ("retention-3.json", "retention-2.json")
    (found,) = notes.findings
    assert (found.fault, found.error_class) == (Fault.ARTEFACT_BAD, ErrorClass.NOTIFICATION_READ)
    assert found.next_step.command == "async-delivery smoke staging"


def test_an_artefact_that_cannot_be_read_is_a_bad_one(tmp_path: Path) -> None:
    put(tmp_path, "retention-live.json", '{"dry_run": fal')
    notes = Notes()

    (comparison,) = compare_artefacts(tmp_path, notes)

    assert comparison.is_open
    assert "is damaged" in notes.findings[0].text
    assert comparison.to_json()["last_good"] is None


def test_more_rows_without_a_timestamp_than_before_are_found(tmp_path: Path) -> None:
    section = {**retention()["results"], "skipped_missing_timestamp": 3}
    put(tmp_path, "retention-1.json", retention(), 0)
    put(tmp_path, "retention-2.json", retention(results=section), 1)
    more, same = Notes(), Notes()

    compare_artefacts(tmp_path, more)
    put(tmp_path, "retention-3.json", retention(results=section), 2)
    compare_artefacts(tmp_path, same)

    assert [each.fault for each in more.findings] == [Fault.ROWS_WITHOUT_TIMESTAMP]
    assert "3 rows are kept" in more.findings[0].text
    assert same.findings == []


# ---------------------------------------------------------------- the store


@pytest.fixture
def store_file(tmp_path: Path) -> Path:
    path = tmp_path / "store.v1.json"
    create_store(path, store_id=new_id(), now=NOON)
    return path


def written(store_file: Path, fn: Callable[[Any], T]) -> T:
    store = open_store(store_file, Mode.TOOL)
    try:
        return store.write(fn)
    finally:
        store.close()


def seen(store_file: Path, *, expected: bool = True, deep: bool = False) -> Notes:
    notes = Notes()
    look_at_store(look, store_file, notes, now=NOON, expected=expected, deep=deep)
    return notes


def test_a_store_that_nobody_named_and_is_not_here_means_nothing(tmp_path: Path) -> None:
    assert seen(tmp_path / "nowhere.json", expected=False).findings == []
    assert [each.fault for each in seen(tmp_path / "nowhere.json").findings] == [Fault.STORE_UNUSABLE]


def test_the_facts_of_a_store_are_told(store_file: Path) -> None:
    facts = seen(store_file, deep=True).facts["store"]

    assert facts["kind"] == "async-delivery-store"
    assert facts["database"] == "sqlite:store.v1.sqlite3"
    assert facts["last_migration"] in facts["schema_revision"]
    assert facts["disk_free_bytes"] > 0
    assert facts["violations"] == 0


def test_the_last_cleanup_that_did_not_succeed_is_found_unless_it_was_paused(store_file: Path) -> None:
    def run(code: int, hours: int) -> CleanupRun:
        at = NOON + timedelta(hours=hours)
        return CleanupRun(new_id(), Runner.SCRIPT, at, at, code, report={"errors": ["the disk is full"]})

    written(store_file, lambda tx: tx.record_cleanup(run(2, 0)))
    failed = seen(store_file)
    written(store_file, lambda tx: tx.record_cleanup(run(3, 1)))
    written(store_file, lambda tx: tx.set_cleanup_pause(Pause(NOON, "a deviation", "ops")))
    paused = seen(store_file)
    written(store_file, lambda tx: tx.set_cleanup_pause(None))
    written(store_file, lambda tx: tx.record_cleanup(run(0, 2)))
    good = seen(store_file)

    assert [each.fault for each in failed.findings] == [Fault.CLEANUP_FAILED]
    assert "exit code 2: the disk is full" in failed.findings[0].text
    assert [each.fault for each in paused.findings] == [Fault.CLEANUP_PAUSED]
    assert "by ops: a deviation" in paused.findings[0].text
    assert good.findings == []


def test_a_store_that_fails_while_it_is_read_is_a_finding(store_file: Path) -> None:
    def breaks(path: Path, question: Callable[[Store], T], /) -> tuple[StoreFile, T]:
        raise UnavailableError("the database cannot be read: disk I/O error")

    notes = Notes()
    look_at_store(breaks, store_file, notes, now=NOON, expected=True, deep=False)

    assert [each.fault for each in notes.findings] == [Fault.STORE_UNUSABLE]
    assert "disk I/O error" in notes.findings[0].text


# ---------------------------------------------------------------- incidents


def test_whoever_comes_second_finds_a_whole_folder_and_is_refused(tmp_path: Path) -> None:
    report = TriageReport(NOON, {}, [], {}, [], [])
    folder = tmp_path / "incident-x"

    write_incident(report, "x", folder, update=False)
    with pytest.raises(IncidentExistsError):
        write_incident(report, "x", folder, update=False)

    assert sorted(path.name for path in folder.iterdir()) == ["findings.json", "report.md"]
