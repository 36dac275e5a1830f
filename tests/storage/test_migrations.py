from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from async_delivery.domain.errors import StoreFileError
from async_delivery.storage import migrate, opening, schema
from async_delivery.storage.opening import Mode, open_store
from async_delivery.storage.sqlite_files import connect
from async_delivery.storage.tables import metadata
from tests.contract.support import House
from tests.domain.support import NOON
from tests.storage.processes import ended, started, until
from tests.storage.support import database_of, new_store_file, rows_by_hand, sqlite_store

# At the ends of lines, and at the commas between columns: one that was added stands in the line of the last.
_PARTS = re.compile(r"\n|,\s+(?![^(]*\))")


def shape(rows: list[tuple[str, str, str]]) -> dict[tuple[str, str], list[str]]:
    """(type, name) -> the parts of its SQL in a fixed order."""
    return {
        (kind, name): sorted(
            part.strip(" ,\t)").replace('"', "") for part in _PARTS.split(sql.strip()) if part.strip(" )")
        )
        for kind, name, sql in rows
        if sql and name != "alembic_version"
    }


QUERY = "SELECT type, name, sql FROM sqlite_master"


def test_the_migrations_make_the_tables_that_the_statements_speak_of(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    engine = create_engine(f"sqlite:///{tmp_path}/made.sqlite3")
    metadata.create_all(engine)
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "made.sqlite3")) as connection:
        wanted = shape(connection.execute(QUERY).fetchall())

    made = shape(rows_by_hand(tmp_path, QUERY))

    assert made == wanted


def test_the_program_knows_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", schema.SCRIPT_LOCATION)
    scripts = ScriptDirectory.from_config(config)

    assert scripts.get_heads() == [schema.HEAD]
    assert [script.revision for script in scripts.walk_revisions()] == list(reversed(schema.REVISIONS))


def test_the_file_says_whose_it_is(tmp_path: Path) -> None:
    new_store_file(tmp_path)

    assert rows_by_hand(tmp_path, "PRAGMA application_id") == [(schema.APPLICATION_ID,)]
    assert rows_by_hand(tmp_path, "PRAGMA user_version") == [(schema.USER_VERSION,)]
    assert dict(rows_by_hand(tmp_path, "SELECT name, value FROM meta")) == {
        "store_id": "store-1",
        "created_at": "2026-03-01T12:00:00.000Z",
    }


def test_opening_a_current_store_needs_no_alembic(tmp_path: Path) -> None:
    new_store_file(tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from async_delivery.storage.opening import Mode, open_store\n"
        "open_store(Path(sys.argv[1]), Mode.SERVE).close()\n"
        "print('alembic' in sys.modules)"
    )

    assert ended(started(program, tmp_path / "store.v1.json")).strip() == "False"


NEXT_REVISION = '''
"""A later revision that takes its time."""
import pathlib, time
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "HEAD"


def upgrade() -> None:
    op.create_table("extra", sa.Column("x", sa.Text()))
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("extra", sa.Text()))
    op.execute("UPDATE jobs SET extra = 'filled'")
    marker = pathlib.Path(MARKER)
    if marker.exists():
        marker.with_name("half").touch()
        time.sleep(600)
'''


@pytest.fixture
def later_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program's next version, with one more migration; returns its folder of migrations."""
    folder = tmp_path / "migrations"
    source = Path(schema.__file__).parent / "migrations"
    (folder / "versions").mkdir(parents=True)
    for path in (source / "env.py", source / "script.py.mako", *(source / "versions").glob("*.py")):
        (folder / path.relative_to(source)).write_text(path.read_text())
    later = NEXT_REVISION.replace("MARKER", repr(str(tmp_path / "slow"))).replace("HEAD", schema.HEAD)
    (folder / "versions" / "later.py").write_text(later)
    monkeypatch.setattr(opening, "HEAD", "later")
    monkeypatch.setattr(opening, "REVISIONS", (*schema.REVISIONS, "later"))
    monkeypatch.setattr(migrate.migrate_sqlite, "__kwdefaults__", {"script_location": str(folder)})
    return folder


