"""What the expectations of the runbook mean: one check each, and what they need to look at the service.

A check runs right after its part of a page was followed, while nothing else has happened.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from async_delivery.domain.retention import ExitCode
from async_delivery.domain.signal import HTTP_5XX_RATE, P95_MS, SPECS, Level
from async_delivery.domain.smoke import PROD, STAGING
from tests.docs.runbook import ARTEFACTS, ORG, STORE_FILE, Operator, Ran
from tests.system.live import eventually

DATABASE = "store.v1.sqlite3"
TERMINAL = ("completed", "failed", "canceled")


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


# ---------------------------------------------------------------- signals


def every_signal_is_told(operator: Operator) -> None:
    told = operator.last.stdout
    for spec in SPECS:
        (line,) = [line for line in told.split("\n") if spec.name in line]
        assert {level.value for level in Level} & set(line.split()), line


def access_log_gives_its_signals(operator: Operator) -> None:
    values = {
        line.split()[0]: line.split()[1] for line in operator.last.stdout.split("\n") if "async_" in line
    }
    assert list(values) == [HTTP_5XX_RATE.name, P95_MS.name]
    assert float(values[HTTP_5XX_RATE.name]) == 0
    assert 0 < float(values[P95_MS.name]) < 1200


# ---------------------------------------------------------------- smoke


def staging_is_green(operator: Operator) -> None:
    _is_green(operator, "staging", STAGING)


def prod_is_green(operator: Operator) -> None:
    _is_green(operator, "prod", PROD)


def _is_green(operator: Operator, profile: str, wanted: tuple[str, ...]) -> None:
    artefact = operator.artefact(newest(operator, f"smoke-{profile}-*.json"))
    assert outcomes(operator.last) == dict.fromkeys(wanted, "ok")
    assert {each["id"]: each["ok"] for each in artefact["checks"]} == dict.fromkeys(wanted, True)
    assert artefact["ok"] is True


def outcomes(ran: Ran) -> dict[str, str]:
    """Check -> outcome, as a smoke command prints them."""
    lines = [line.split() for line in ran.stdout.strip().split("\n")]
    assert lines[0][:2] == ["CHECK", "OUTCOME"]
    return {line[0]: line[1] for line in lines[1:]}


def newest(operator: Operator, pattern: str) -> str:
    """The name of the artefact that was written last."""
    found = sorted(
        (operator.folder / ARTEFACTS).glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name)
    )
    return found[-1].name


def nothing_after_the_dry_run_is_carried_out(operator: Operator) -> None:
    window = PROD.index("maintenance_window")
    assert outcomes(operator.last) == {
        check: "ok" if number < window else "skipped" for number, check in enumerate(PROD)
    }


def prod_smoke_reads_only(operator: Operator) -> None:
    tables = ("jobs", "results", "result_bodies", "events", "notifications")
    before = contents(operator)
    assert operator.run(operator.last.text).exit_code == 0
    after = contents(operator)
    assert {table: before[table] for table in tables} == {table: after[table] for table in tables}


# ---------------------------------------------------------------- pause and incident


def incident_is_reported(operator: Operator) -> None:
    report = (operator.folder / ARTEFACTS / "incident-INC-1/report.md").read_text()
    said = operator.last.stdout
    (step,) = re.findall(r"^next step: (.+)$", said, flags=re.MULTILINE)
    (error_class,) = re.findall(r"^error class +(\w+)$", said, flags=re.MULTILINE)
    assert error_class == "retention"
    assert error_class in report
    assert step in report.replace("\n", " ")
    assert "INC-1: permalink_5xx_after" in report


def good_artefacts_are_attached(operator: Operator) -> None:
    folder = operator.folder / ARTEFACTS
    attached = {
        path.name.removeprefix("last-good-"): path for path in (folder / "incident-INC-1").glob("last-good-*")
    }
    assert {newest(operator, "smoke-staging-*.json"), newest(operator, "smoke-prod-*.json")} <= set(attached)
    for name, path in attached.items():
        assert path.read_bytes() == (folder / name).read_bytes()


def script_is_refused_over_restarts(operator: Operator) -> None:
    command = with_ttls_of_zero(script(operator))
    for _ in range(2):
        assert operator.run(command).exit_code == ExitCode.BUSY
        assert operator.ask(f"/analyze/results/{operator.result_id}").status == 200
        assert operator.server.stop() == 0
        operator.server.start()
    assert operator.run(command).exit_code == ExitCode.BUSY


def script_runs_again(operator: Operator) -> None:
    assert operator.run(script(operator)).exit_code == ExitCode.DONE


def script(operator: Operator) -> str:
    """The cleanup as step 4 runs it."""
    return next(ran.text for ran in operator.ran if "retention-live.json" in ran.text)


# ---------------------------------------------------------------- triage, store, doctor


def triage_finds_nothing(operator: Operator) -> None:
    lines = operator.last.stdout.rstrip().split("\n")
    assert lines[0].split() == ["error", "class", "none"]
    assert lines[-1].startswith("next step: ")


def bundle_keeps_secrets(operator: Operator) -> None:
    server = operator.server
    body = {"analysis": "selftest", "query": "query-of-a-tenant", "params": {"stages": 0}}
    assert server.ask("POST", "/analyze", body, org="tenant-of-the-test").status == 200
    assert operator.run(operator.last.text).exit_code == 0
    with tarfile.open(operator.folder / ARTEFACTS / newest(operator, "doctor-*.tar.gz")) as bundle:
        files = [bundle.extractfile(member) for member in bundle.getmembers() if member.isfile()]
        text = b"".join(file.read() for file in files if file)
    assert len(text) > 1_000
    assert b"tenant-of-the-test" not in text
    assert b"query-of-a-tenant" not in text


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
