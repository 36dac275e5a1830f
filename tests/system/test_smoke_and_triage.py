"""Both smoke commands and triage against a live server: green, and red with a clear line for what was broken."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from async_delivery.domain.smoke import PROD, STAGING, STAGING_REQUIRED
from tests.ops.proxy import proxy_to
from tests.system.live import COMMAND, LiveServer, run_command

STORE_FILE = "runtime/async_jobs/store.v1.json"
ARTEFACTS = "artifacts/async"


@dataclass(frozen=True, slots=True)
class Smoke:
    """How a smoke command ended."""

    code: int
    document: dict[str, Any]
    err: str

    @property
    def outcomes(self) -> dict[str, str]:
        return {check["id"]: check["outcome"] for check in self.document["checks"]}

    @property
    def failed(self) -> dict[str, str]:
        return {check["id"]: check["detail"] for check in self.document["checks"] if check["ok"] is False}


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an operator works: a server, a folder for the artefacts, a tenant."""

    server: LiveServer
    folder: Path
    org: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def artefacts(self) -> Path:
        return self.folder / "artifacts/async"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, "--base-url", self.url, "--store-file", self.store, cwd=self.folder)

    @property
    def store(self) -> str:
        path = self.server.store_file
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def smoke(self, profile: str, *options: str, url: str | None = None, cwd: Path | None = None) -> Smoke:
        done = run_command(
            *("smoke", profile, "--json", "--base-url", url or self.url),
            *(() if "--org" in options else ("--org", self.org)),
            *(() if cwd else ("--store-file", self.store)),
            *options,
            cwd=cwd or self.folder,
        )
        assert done.stdout, done.stderr
        return Smoke(done.returncode, json.loads(done.stdout), done.stderr)

    def triage(self, *options: str, url: str | None = None) -> tuple[int, dict[str, Any]]:
        done = run_command(
            *("triage", "--json", "--base-url", url or self.url, "--store-file", self.store),
            *(() if {"--org", "--tenant-id"} & set(options) else ("--org", self.org)),
            *options,
            cwd=self.folder,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of the tenant."""
        found: list[dict[str, Any]] = self.server.ask("GET", "/analyze/jobs", org=self.org).json()["jobs"]
        return found

    def ended(self, org: str | None = None) -> dict[str, Any]:
        """A job of this desk's tenant, or of another, that has completed."""
        org = org or self.org
        return self.server.ended(self.server.submit(org=org, stages=1, stage_seconds=0), org=org)


_numbers = itertools.count(1)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    """A server that a test may harm; its folder is the working directory, as the runbook has it."""
    live = LiveServer(tmp_path, "--slots", "2").start()
    yield Desk(live, tmp_path, "default-org")
    live.stop()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("server"), "--slots", "2").start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def desk(live: LiveServer, tmp_path: Path) -> Desk:
    """A desk at a server that others use as well: a tenant and artefacts of its own."""
    return Desk(live, tmp_path, f"tenant-{next(_numbers)}")


@contextmanager
def by_hand(desk: Desk) -> Iterator[sqlite3.Connection]:
    """One transaction of an operator with an SQLite shell."""
    database = desk.server.store_file.with_name("store.v1.sqlite3")
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        yield connection


def free_port() -> int:
    return LiveServer(Path()).port


# ---------------------------------------------------------------- smoke staging


def test_smoke_staging_is_green_on_a_server_that_works(desk: Desk) -> None:
    done = desk.smoke("staging", "--junit", "reports/smoke.xml")

    assert done.code == 0, done.err
    assert tuple(done.outcomes) == STAGING
    assert done.failed == {}
    assert [check_id for check_id, how in done.outcomes.items() if how == "ok"] == list(STAGING_REQUIRED)
    (artefact,) = desk.artefacts.glob("smoke-staging-*.json")
    assert json.loads(artefact.read_text()) == {
        name: value for name, value in done.document.items() if name != "artefact"
    }
    assert desk.server.job(done.document["job_id"], org=desk.org)["result_id"] == done.document["result_id"]
    (dry_run,) = desk.artefacts.glob("retention-smoke-staging-dry-run-*.json")
    counted = json.loads(dry_run.read_text())
    assert counted["dry_run"] is True
    assert (counted["results"]["delete_count"], counted["results"]["kept_count"]) == (0, 3)
    cases = ET.parse(desk.folder / "reports/smoke.xml").iter("testcase")  # noqa: S314  our own file
    assert [case.get("name") for case in cases] == list(STAGING)


