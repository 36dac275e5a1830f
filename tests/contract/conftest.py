"""The store under test: one fixture, every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from async_delivery.storage.contract import Store
from tests.contract.support import House
from tests.postgres import shared_server
from tests.storage.support import sqlite_store

BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {
    "sqlite": lambda folder: closing(sqlite_store(folder)),
    "postgresql": lambda folder: shared_server().lent_store(folder),
}


@pytest.fixture(params=sorted(BACKENDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with BACKENDS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
def house(store: Store) -> House:
    return House(store)
