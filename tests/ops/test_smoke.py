"""What the checklists decide without a server, and how checks are carried out and told."""

from __future__ import annotations

import json
import os
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx2
import pytest

from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.instant import format_instant
from async_delivery.domain.smoke import (
    PROD,
    SMOKE_KIND,
    STAGING,
    STAGING_REQUIRED,
    Profile,
    implausible,
    report_fault,
    staging_fault,
)
from async_delivery.ops.artefacts import read_artefact, read_artefacts, write_json, write_new
from async_delivery.ops.checks import Check, CheckFailed, Checklist, CheckSkipped, junit
from async_delivery.ops.probe import Probe, segment
from async_delivery.ops.smoke import Plan, run_smoke
from tests.docs.pages import read, section
from tests.domain.support import NOON


@pytest.mark.parametrize(("heading", "ids"), [("staging", STAGING), ("prod", PROD)])
def test_the_ids_are_those_of_the_runbook(heading: str, ids: tuple[str, ...]) -> None:
    text = section(read("docs/api/async-v1.en.md"), f"Smoke checklist {heading}")

    assert tuple(re.findall(r"^(?:\d+\.|   -) `(\w+)`: ", text, flags=re.MULTILINE)) == ids


# ---------------------------------------------------------------- is staging green?


def green(**changes: Any) -> dict[str, Any]:
    return {
        "kind": SMOKE_KIND,
        "profile": "staging",
        "ok": True,
        "finished_at": format_instant(NOON),
        "checks": [{"id": check_id, "ok": True} for check_id in STAGING_REQUIRED],
        **changes,
    }


def test_a_green_staging_counts_for_a_day() -> None:
    day = timedelta(hours=24)

    assert staging_fault(green(), NOON) is None
    assert staging_fault(green(), NOON + day) is None
    assert "older than 24 hours" in (staging_fault(green(), NOON + day + timedelta(seconds=1)) or "")
    assert "in the future" in (staging_fault(green(), NOON - timedelta(minutes=6)) or "")


@pytest.mark.parametrize(
    ("artefact", "said"),
    [
        (None, "no smoke artefact"),
        ([], "no smoke artefact"),
        (green(kind="something-else"), "no smoke artefact"),
        (green(profile="prod"), "of smoke prod"),
        (green(finished_at="yesterday"), "damaged"),
        (green(checks=None), "damaged"),
        (green(checks=[]), "health was not run"),
        (green(checks=[{"id": check_id, "ok": None} for check_id in STAGING]), "health was not run"),
        (green(ok=False), "not green"),
        (
            green(checks=[{"id": each, "ok": each != "permalink_latest"} for each in STAGING]),
            "permalink_latest failed",
        ),
        (
            green(checks=[{"id": each, "ok": None if "retention" in each else True} for each in STAGING]),
            "retention_dry_run was not run",
        ),
    ],
)
def test_what_is_not_entirely_green_does_not_count(artefact: Any, said: str) -> None:
    assert said in (staging_fault(artefact, NOON) or "")


# ---------------------------------------------------------------- is a report plausible?


def report(deleted: int = 5, skipped: int = 0, **changes: Any) -> dict[str, Any]:
    section = {
        "total": 1000,
        "delete_count": deleted,
        "kept_count": 1000 - deleted,
        "skipped_missing_timestamp": skipped,
    }
    return {
        "dry_run": False,
        "terminal_job_count": 3,
        "results": section,
        "events": dict(section),
        "jobs": dict(section),
        "errors": [],
        **changes,
    }


def test_a_whole_report_has_no_fault() -> None:
    assert report_fault(report(), dry_run=False) is None
    assert report_fault(report(dry_run=True), dry_run=True) is None