def test_smoke_staging_cleans_up_for_real_only_when_asked_and_the_second_run_deletes_nothing(
    own: Desk,
) -> None:
    ttls = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")

    first = own.smoke("staging", *ttls)
    kept = own.server.ask("GET", f"/analyze/results/{first.document['result_id']}").status
    second = own.smoke("staging", *ttls, "--live-cleanup")

    assert (first.code, first.outcomes["retention_live"], kept) == (0, "skipped", 200)
    assert (second.code, second.failed) == (0, {})
    assert set(second.outcomes.values()) == {"ok"}
    paths = second.document["retention_artefacts"]
    live, again = (
        json.loads((own.folder / paths[name]).read_text())
        for name in ("retention_live", "retention_idempotent")
    )
    assert live["results"]["delete_count"] == 6
    assert (again["results"]["delete_count"], again["events"]["delete_count"]) == (0, 0)
    assert own.server.ask("GET", f"/analyze/results/{second.document['result_id']}").status == 410


def test_the_table_for_people_has_a_line_for_each_check(desk: Desk) -> None:
    done = desk.run("smoke", "staging")

    assert done.returncode == 0
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["CHECK", "OUTCOME", "SECONDS", "DETAIL"]
    assert [line.split()[0] for line in lines] == list(STAGING)
    assert "smoke staging: green, 6 ok, 2 skipped" in done.stderr


def test_dead_workers_turn_smoke_staging_red(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--no-workers").start()
    try:
        done = Desk(server, tmp_path, "default-org").smoke("staging", "--timeout", "0.5")
    finally:
        server.stop()

    assert done.code == 1
    assert list(done.failed) == ["job_terminal"]
    assert "is still queued after 0.5 s: no worker has taken it" in done.failed["job_terminal"]
    assert {done.outcomes[each] for each in ("job_result_id", "permalink_latest", "notification_in_app")} == {
        "skipped"
    }
    assert done.outcomes["retention_dry_run"] == "ok"
    assert "job_terminal: job" in done.err


def test_a_notification_that_is_not_written_turns_smoke_staging_red(own: Desk) -> None:
    with by_hand(own) as store:
        store.execute(
            "CREATE TRIGGER lose AFTER INSERT ON notifications"
            " BEGIN DELETE FROM notifications WHERE notification_id = NEW.notification_id; END"
        )

    done = own.smoke("staging")

    assert done.code == 1
    assert list(done.failed) == ["notification_in_app"]
    assert (
        "has no in_app notification async.job.completed (none at all)" in done.failed["notification_in_app"]
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the store file is empty"),
        (b"{ half of", "damaged or truncated"),
        (None, "there is no store file"),
    ],
)
def test_a_store_file_that_cannot_be_read_turns_smoke_staging_red(
    own: Desk, content: bytes | None, said: str
) -> None:
    if content is None:
        own.server.store_file.unlink()
    else:
        own.server.store_file.write_bytes(content)

    done = own.smoke("staging", "--live-cleanup")

    assert done.code == 1
    assert list(done.failed) == ["retention_dry_run"]
    assert said in done.failed["retention_dry_run"]
    assert done.outcomes["retention_live"] == "skipped"


