"""The store under test: one fixture, every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from async_delivery.storage.contract import Store
from tests.contract.support import House
from tests.postgres import shared_server
from tests.storage.support import sqlite_store

BACKENDS: dict[str, Callable[[Path], Store]] = {
    "sqlite": sqlite_store,
    "postgresql": lambda folder: shared_server().store(folder),
}


@pytest.fixture(params=sorted(BACKENDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = BACKENDS[request.param](tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def house(store: Store) -> House:
    return House(store)
