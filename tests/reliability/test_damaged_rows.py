"""A job's row that holds what no service of ours has written: that job cannot be served, and all others are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.live import LiveServer, run_command


@pytest.mark.slow
def test_a_job_with_an_unknown_status_is_told_of_and_hides_no_other(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, "--slots", "1")
    try:
        server.start()
        damaged, whole = [server.submit(stages=1, stage_seconds=0) for _ in range(2)]
        for job_id in (damaged, whole):
            server.ended(job_id)
        server.stop()
        with closing(sqlite3.connect(server.store_file.with_name("store.v1.sqlite3"))) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("UPDATE jobs SET status = 'paused' WHERE job_id = ?", (damaged,))
            connection.commit()

        server.start()
        answer = server.ask("GET", f"/analyze/jobs/{damaged}")
        listed = server.ask("GET", "/analyze/jobs").json()["jobs"]
        later = server.submit(stages=1, stage_seconds=0)

        assert (answer.status, answer.json()["error"]) == (500, "internal")
        assert "paused" not in answer.body.decode()
        assert [job["job_id"] for job in listed] == [whole]
        assert server.ended(later)["status"] == "completed"
        assert server.job(whole)["status"] == "completed"
    finally:
        server.stop()
    assert f"job {damaged} is damaged in the store: there is no status 'paused'" in server.log()
    assert "KeyError" not in server.log()
    checked = run_command("store", "check", "--store-file", str(server.store_file), cwd=tmp_path)
    assert checked.returncode == 1
    assert f"job {damaged}: its status 'paused'" in checked.stdout + checked.stderr