def test_a_report_of_an_older_version_says_nothing_of_jobs_and_has_no_fault() -> None:
    older = {name: value for name, value in report().items() if name != "jobs"}

    assert report_fault(older, dry_run=False) is None
    assert implausible(older, report()) is None
    assert implausible(report(), older) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("text", "no report"),
        (report(errors=["the disk is full"]), "the disk is full"),
        (report(dry_run=True), "dry_run True"),
        (report(terminal_job_count=None), "terminal_job_count"),
        (report(results=None), "no section results"),
        (report(events={"total": 1, "delete_count": 1, "kept_count": 0}), "events.skipped_missing_timestamp"),
        (report(events={**report()["events"], "kept_count": True}), "events.kept_count"),
        (report(results={**report()["results"], "kept_count": 1}), "does not add up"),
        (report(jobs={**report()["jobs"], "kept_count": 1}), "does not add up: jobs"),
    ],
)
def test_a_report_with_a_fault_says_which(body: Any, said: str) -> None:
    assert said in (report_fault(body, dry_run=False) or "")


@pytest.mark.parametrize(
    ("dry", "live", "said"),
    [
        (report(5), report(5), None),
        (report(5), report(25), None),
        (report(500), report(520), None),
        (report(0), report(21), "counted 0 to delete, the live run deleted 21"),
        (report(500), report(3), "counted 500 to delete, the live run deleted 3"),
        (report(5), report(5, jobs=report(500)["jobs"]), "jobs: the dry run counted 5"),
        (report(5, skipped=2), report(5, skipped=2), None),
        (report(5, skipped=2), report(5, skipped=0), None),
        (report(5, skipped=2), report(5, skipped=3), "skipped_missing_timestamp went from 2 to 3"),
    ],
)
def test_a_live_run_is_held_to_its_dry_run(
    dry: dict[str, Any], live: dict[str, Any], said: str | None
) -> None:
    found = implausible(dry, live)

    assert found is None if said is None else said in (found or "")


# ---------------------------------------------------------------- carrying out checks


def fails(exc: Exception) -> str:
    raise exc


def test_a_check_that_breaks_fails_and_the_list_goes_on() -> None:
    heard: list[str] = []
    checklist = Checklist(lambda check: heard.append(check.id))

    checklist.run("good", lambda: "seen")
    checklist.run("bad", lambda: fails(CheckFailed("broken; look\nthere")))
    checklist.run("skipped", lambda: fails(CheckSkipped("not wanted")))
    checklist.run("refused", lambda: fails(StoreFileError("the store is empty")))
    checklist.run("unexpected", lambda: fails(KeyError("job")))
    checklist.run("after good", lambda: "seen", needs=["good"])
    checklist.run("after bad", lambda: "seen", needs=["good", "bad"])
    checklist.run("after skipped", lambda: "seen", needs=["skipped"])

    assert [(check.id, check.outcome, check.detail) for check in checklist.checks] == [
        ("good", "ok", "seen"),
        ("bad", "failed", "broken; look there"),
        ("skipped", "skipped", "not wanted"),
        ("refused", "failed", "the store is empty"),
        ("unexpected", "failed", "cannot be judged: KeyError: 'job'"),
        ("after good", "ok", "seen"),
        ("after bad", "skipped", "not run: it needs bad"),
        ("after skipped", "skipped", "not run: it needs skipped"),
    ]
    assert heard == [check.id for check in checklist.checks]
    assert [check.id for check in checklist.failed] == ["bad", "refused", "unexpected"]


def test_the_junit_document_counts_and_survives_any_detail() -> None:
    checks = [
        Check("a", True, "fine", 0.25),
        Check("b", False, 'bad <tag> & "quote" \x00 \ud800', 0.5),
        Check("c", None, "not wanted"),
    ]

    document = junit("async_delivery.smoke.staging", checks, "2026-03-01T12:00:00.000Z")

    root = ET.fromstring(document)  # noqa: S314  our own document

    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "time": "0.750",
    }
    a, b, c = root.iter("testcase")
    assert (a.get("name"), a.get("classname")) == ("a", "async_delivery.smoke.staging")
    failure, skipped = b.find("failure"), c.find("skipped")
    assert failure is not None
    assert skipped is not None
    assert str(failure.get("message")).startswith('bad <tag> & "quote" ')
    assert skipped.get("message") == "not wanted"


