"""What the service writes for a job, taken from its own database, so that the floors write the same rows.

The tables are found by looking which of them grew, so no name of the schema is known here. Ids are made anew for every
write and stay sorted by time, as the service's are. Standard library only; reads a database that nobody is using.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Any

from bench.rawsqlite import Write

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Template:
    """The rows of one job.

    schema    their tables, without secondary indexes and triggers
    indexes   the secondary indexes of these tables
    """

    schema: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Any, ...]], ...]
    indexes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Keep it for another process of the same benchmark."""
        path.write_bytes(pickle.dumps((self.schema, self.rows, self.indexes)))

    @classmethod
    def load(cls, path: Path) -> Template:
        """What ``save`` kept; a file of our own making only."""
        return cls(*pickle.loads(path.read_bytes()))  # noqa: S301 - written by the process that starts this one

    @property
    def size_bytes(self) -> int:
        """Text and blobs in one write, roughly."""
        return sum(len(value) for _, row in self.rows for value in row if isinstance(value, str | bytes))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables, one per row of a write."""
        return tuple(statement.split('"')[1] for statement, _ in self.rows)


def database_of(store_file: Path) -> Path:
    """The SQLite file that a store file names."""
    named = json.loads(store_file.read_text(encoding="utf-8"))["database"]
    scheme, _, path = named.partition(":")
    if scheme != "sqlite":
        raise ValueError(f"{store_file} names {named}; the SQLite floors need a SQLite store")
    return store_file.parent / str(path)


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    found = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rootpage"
    )
    return dict(found.fetchall())


def _contents(connection: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return connection.execute(f'SELECT * FROM "{table}"').fetchall()


def snapshot(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables. For small databases."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return {table: _contents(connection, table) for table in _tables(connection)}
    finally:
        connection.close()


def template(database: Path, before: dict[str, list[tuple[Any, ...]]]) -> Template:
    """What one job added to a database since ``before``. Raises ValueError if nothing was added."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        schema: list[str] = []
        indexes: list[str] = []
        rows: list[tuple[str, tuple[Any, ...]]] = []
        for table, statement in _tables(connection).items():
            known = set(before.get(table, ()))
            added = [row for row in _contents(connection, table) if row not in known]
            if not added:
                continue
            schema.append(statement)
            indexes += _indexes(connection, table)
            columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
            insert = _insert(table, columns)
            rows += [(insert, _without_rowid(columns, row)) for row in added]
    finally:
        connection.close()
    if not rows:
        raise ValueError(f"no row was added to {database}")
    return Template(tuple(schema), tuple(rows), tuple(indexes))


def _indexes(connection: sqlite3.Connection, table: str) -> list[str]:
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (table,)
    )
    return [statement for (statement,) in found.fetchall()]


def _insert(table: str, columns: Sequence[tuple[Any, ...]]) -> str:
    names = ", ".join(f'"{column[1]}"' for column in columns)
    return f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" for _ in columns)})'


def _without_rowid(columns: Sequence[tuple[Any, ...]], row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row with its integer primary key, if it has one alone, left to SQLite: it has to be new in each write."""
    keys = [place for place, column in enumerate(columns) if column[5]]
    if len(keys) != 1 or str(columns[keys[0]][2]).upper() != "INTEGER":
        return row
    return tuple(None if place == keys[0] else value for place, value in enumerate(row))


def writes(made_from: Template, count: int) -> list[Write]:
    """``count`` writes of the same rows, each with ids of its own."""
    return [fresh(made_from) for _ in range(count)]


def fresh(made_from: Template) -> Write:
    """One write of the rows, with new ids wherever there are ids."""
    ids: dict[str, str] = {}
    blobs: dict[bytes, bytes] = {}

    def renew(found: re.Match[str]) -> str:
        return ids.setdefault(found[0], _new_id())

    def value(old: Any) -> Any:
        if isinstance(old, str):
            return _UUID.sub(renew, old)
        if isinstance(old, bytes) and len(old) == 16:
            return blobs.setdefault(old, bytes.fromhex(_new_id().replace("-", "")))
        if isinstance(old, bytes) and len(old) < 1024:
            return _UUID.sub(renew, old.decode("latin-1")).encode("latin-1")
        return old

    return [(statement, tuple(value(old) for old in row)) for statement, row in made_from.rows]


def _new_id() -> str:
    noise = os.urandom(10).hex()
    text = f"{time_ns() // 1_000_000:012x}"
    return f"{text[:8]}-{text[8:]}-7{noise[:3]}-8{noise[4:7]}-{noise[7:19]}"
