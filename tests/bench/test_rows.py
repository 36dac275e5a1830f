"""The rows that the SQLite floors write are those of the service, with ids that are new each time."""

import sqlite3
from pathlib import Path

import pytest

from bench import rawsqlite, rows

SCHEMA = """
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, org_id TEXT NOT NULL, note TEXT);
CREATE TABLE bodies (body_key INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE events (
    job_id TEXT REFERENCES jobs(job_id), event_seq INTEGER, payload TEXT, PRIMARY KEY (job_id, event_seq)
);
CREATE TABLE untouched (name TEXT PRIMARY KEY, value TEXT);
CREATE INDEX jobs_by_note ON jobs (note);
INSERT INTO untouched VALUES ('store_id', 'x');
"""
JOB = "0192f0c1-5b3a-7abc-8def-0123456789ab"
RESULT = "0192f0c1-5b3b-7abc-8def-0123456789ab"


def sampled(path: Path) -> rows.Template:
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    before = rows.snapshot(path)
    with connection:
        connection.execute("INSERT INTO jobs VALUES (?, 'org', NULL)", (JOB,))
        connection.execute("INSERT INTO bodies VALUES (7, ?)", (b"x" * 100,))
        connection.execute("INSERT INTO events VALUES (?, 1, '{}')", (JOB,))
        connection.execute("INSERT INTO events VALUES (?, 2, ?)", (JOB, f'{{"result_id":"{RESULT}"}}'))
    connection.close()
    return rows.template(path, before)


def test_a_template_has_the_rows_that_were_added_and_their_indexes_apart(tmp_path: Path) -> None:
    found = sampled(tmp_path / "store.sqlite3")

    assert found.tables == ("jobs", "bodies", "events", "events")
    assert not any("INDEX" in statement for statement in found.schema)
    assert not any("untouched" in statement for statement in found.schema)
    assert [statement.split()[2] for statement in found.indexes] == ["jobs_by_note"]


def test_every_write_has_its_own_ids_and_keeps_what_belongs_together(tmp_path: Path) -> None:
    found = sampled(tmp_path / "store.sqlite3")

    first, second = rows.writes(found, 2)

    (_, job), (_, body), (_, queued), (_, completed) = first
    assert job[0] == queued[0] == completed[0]
    assert job[0] not in {JOB, second[0][1][0]}
    assert job[1:] == ("org", None)
    assert body == (None, b"x" * 100)
    assert RESULT not in completed[2]
    assert len(completed[2]) == len(f'{{"result_id":"{RESULT}"}}')


def test_the_raw_floor_keeps_every_write_and_commits_in_groups(tmp_path: Path) -> None:
    writes = rows.writes(sampled(tmp_path / "store.sqlite3"), 400)

    done = rawsqlite.group_commit(tmp_path / "raw.sqlite3", sampled(tmp_path / "s2.sqlite3").schema, writes)

    connection = sqlite3.connect(tmp_path / "raw.sqlite3")
    stored = connection.execute(
        "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM events)"
    ).fetchone()
    mode = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert stored == (400, 800)
    assert mode == ("wal",)
    assert done.writes == 400
    assert 400 / 16 <= done.commits <= 400
    assert done.per_second > 0


def test_a_write_that_fails_fails_the_measurement(tmp_path: Path) -> None:
    found = sampled(tmp_path / "store.sqlite3")
    same = rows.writes(found, 1) * 2

    with pytest.raises(sqlite3.IntegrityError):
        rawsqlite.group_commit(tmp_path / "raw.sqlite3", found.schema, same, writers=1)


def test_one_by_one_times_each_durable_write(tmp_path: Path) -> None:
    found = sampled(tmp_path / "store.sqlite3")

    took = rawsqlite.one_by_one(tmp_path / "raw.sqlite3", found.schema, rows.writes(found, 5))

    assert len(took) == 5
    assert all(seconds > 0 for seconds in took)