def test_the_store_of_another_server_is_not_cleaned_up(desk: Desk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run_command("store", "init", cwd=elsewhere).returncode == 0

    done = desk.smoke("staging", "--live-cleanup", cwd=elsewhere)

    assert done.code == 1
    assert list(done.failed) == ["retention_dry_run"]
    assert "is not the store of http://127.0.0.1:" in done.failed["retention_dry_run"]
    assert done.outcomes["retention_live"] == "skipped"


def test_without_the_store_at_hand_the_rest_can_be_checked(desk: Desk, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    without = desk.smoke("staging", "--no-retention", cwd=elsewhere)
    prod = desk.smoke("prod", cwd=elsewhere)

    assert (without.code, without.outcomes["retention_dry_run"]) == (0, "skipped")
    # Not entirely green, so it does not open the way to production.
    assert "retention_dry_run was not run" in prod.failed["staging_green"]


def test_a_server_that_is_not_there_turns_smoke_staging_red(tmp_path: Path) -> None:
    server = LiveServer(tmp_path)

    done = Desk(server, tmp_path, "default-org").smoke("staging")

    assert done.code == 1
    assert f"no server answers at http://127.0.0.1:{server.port}" in done.failed["health"]
    assert done.outcomes["job_terminal"] == "skipped"


@pytest.mark.parametrize(
    ("path", "status", "changes", "check_id", "said"),
    [
        ("/health", 200, {"ok": None}, "health", "another program on that port"),
        (
            "/analyze/results",
            500,
            {"code": "internal", "message": "broken"},
            "permalink_latest",
            "answers 500",
        ),
        ("/analyze/results", 200, {"projection_mode": None}, "permalink_latest", "projection_mode None"),
        (
            "/notifications",
            503,
            {"code": "unavailable", "message": "x"},
            "notification_in_app",
            "answers 503",
        ),
    ],
)
def test_a_server_that_answers_wrongly_turns_smoke_staging_red(
    desk: Desk, path: str, status: int, changes: dict[str, Any], check_id: str, said: str
) -> None:
    def change(_: str, asked: str, found: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (status, {**body, **changes}) if path in asked else (found, body)

    with proxy_to(desk.server.port, change) as proxy:
        done = desk.smoke("staging", url=proxy.url)

    assert done.code == 1
    assert list(done.failed) == [check_id]
    assert said in done.failed[check_id]


def test_nothing_is_done_that_no_artefact_could_tell_of(desk: Desk) -> None:
    (desk.folder / "artifacts").write_text("a file where the folder should be")

    done = desk.run("smoke", "staging", "--org", desk.org)

    assert done.returncode == 1
    assert "cannot write an artefact to artifacts/async" in done.stderr
    assert desk.jobs() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("staging", "--live-cleanup", "--no-retention"),
        ("prod", "--maintenance-window", "--no-retention"),
        ("staging", "--org", "not a tenant"),
        ("staging", "--base-url", "nowhere"),
        ("staging", "--results-ttl-seconds", "-1"),
        ("staging", "--timeout", "soon"),
        ("canary",),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_done(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run_command("smoke", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- smoke prod


def test_smoke_prod_only_reads_until_its_dry_run_and_needs_no_window_for_it(desk: Desk) -> None:
    assert desk.smoke("staging").code == 0
    before = desk.jobs()

    with proxy_to(desk.server.port) as proxy:
        done = desk.smoke("prod", url=proxy.url)

    assert (done.code, done.failed) == (0, {})
    assert tuple(done.outcomes) == PROD
    assert [each for each, how in done.outcomes.items() if how == "skipped"] == list(PROD[5:])
    assert {method for method, _ in proxy.seen} == {"GET"}
    assert desk.jobs() == before
    assert len(list(desk.artefacts.glob("smoke-prod-*.json"))) == 1


def test_in_its_window_smoke_prod_cleans_up_and_checks_what_that_left(desk: Desk) -> None:
    assert desk.smoke("staging").code == 0

    done = desk.smoke("prod", "--maintenance-window")

    assert (done.code, done.failed) == (0, {})
    assert set(done.outcomes.values()) == {"ok"}
    assert "retention_live" in done.document["retention_artefacts"]


def test_without_a_green_staging_there_is_no_cleanup_whatever_the_window(desk: Desk) -> None:
    ended = desk.ended()
    ttls = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")

    done = desk.smoke("prod", "--maintenance-window", *ttls)

    assert done.code == 1
    assert list(done.failed) == ["staging_green"]
    assert "run `async-delivery smoke staging` there" in done.failed["staging_green"]
    assert done.outcomes["maintenance_window"] == "ok"
    assert done.outcomes["retention_live"] == "skipped"
    assert desk.server.ask("GET", f"/analyze/results/{ended['result_id']}", org=desk.org).status == 200


def test_the_newest_staging_counts_and_another_machines_can_be_named(desk: Desk) -> None:
    assert desk.smoke("staging").code == 0
    (green,) = desk.artefacts.glob("smoke-staging-*.json")
    copy = shutil.copy(green, desk.folder / "from-staging.json")
    desk.smoke("staging", url=f"http://127.0.0.1:{free_port()}")

    newest = desk.smoke("prod")
    named = desk.smoke("prod", "--staging-artefact", str(copy))
    missing = desk.smoke("prod", "--staging-artefact", "nowhere.json")

    assert "health failed" in newest.failed["staging_green"]
    assert named.code == 0
    assert "nowhere.json: cannot be read" in missing.failed["staging_green"]


def test_the_wrong_tenant_turns_smoke_prod_red(desk: Desk) -> None:
    assert desk.smoke("staging").code == 0
    job_id = desk.ended("acme")["job_id"]

    of_nobody = desk.smoke("prod", "--org", "Acme")
    of_another = desk.smoke("prod", "--org", "globex", "--job", job_id)
    of_its_own = desk.smoke("prod", "--org", "acme", "--job", job_id)

    assert "tenant Acme has no completed job; check --org" in of_nobody.failed["status_read"]
    assert "unknown there, or another tenant's: check --org" in of_another.failed["status_read"]
    assert of_another.outcomes["result_read"] == "skipped"
    assert of_its_own.code == 0
    assert of_its_own.document["job_id"] == job_id


def test_a_notification_row_removed_by_hand_turns_smoke_prod_red(own: Desk) -> None:
    assert own.smoke("staging").code == 0
    with by_hand(own) as store:
        store.execute("DELETE FROM notifications")

    done = own.smoke("prod")

    assert done.code == 1
    assert list(done.failed) == ["notifications_read"]
    assert "has no in_app notification async.job.completed" in done.failed["notifications_read"]


@pytest.mark.parametrize(
    ("level", "said"), [("warning", "is warning at 2.00%"), ("critical", "is critical at 2.00%")]
)
def test_errors_of_the_permalink_after_the_cleanup_turn_smoke_prod_red(
    desk: Desk, level: str, said: str
) -> None:
    def change(_: str, asked: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        for signal in body.get("signals", []) if asked == "/ops/signals" else []:
            if signal["name"] == "async_result_permalink_http_5xx_rate_5m":
                signal |= {"level": level, "value": 0.02}
        return status, body

    assert desk.smoke("staging").code == 0
    with proxy_to(desk.server.port, change) as proxy:
        done = desk.smoke("prod", "--maintenance-window", url=proxy.url)

    assert done.code == 1
    assert list(done.failed) == ["permalink_5xx_after"]
    assert said in done.failed["permalink_5xx_after"]


# ---------------------------------------------------------------- triage: the classes


def test_triage_finds_nothing_where_nothing_is_wrong(own: Desk) -> None:
    assert own.smoke("staging").code == 0
    assert run_command("cleanup", cwd=own.folder).returncode == 0

    code, found = own.triage("--deep")

    assert (code, found["error_class"], found["findings"]) == (0, "none", [])
    assert found["facts"]["store"]["violations"] == 0
    assert found["next_step"]["text"].startswith("nothing was found")


def test_a_server_that_does_not_answer_is_result_read_and_the_step_is_to_start_it(own: Desk) -> None:
    own.server.stop()

    code, found = own.triage()

    assert (code, found["error_class"]) == (1, "result_read")
    assert [each["fault"] for each in found["findings"]] == ["server_unreachable"]
    assert found["next_step"]["command"] == f"async-delivery serve --store-file {STORE_FILE}"


def test_a_notification_row_removed_by_hand_is_notification_read(own: Desk) -> None:
    job_id = own.ended()["job_id"]
    with by_hand(own) as store:
        store.execute("DELETE FROM notifications WHERE job_id = ?", (job_id,))
        # Long enough ago for the store's own count of such jobs.
        store.execute(
            "UPDATE jobs SET finished_at = finished_at - 3600 * 1000000 WHERE job_id = ?", (job_id,)
        )

    code, found = own.triage()

    assert (code, found["error_class"]) == (1, "notification_read")
    texts = " / ".join(each["text"] for each in found["findings"])
    assert f"job {job_id} is completed and has no in_app notification async.job.completed" in texts
    assert "1 ended jobs have no in_app notification" in texts
    assert found["next_step"]["command"] == "async-delivery store check"


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "the store file is empty"), (b"[1]", "not a store file"), (None, "missing")]
)
def test_a_store_that_cannot_be_opened_is_retention_while_the_server_still_reads(
    own: Desk, content: bytes | None, said: str
) -> None:
    own.ended()
    if content is None:
        database = own.server.store_file.with_name("store.v1.sqlite3")
        database.rename(database.with_suffix(".moved"))
    else:
        own.server.store_file.write_bytes(content)

    code, found = own.triage("--store-file", STORE_FILE)

    assert (code, found["error_class"]) == (1, "retention")
    first = found["findings"][0]
    assert first["fault"] == "store_unusable"
    assert said in first["text"]
    assert found["next_step"]["command"].startswith("async-delivery store info --store-file")


def test_a_cleanup_with_errors_is_retention_and_is_compared_with_the_last_good_one(
    own: Desk,
) -> None:
    own.ended()
    folder = own.artefacts
    good, bad = folder / "retention-good.json", folder / "retention-live.json"
    options = ("--output-json", str(good))
    assert run_command("cleanup", *options, cwd=own.folder).returncode == 0
    report = json.loads(good.read_text())
    report["finished_at"] = report["finished_at"].replace("20", "21", 1)
    report["errors"] = ["results: the database refuses: disk I/O error"]
    report["ttl_seconds"]["results"] = 60
    report["results"]["delete_count"] = 7
    bad.write_text(json.dumps(report))

    code, found = own.triage()

    assert (code, found["error_class"]) == (1, "retention")
    assert "disk I/O error" in found["findings"][0]["text"]
    assert "cleanup pause --why" in found["next_step"]["command"]
    (compared,) = [each for each in found["artefacts"] if each["kind"] == "retention_live"]
    assert Path(compared["last_good"]["path"]).name == good.name
    assert Path(compared["last_bad"]["path"]).name == bad.name
    different = {each["field"]: (each["good"], each["bad"]) for each in compared["differences"]}
    assert different == {
        "ttl_seconds.results": (604800, 60),
        "results.delete_count": (0, 7),
        "errors": ([], ["results: the database refuses: disk I/O error"]),
    }


def test_a_pause_is_retention_and_so_is_the_run_it_refused_until_one_succeeds(own: Desk) -> None:
    why = "delete_count out of line"
    assert run_command("cleanup", "pause", "--why", why, cwd=own.folder).returncode == 0
    assert run_command("cleanup", cwd=own.folder).returncode == 3

    _, paused = own.triage()
    live = own.smoke("staging", "--live-cleanup")
    assert run_command("cleanup", "resume", cwd=own.folder).returncode == 0
    _, resumed = own.triage()
    assert own.smoke("staging", "--live-cleanup").code == 0
    code, after = own.triage()

    assert (paused["error_class"], [each["fault"] for each in paused["findings"]]) == (
        "retention",
        ["cleanup_paused"],
    )
    assert why in paused["findings"][0]["text"]
    assert paused["next_step"]["command"] == "async-delivery cleanup resume"
    assert "paused" in live.failed["retention_live"]
    assert resumed["error_class"] == "retention"
    assert [each["fault"] for each in resumed["findings"]] == ["cleanup_failed", "artefact_bad"]
    assert "ended with exit code 3" in resumed["findings"][0]["text"]
    assert (code, after["findings"]) == (0, [])


def test_a_result_that_expired_is_told_from_one_that_never_was(own: Desk) -> None:
    job = own.ended()
    ttls = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")
    assert run_command("cleanup", *ttls, cwd=own.folder).returncode == 0

    expired = own.triage("--result", job["result_id"])[1]
    unknown = own.triage("--result", job["job_id"])[1]

    assert [each["fault"] for each in expired["findings"]] == ["result_expired"]
    assert [each["fault"] for each in unknown["findings"]] == ["result_not_found"]
    assert expired["error_class"] == unknown["error_class"] == "result_read"


# ---------------------------------------------------------------- triage: tenants


def test_another_spelling_of_the_tenant_is_found_and_nothing_of_what_is_there_is_told(
    desk: Desk,
) -> None:
    body = {
        "analysis": "selftest",
        "query": "the-secret-subject",
        "labels": {"team": "the-secret-team"},
        "options": {"async_mode": {"requested": True}},
    }
    job_id = desk.server.ask("POST", "/analyze", body, org="acme-labs").json()["job"]["job_id"]
    job = desk.server.ended(job_id, org="acme-labs")

    for asked in (("--job", job_id), ("--result", job["result_id"])):
        for spelling in ("Acme-Labs", "ACME-LABS", "acme_labs"):
            code, found = desk.triage("--org", spelling, *asked)

            assert (code, found["error_class"]) == (1, "result_read")
            assert [each["fault"] for each in found["findings"]] == ["other_spelling"]
            assert "there for tenant acme-labs" in found["findings"][0]["text"]
            assert "async-delivery triage --org acme-labs" in found["next_step"]["command"]
            told = json.dumps(found)
            assert "secret" not in told
            assert "completed" not in json.dumps(found["facts"]["reads"])


def test_a_tenant_that_only_looks_alike_stays_unknown(desk: Desk) -> None:
    job_id = desk.ended("acme")["job_id"]

    _, found = desk.triage("--org", "acme-2", "--job", job_id)

    assert [each["fault"] for each in found["findings"]] == ["result_not_found"]
    assert "unknown, erased, or another's" in found["findings"][0]["text"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (("--org", "acme "), "blanks around it"),
        (("--org", ""), "is empty"),
        (("--org", "асме"), "beyond ASCII"),
        (("--org", "x" * 129), "129 characters"),
        (("--tenant-id", "a/b"), "X-Tenant-Id 'a/b' has characters"),
        (("--org", "acme", "--tenant-id", "Acme"), "refuses headers that disagree"),
    ],
)
def test_tenant_headers_that_the_server_would_refuse_are_found(
    desk: Desk, headers: tuple[str, ...], said: str
) -> None:
    code, found = desk.triage(*headers)

    assert (code, found["error_class"]) == (1, "result_read")
    assert [each["fault"] for each in found["findings"]] == ["tenant_headers"]
    assert said in found["findings"][0]["text"]


def test_both_headers_may_be_sent_if_they_agree(desk: Desk) -> None:
    job_id = desk.ended("acme")["job_id"]

    code, found = desk.triage("--org", "acme", "--tenant-id", "acme")

    assert (code, found["target"]["job_id"]) == (0, job_id)


# ---------------------------------------------------------------- triage: it only looks


def test_triage_changes_no_byte_of_a_store_at_rest(own: Desk) -> None:
    own.ended()
    own.server.stop()
    folder = own.server.store_file.parent

    def state() -> dict[str, tuple[bytes, int]]:
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.iterdir()
            if path.is_file()
        }

    before = state()
    own.triage("--deep")

    assert state() == before


def test_damage_is_found_by_a_deep_look_only(own: Desk) -> None:
    own.ended()
    with by_hand(own) as store:
        store.execute("UPDATE result_bodies SET data = X'7B7D'")

    _, quick = own.triage()
    code, deep = own.triage("--deep")

    assert "store_damaged" not in [each["fault"] for each in quick["findings"]]
    assert code == 1
    damaged = [each for each in deep["findings"] if each["fault"] == "store_damaged"]
    assert "SHA-256 differs" in damaged[0]["text"]


# ---------------------------------------------------------------- triage: incidents


def test_an_incident_has_a_report_with_evidence_and_one_next_step(desk: Desk) -> None:
    assert desk.smoke("staging").code == 0
    desk.smoke("staging", url=f"http://127.0.0.1:{free_port()}")

    code, found = desk.triage("--incident", "2026-03-01_permalink", url=f"http://127.0.0.1:{free_port()}")

    folder = desk.artefacts / "incident-2026-03-01_permalink"
    assert code == 1
    assert sorted(Path(name).name for name in found["incident"]) == sorted(
        path.name for path in folder.iterdir()
    )
    report = (folder / "report.md").read_text()
    assert report.startswith("# Incident 2026-03-01_permalink\n")
    for heading in ("Next step", "Findings", "Evidence", "Artefacts", "Timeline", "Files"):
        assert report.count(f"\n## {heading}\n") == 1
    assert "server_unreachable" in report
    assert f"async-delivery serve --store-file {desk.store}" in report
    findings = json.loads((folder / "findings.json").read_text())
    assert findings["findings"] == found["findings"]
    assert findings["next_step"] == found["next_step"]
    for name, source in findings["copied"].items():
        assert (folder / name).read_bytes() == (desk.folder / source).read_bytes()
    copied = " ".join(findings["copied"])
    assert "last-good-smoke-staging-" in copied
    assert "last-bad-smoke-staging-" in copied


def test_an_incident_is_never_written_over_but_brought_up_to_date_when_asked(desk: Desk) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    folder = desk.artefacts / "incident-x"
    desk.triage("--incident", "x", url=down)
    (folder / "my-notes.txt").write_text("mine")
    first = (folder / "report.md").read_text()

    refused = run_command("triage", "--incident", "x", "--base-url", down, cwd=desk.folder)
    unchanged = (folder / "report.md").read_text()
    code, _ = desk.triage("--incident", "x", "--update")

    assert refused.returncode == 2
    assert "is there already; bring it up to date with --update" in refused.stderr
    assert unchanged == first
    assert code == 0
    findings = json.loads((folder / "findings.json").read_text())
    assert [each["error_class"] for each in findings["checks"]] == ["result_read", "none"]
    assert (folder / "my-notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "x.", "a b", "x" * 65, "ä", "a\nb"])
def test_an_incident_needs_a_name_that_is_safe_everywhere(tmp_path: Path, name: str) -> None:
    done = run_command("triage", "--incident", name, cwd=tmp_path)

    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("update", [False, True])
def test_an_incident_that_cannot_be_written_leaves_no_half_report(desk: Desk, update: bool) -> None:
    assert desk.smoke("staging").code == 0
    folder = desk.artefacts / "incident-x"
    if update:
        desk.triage("--incident", "x")
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if update else None
    options = ["--incident", "x", *(["--update"] if update else [])]

    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 1; exec "$@"', "sh", COMMAND, "triage", *options],
        cwd=desk.folder,
        env={**os.environ, "ASYNC_DELIVERY_BASE_URL": f"http://127.0.0.1:{desk.server.port}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "cannot write" in done.stderr
    after = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else None
    assert after == before
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_what_others_wrote_cannot_become_markup_in_the_report(desk: Desk) -> None:
    evil = "<img src=x> | `code` [a](b) \u202e\x1b[31m"
    folder = desk.artefacts
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "retention-live.json").write_text(json.dumps({"dry_run": False, "errors": [evil]}))

    desk.triage("--incident", "x")

    report = (folder / "incident-x/report.md").read_text()
    assert "&lt;img src=x&gt; \\| \\`code\\` \\[a\\](b)" in report
    assert not {"\u202e", "\x1b"} & set(report)
