"""Triage against a live server: each error class by a real cause, and incidents that are whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.system.desk import STORE_FILE, Desk, by_hand, free_port
from tests.system.live import COMMAND, LiveServer, eventually, run_command

# ---------------------------------------------------------------- the classes


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
    assert found["next_step"]["command"] == f"async-delivery serve --port {own.server.port}"


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
    ("content", "said"), [(b"", "the store file is empty"), (b"[1]", "not a store file")]
)
def test_a_store_file_that_cannot_be_read_is_retention_while_the_server_still_reads(
    own: Desk, content: bytes, said: str
) -> None:
    own.ended()
    own.server.store_file.write_bytes(content)

    code, found = own.triage("--store-file", STORE_FILE)

    assert (code, found["error_class"]) == (1, "retention")
    first = found["findings"][0]
    assert first["fault"] == "store_unusable"
    assert said in first["text"]
    assert found["next_step"]["command"].startswith("async-delivery store info --store-file")


def test_a_database_that_was_taken_away_is_result_read_with_the_store_as_its_cause(own: Desk) -> None:
    job = own.ended()
    database = own.server.store_file.with_name("store.v1.sqlite3")
    database.rename(database.with_suffix(".moved"))

    def reads_fail() -> bool:
        return own.server.ask("GET", f"/analyze/results/{job['result_id']}").status >= 500

    eventually(reads_fail, "the server reads from a database that is gone")
    code, found = own.triage()

    assert (code, found["error_class"]) == (1, "result_read")
    first = found["findings"][0]
    assert first["fault"] == "store_unusable"
    assert "its database" in first["text"]
    assert "is missing" in first["text"]
    assert "result_read_fails" in [each["fault"] for each in found["findings"]]


def test_jobs_that_nobody_takes_are_found_and_are_none_of_the_three_classes(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--no-workers").start()
    desk = Desk(server, tmp_path, "default-org")
    try:
        server.submit(stages=1, stage_seconds=0)
        with by_hand(desk) as store:
            store.execute("UPDATE jobs SET queued_at = queued_at - 3600 * 1000000")
        code, found = desk.triage()
    finally:
        server.stop()

    assert (code, found["error_class"]) == (1, "none")
    faults = {each["fault"]: each["text"] for each in found["findings"]}
    assert "the oldest queued job has waited for 60 minutes" in faults["queue_stuck"]
    assert "workers" in found["next_step"]["text"]


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
    # The server looks at its store every few seconds, so its signals follow.
    eventually(lambda: own.triage()[0] == 0, "something is found still")

    assert paused["findings"][0]["fault"] == "cleanup_paused"
    assert {each["error_class"] for each in paused["findings"]} == {"retention"}
    assert why in paused["findings"][0]["text"]
    assert paused["next_step"]["command"] == "async-delivery cleanup resume"
    assert "paused" in live.failed["retention_live"]
    assert resumed["error_class"] == "retention"
    assert [each["fault"] for each in resumed["findings"]][:2] == ["cleanup_refused", "artefact_bad"]
    assert f"({why}) and that is lifted" in resumed["findings"][0]["text"]
    assert resumed["next_step"]["command"] == "async-delivery cleanup"


def test_a_result_that_expired_is_told_from_one_that_never_was(own: Desk) -> None:
    job = own.ended()
    ttls = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")
    assert run_command("cleanup", *ttls, cwd=own.folder).returncode == 0

    expired = own.triage("--result", job["result_id"])[1]
    unknown = own.triage("--result", job["job_id"])[1]
    nobodys = own.triage()[1]

    assert [each["fault"] for each in expired["findings"]] == ["result_expired"]
    assert [each["fault"] for each in unknown["findings"]] == ["result_not_found"]
    assert expired["error_class"] == unknown["error_class"] == "result_read"
    # The newest job of a tenant that has been quiet for long.
    assert nobodys["findings"] == []
    assert nobodys["facts"]["reads"][f"result {job['result_id']}"].startswith("410 ")


# ---------------------------------------------------------------- tenants


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


# ---------------------------------------------------------------- it only looks


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


# ---------------------------------------------------------------- incidents


def test_an_incident_has_a_report_with_evidence_and_one_next_step(desk: Desk) -> None:
    assert desk.smoke("staging").code == 0
    desk.smoke("staging", url=f"http://127.0.0.1:{free_port()}")

    port = free_port()
    code, found = desk.triage("--incident", "2026-03-01_permalink", url=f"http://127.0.0.1:{port}")

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
    assert f"async-delivery serve --port {port} --store-file {desk.store}" in report
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