# ---------------------------------------------------------------- artefacts


def test_no_artefact_is_written_over_another_however_many_come_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def write(number: int) -> None:
        together.wait(60)
        write_json(tmp_path / "new", "smoke-x", {"number": number})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    found = sorted((tmp_path / "new").iterdir())
    assert len(found) == 8
    assert sorted(json.loads(path.read_text())["number"] for path in found) == list(range(8))


def test_a_bundle_is_for_its_owners_eyes_and_a_report_is_not(tmp_path: Path) -> None:
    bundle = write_new(tmp_path, "bundle", ".tar.gz", b"x", private=True)
    report_file = write_new(tmp_path, "report", ".json", b"{}")

    assert bundle.stat().st_mode & 0o777 == 0o600
    assert report_file.stat().st_mode & 0o400


def test_artefacts_are_read_as_they_are_found_oldest_first(tmp_path: Path) -> None:
    (tmp_path / "smoke-b.json").write_text(json.dumps({"finished_at": "2026-03-01T12:00:00Z"}))
    (tmp_path / "smoke-a.json").write_text(json.dumps({"finished_at": "2026-03-01T13:00:00Z"}))
    (tmp_path / "smoke-c.json").write_text("{ half of")
    (tmp_path / "smoke-d.json").write_text("[]")
    (tmp_path / "smoke-e.json").write_text("")
    (tmp_path / "smoke-f.json").mkdir()

    found = {each.path.name: each.fault for each in read_artefacts(tmp_path, "smoke-*.json")}

    assert list(found)[:2] == ["smoke-b.json", "smoke-a.json"]
    assert found["smoke-a.json"] is None
    assert "not JSON" in (found["smoke-c.json"] or "")
    assert "no JSON object" in (found["smoke-d.json"] or "")
    assert found["smoke-e.json"] == "is empty"
    assert "smoke-f.json" not in found
    assert read_artefacts(tmp_path / "nowhere", "*") == []
    with pytest.raises(FileNotFoundError):
        read_artefact(tmp_path / "gone.json")


@pytest.mark.parametrize("odd", [".", "..", "a/b", "", "%2e%2e", "a?b#c"])
def test_an_id_is_one_segment_of_the_path_whatever_it_holds(odd: str) -> None:
    path = f"/analyze/jobs/{segment(odd)}"

    asked = httpx2.URL(f"http://127.0.0.1:1{path}").raw_path.decode()

    assert asked == path
    assert asked.count("/") == 3


# ---------------------------------------------------------------- what an end in the middle leaves


def test_an_interrupted_run_leaves_an_artefact_that_says_so_and_is_not_green(tmp_path: Path) -> None:
    def interrupted(check: Check) -> None:
        raise KeyboardInterrupt

    with Probe("http://127.0.0.1:1") as probe:
        plan = Plan(
            profile=Profile.STAGING,
            probe=probe,
            org_id=None,
            store=None,
            results_ttl_seconds=1,
            events_ttl_seconds=1,
            jobs_ttl_seconds=None,
            artifacts_dir=tmp_path,
        )
        with pytest.raises(KeyboardInterrupt):
            run_smoke(plan, interrupted)

    (artefact,) = read_artefacts(tmp_path, "smoke-staging-*.json")
    assert artefact.body is not None
    assert artefact.body["interrupted"] is True
    assert artefact.body["ok"] is False
    assert [check["id"] for check in artefact.body["checks"]] == ["health"]
    assert staging_fault(artefact.body, artefact.at) is not None


def test_what_a_killed_process_left_half_written_goes_after_a_day(tmp_path: Path) -> None:
    old, fresh, other = tmp_path / ".a.x.part", tmp_path / ".b.y.part", tmp_path / "c.part"
    for path in (old, fresh, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (1, 1))

    write_json(tmp_path, "next", {})

    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.y.part", "c.part", "next.json"]
