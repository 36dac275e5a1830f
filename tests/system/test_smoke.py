"""Both smoke commands against a live server: green, and red with a clear line for each thing that is broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from async_delivery.domain.smoke import PROD, STAGING, STAGING_REQUIRED
from tests.ops.proxy import proxy_to
from tests.system.desk import Desk, by_hand, free_port
from tests.system.live import LiveServer, run_command

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