def test_serving_brings_an_older_schema_up_to_date_with_everything_in_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    house = House(sqlite_store(tmp_path))
    job = house.completed(partials=1)
    house.store.close()
    request.getfixturevalue("later_version")

    with pytest.raises(StoreFileError, match=rf"older schema {schema.HEAD}.*start the server"):
        open_store(tmp_path / "store.v1.json", Mode.TOOL)
    with pytest.raises(StoreFileError, match=rf"older schema {schema.HEAD}.*start the server"):
        open_store(tmp_path / "store.v1.json", Mode.READ_ONLY)
    house = House(open_store(tmp_path / "store.v1.json", Mode.SERVE))

    assert house.stored(job) == job
    assert house.violations() == []
    house.store.close()
    assert rows_by_hand(tmp_path, "SELECT version_num FROM alembic_version") == [("later",)]
    assert rows_by_hand(tmp_path, "SELECT DISTINCT extra FROM jobs") == [("filled",)]
    open_store(tmp_path / "store.v1.json", Mode.TOOL).close()


MIGRATE = """
import sys
from pathlib import Path
from async_delivery.storage.migrate import migrate_sqlite
from async_delivery.storage.sqlite_files import connect

connection = connect(Path(sys.argv[1]), "rw")
connection.execute("PRAGMA foreign_keys = OFF")
migrate_sqlite(connection, {}, script_location=sys.argv[2])
"""


def test_a_migration_that_is_killed_half_way_leaves_the_old_schema_whole(
    tmp_path: Path, later_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    house = House(sqlite_store(tmp_path))
    job = house.completed()
    house.store.close()
    before = rows_by_hand(tmp_path, QUERY)
    (tmp_path / "slow").touch()

    process = started(MIGRATE, database_of(tmp_path), later_version)
    until((tmp_path / "half").exists)
    process.kill()
    process.communicate(timeout=60)

    house = House(open_store(tmp_path / "store.v1.json", Mode.SERVE))
    assert rows_by_hand(tmp_path, QUERY) == before
    assert house.stored(job) == job
    assert house.violations() == []
    house.store.close()


def test_a_migration_that_fails_leaves_the_old_schema_whole(tmp_path: Path, later_version: Path) -> None:
    with closing(connect(tmp_path / "new.sqlite3", "rwc")) as connection:
        broken = later_version / "versions" / "later.py"
        broken.write_text(
            broken.read_text().replace("op.execute(", "raise RuntimeError('broken')\n    op.execute(")
        )

        with pytest.raises(RuntimeError, match="broken"):
            migrate.migrate_sqlite(connection, {})

        assert connection.execute(QUERY).fetchall() == []


BUILD = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from async_delivery.storage.opening import ensure_store

ensure_store(Path(sys.argv[1]), store_id=sys.argv[2], now=datetime(2026, 3, 1, tzinfo=timezone.utc))
"""


def test_two_processes_that_create_the_same_store_end_up_with_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.v1.json"
    both = [started(BUILD, path, f"store-{number}") for number in range(2)]

    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err

    open_store(path, Mode.SERVE).close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "store.v1.json",
        "store.v1.sqlite3",
        "store.v1.sqlite3.lock",
    ]


@pytest.mark.slow
def test_a_creation_killed_at_any_moment_can_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "store.v1.json"
    for number in range(4):
        process = started(BUILD, path, f"store-{number}")
        until(lambda: any(tmp_path.iterdir()) or process.poll() is not None)  # noqa: B023  waited for at once
        process.kill()
        process.communicate(timeout=60)

    opening.ensure_store(path, store_id="last", now=NOON)
    store = open_store(path, Mode.SERVE)
    assert store.read(lambda reader: reader.violations(5)) == []
    store.close()


def test_what_a_killed_creation_left_behind_is_gone_once_the_store_is_served(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    alive = tmp_path / f".store.v1.json.{os.getppid()}.new"
    for suffix in ("", "-journal", "-wal", "-shm"):
        (tmp_path / f".store.v1.sqlite3.{gone.pid}.new{suffix}").touch()
    own = tmp_path / f".store.v1.json.{os.getpid()}.new"
    for path in (alive, own, tmp_path / f".store.v1.json.{gone.pid}.new", tmp_path / ".mine.1.new"):
        path.touch()

    sqlite_store(tmp_path).close()

    left = {entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")}
    assert left == {alive.name, ".mine.1.new"}


def test_each_new_folder_of_a_store_is_synced_into_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(opening, "sync_folder", synced.append)

    opening.create_store(tmp_path / "a" / "b" / "store.v1.json", store_id="s", now=NOON)

    assert {tmp_path, tmp_path / "a"} <= set(synced)
