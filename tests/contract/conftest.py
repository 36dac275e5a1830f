"""The store under test: one fixture, every database. A second database adds one line to BACKENDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from async_delivery.storage.contract import Store
from tests.contract.support import House
from tests.storage.support import sqlite_store

BACKENDS: dict[str, Callable[[Path], Store]] = {
    "sqlite": sqlite_store,
}


@pytest.fixture(params=sorted(BACKENDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = BACKENDS[request.param](tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def house(store: Store) -> House:
    return House(store)
