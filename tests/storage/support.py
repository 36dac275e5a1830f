"""Stores on SQLite for tests, and a plain look at their file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from async_delivery.storage.contract import Store
from async_delivery.storage.locks import LockFile
from async_delivery.storage.opening import Mode, StoreFile, create_store, open_store
from async_delivery.storage.sqlite_files import connect, lock_path
from tests.domain.support import NOON


def new_store_file(folder: Path) -> StoreFile:
    return create_store(folder / "store.v1.json", store_id="store-1", now=NOON)


def sqlite_store(folder: Path) -> Store:
    return open_store(new_store_file(folder).path, Mode.SERVE)


def database_of(folder: Path) -> Path:
    return folder / "store.v1.sqlite3"


@contextmanager
def by_hand(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection that may write, with the right to: what a person with a shell would do to the file."""
    lock = LockFile(lock_path(database_of(folder)))
    lock.take_writer(30)
    try:
        with closing(connect(database_of(folder), "rw")) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            yield connection
    finally:
        lock.close()


def break_by_hand(folder: Path, statement: str, *values: Any) -> None:
    """Change the file against the rules of its schema."""
    with by_hand(folder) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)


def rows_by_hand(folder: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(connect(database_of(folder), "ro")) as connection:
        return connection.execute(statement, values).fetchall()
