"""What each line under "Erwartung" and "Expected" of the runbook means: the line in both languages, and its check.

PARTS has the lists of the pages in their order. A check runs right after its part, while nothing else has happened.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.runbook import ORG, STORE_FILE, Operator
from tests.system.live import eventually

DATABASE = "store.v1.sqlite3"
TERMINAL = ("completed", "failed", "canceled")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line of a list."""

    de: str
    en: str
    check: Callable[[Operator], None]


def exits_as_said(operator: Operator) -> None:
    """Nothing more to do: ``Operator.follow`` holds each part to the exit code of its list."""
    assert operator.ran


# ---------------------------------------------------------------- 1) the permalink


def permalink_is_200(operator: Operator) -> None:
    assert operator.statuses(operator.last.text) == [200]


def permalink_has_its_fields(operator: Operator) -> None:
    (body,) = operator.last.documents()
    assert body["result_id"] == operator.server.job(operator.job_id, org=ORG)["result_id"]
    assert body["requested_result_id"] == operator.result_id
    assert body["projection_mode"] == "latest"


def another_tenant_gets_404_and_learns_nothing(operator: Operator) -> None:
    command = operator.last.text
    unknown = f"01{operator.result_id[2:-4]}ffff"

    assert operator.statuses(command.replace("${ORG_ID}", "someone-else")) == [404]
    theirs = operator.ask(f"/analyze/results/{operator.result_id}?view=latest", org="someone-else")
    nobodys = operator.ask(f"/analyze/results/{unknown}?view=latest", org="someone-else")
    assert _plain(theirs.json(), operator.result_id) == _plain(nobodys.json(), unknown)


def _plain(body: dict[str, Any], result_id: str) -> dict[str, Any]:
    """An answer without what must differ: the id that was asked for, and that of the request."""
    return {
        name: value.replace(result_id, "ID") if isinstance(value, str) else value
        for name, value in body.items()
        if name != "request_id"
    }


# ---------------------------------------------------------------- 2) status and notifications


def status_agrees_with_its_result(operator: Operator) -> None:
    status, _ = operator.last.documents()
    job = status["job"]
    assert job["status"] == "completed"
    assert job["result_id"] == operator.result_id
    assert operator.ask(f"/analyze/results/{job['result_id']}?view=requested").json()["is_final"] is True
    assert [event["event_type"] for event in job["events"]][-1] == "job.completed"


def notifications_come_latest_first(operator: Operator) -> None:
    told = operator.last
    (first,) = told.documents()[1]["notifications"]
    with notifications_beside(operator, first["notification_id"]) as planted:
        listed = operator.run(told.text).documents()[1]["notifications"]
        assert [each["notification_id"] for each in listed] == planted
        assert [each["created_at"] for each in listed] == sorted(
            (each["created_at"] for each in listed), reverse=True
        )


@contextmanager
def notifications_beside(operator: Operator, middle: str) -> Iterator[list[str]]:
    """Put one notification before and one after that of a job, by hand; the ids, newest first."""
    older, newer = "00" + middle[2:], "7f" + middle[2:]
    with editing(operator) as store:
        names = [row[1] for row in store.execute("PRAGMA table_info(notifications)")]
        changed = {
            "notification_id": "?1",
            "dedupe_key": "dedupe_key || ?1",
            "created_at": "created_at + ?2",
        }
        columns = ", ".join(changed.get(name, name) for name in names)
        for planted, milliseconds in ((older, -1_000), (newer, 1_000)):
            store.execute(
                f"INSERT INTO notifications SELECT {columns} FROM notifications WHERE notification_id = ?3",
                (planted, milliseconds, middle),
            )
    try:
        yield [newer, middle, older]
    finally:
        with editing(operator) as store:
            store.execute("DELETE FROM notifications WHERE notification_id IN (?, ?)", (older, newer))


@contextmanager
def editing(operator: Operator) -> Iterator[sqlite3.Connection]:
    """One transaction by hand on the store of the live server."""
    path = operator.folder / Path(STORE_FILE).with_name(DATABASE)
    with closing(sqlite3.connect(path, timeout=30)) as store, store:
        yield store


def every_terminal_job_has_its_notification(operator: Operator) -> None:
    for status, job_id in ended_jobs(operator).items():
        answer = operator.ask(f"/analyze/jobs/{job_id}/notifications?channel=in_app&limit=20")
        assert [each["template_key"] for each in answer.json()["notifications"]] == [f"async.job.{status}"]


def ended_jobs(operator: Operator) -> dict[str, str]:
    """A job of each terminal state."""
    server = operator.server
    failed = server.submit(org=ORG, stages=1, stage_seconds=0, outcome="fail")
    canceled = server.submit(org=ORG, stages=1, stage_seconds=600)
    server.ask("POST", f"/analyze/jobs/{canceled}/cancel", {}, org=ORG)
    jobs = dict(zip(TERMINAL, (operator.job_id, failed, canceled), strict=True))
    assert {status: server.ended(job_id, org=ORG)["status"] for status, job_id in jobs.items()} == {
        status: status for status in TERMINAL
    }
    return jobs


# ---------------------------------------------------------------- 3) and 4) retention


def dry_run_artefact_has_its_counts(operator: Operator) -> None:
    artefact = operator.artefact("retention-dry-run.json")
    assert artefact == json.loads(operator.last.stdout)
    assert artefact["dry_run"] is True
    assert artefact["terminal_job_count"] >= 1
    assert artefact["results"]["delete_count"] == artefact["events"]["delete_count"] == 0
    assert artefact["results"]["kept_count"] == artefact["results"]["total"] >= 1


