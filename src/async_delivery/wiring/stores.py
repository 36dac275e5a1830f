"""Stores by their files: made, served, cleaned up, looked at. The only place where commands get a store from.

Imports ``storage`` and the engine's ids and clock; nothing of HTTP or workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from async_delivery.domain.reserve import Reserve
from async_delivery.engine.runtime import SystemClock, new_id
from async_delivery.storage.contract import Store
from async_delivery.storage.opening import (
    Mode,
    StoreFile,
    create_store,
    ensure_store,
    open_store,
    read_store_file,
)
from async_delivery.storage.sqlite import SqliteStore
from async_delivery.storage.storefile import DEFAULT_URL, check_url

T = TypeVar("T")


def is_embedded(store_file: Path, store_url: str | None) -> bool:
    """True if the store is one that a single process serves, or would be if it were made now. Makes nothing.

    Raises StoreFileError.
    """
    if os.path.lexists(store_file):
        return read_store_file(store_file).is_sqlite
    return check_url(store_url or DEFAULT_URL).startswith("sqlite:")


def open_for_serving(
    store_file: Path, store_url: str | None, connections: int | None = None, ballast_bytes: int = 0
) -> Store:
    """The store, made where there is no store file, with its schema up to date.

    connections     the most to have to PostgreSQL; None for the usual number
    ballast_bytes   room that an SQLite store keeps for when its disk is full
    Raises StoreFileError, StoreBusyError while another process serves it.
    """
    ensure_store(store_file, store_url, store_id=new_id(), now=SystemClock().now())
    store = open_store(store_file, Mode.SERVE, connections)
    if isinstance(store, SqliteStore):
        store.keep_reserve(ballast_bytes)
    return store


def reserve_of(store: Store) -> Callable[[], Reserve] | None:
    """How to ask for the reserve of a store that keeps one."""
    return store.reserve if isinstance(store, SqliteStore) else None


@contextmanager
def open_for_cleanup(store_file: Path, *, dry_run: bool) -> Iterator[Store]:
    """The store for one cleanup; for a dry run in a way that changes no byte. Raises StoreFileError."""
    store = open_store(store_file, Mode.READ_ONLY if dry_run else Mode.TOOL)
    try:
        yield store
    finally:
        store.close()


def init_store(store_file: Path, store_url: str | None) -> StoreFile:
    """Make a new store. Raises StoreFileError; nothing is made over what is there."""
    return create_store(store_file, store_url, store_id=new_id(), now=SystemClock().now())


def look(store_file: Path, question: Callable[[Store], T]) -> tuple[StoreFile, T]:
    """What the store file says, and the answer to ``question``, without changing a byte. Raises StoreFileError."""
    file = read_store_file(store_file)
    store = open_store(store_file, Mode.READ_ONLY)
    try:
        return file, question(store)
    finally:
        store.close()