def dry_run_changes_nothing(operator: Operator) -> None:
    command = operator.last.text
    for ttls in (command, with_ttls_of_zero(command)):
        before = contents(operator)
        assert operator.run(ttls).exit_code == 0
        assert contents(operator) == before
    assert operator.artefact("retention-dry-run.json")["results"]["delete_count"] >= 1


def only_ended_jobs_are_touched(operator: Operator) -> None:
    command = operator.last.text
    with a_running_job(operator) as running:
        counted = json.loads(operator.run(with_ttls_of_zero(command) + " --dry-run").stdout)
        assert operator.run(command).exit_code == 0

        assert counted["active_job_count"] == 1
        assert counted["terminal_job_count"] >= len(TERMINAL)
        for section in (counted["results"], counted["events"]):
            assert 0 < section["delete_count"] == section["eligible_terminal"] < section["total"]
        assert is_whole(operator, running)


def second_run_deletes_nothing(operator: Operator) -> None:
    again = operator.run(operator.last.text)
    assert again.exit_code == 0
    artefact = operator.artefact("retention-live.json")
    assert artefact["dry_run"] is False
    assert (artefact["results"]["delete_count"], artefact["events"]["delete_count"]) == (0, 0)


def with_ttls_of_zero(command: str) -> str:
    """The same command, for everything that has ended."""
    changed = command.replace("604800", "0").replace("259200", "0")
    assert changed != command
    return changed.rstrip()


@contextmanager
def a_running_job(operator: Operator) -> Iterator[str]:
    """A job that has published a partial result and goes on."""
    server = operator.server
    job_id = server.submit(org=ORG, stages=500, stage_seconds=0.5)
    eventually(lambda: server.job(job_id, org=ORG)["partial_count"], "no partial result")
    try:
        yield job_id
    finally:
        server.ask("POST", f"/analyze/jobs/{job_id}/cancel", {}, org=ORG)
        server.ended(job_id, org=ORG)


def is_whole(operator: Operator, job_id: str) -> bool:
    """Whether a job has every result and every event it ever had."""
    results = operator.ask(f"/analyze/jobs/{job_id}/results").json()["results"]
    events = operator.server.job(job_id, org=ORG)["events"]
    numbers = sorted(each["result_seq"] for each in results), sorted(each["event_seq"] for each in events)
    return all(found == list(range(1, len(found) + 1)) and found for found in numbers)


# ---------------------------------------------------------------- the store


def store_is_sound(operator: Operator) -> None:
    assert operator.last.stdout.endswith("every invariant holds\n")


def contents(operator: Operator) -> dict[str, str]:
    """A digest of every table of the store."""
    path = operator.folder / Path(STORE_FILE).with_name(DATABASE)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as store:
        return dict(_digests(store))


def _digests(store: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    tables = [name for (name,) in store.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        rows = sorted(map(repr, store.execute(f"SELECT * FROM {table}")))
        yield table, hashlib.sha256("\n".join(rows).encode()).hexdigest()


PARTS: tuple[tuple[Expectation, ...], ...] = (
    (
        Expectation("HTTP `200`", "HTTP `200`", permalink_is_200),
        Expectation(
            "Response enthält `result_id`, `requested_result_id`, `projection_mode`",
            "the response contains `result_id`, `requested_result_id`, `projection_mode`",
            permalink_has_its_fields,
        ),
        Expectation(
            "bei Tenant-Mismatch bewusst `404` (kein Daten-Leak)",
            "for another tenant deliberately `404` (no data leak)",
            another_tenant_gets_404_and_learns_nothing,
        ),
    ),
    (
        Expectation(
            "Status-Endpunkt liefert konsistente `status`-/`result_id`-Information",
            "the status endpoint gives consistent `status`/`result_id` information",
            status_agrees_with_its_result,
        ),
        Expectation(
            "Notification-Endpunkt liefert `notifications` latest-first",
            "the notification endpoint gives `notifications`, latest first",
            notifications_come_latest_first,
        ),
        Expectation(
            "für terminale Jobs (`completed|failed|canceled`) mindestens ein Notification-Event vorhanden",
            "for terminal jobs (`completed|failed|canceled`) there is at least one notification event",
            every_terminal_job_has_its_notification,
        ),
    ),
    (
        Expectation("Script-Exit `0`", "script exit `0`", exits_as_said),
        Expectation(
            "JSON-Artefakt enthält `terminal_job_count`, `results.delete_count`, `events.delete_count`",
            "the JSON artefact contains `terminal_job_count`, `results.delete_count`, `events.delete_count`",
            dry_run_artefact_has_its_counts,
        ),
        Expectation(
            "keine Store-Mutation im Dry-Run",
            "the dry run does not change the store",
            dry_run_changes_nothing,
        ),
    ),
    (
        Expectation("Script-Exit `0`", "script exit `0`", exits_as_said),
        Expectation(
            "Retention greift ausschließlich für terminale Jobs (`completed|failed|canceled`)",
            "retention touches terminal jobs only (`completed|failed|canceled`)",
            only_ended_jobs_are_touched,
        ),
        Expectation(
            "wiederholte Ausführung ist idempotent"
            " (zweiter Lauf: `delete_count` typischerweise `0` ohne neue Altdaten)",
            "running it again is idempotent"
            " (second run: `delete_count` typically `0` unless data have become old meanwhile)",
            second_run_deletes_nothing,
        ),
    ),
    (
        Expectation("Exit `0`", "exit `0`", exits_as_said),
        Expectation(
            "Ausgabe endet mit `every invariant holds`",
            "the output ends with `every invariant holds`",
            store_is_sound,
        ),
    ),
)
