from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.engine.runtime import Runtime, new_id
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import create_store, open_store
from async_delivery.testing import FakeClock
from tests.api.support import Server, Web, serving
from tests.engine.support import runtime


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh store; making one takes longer than most tests that need one."""
    folder = tmp_path_factory.mktemp("store")
    create_store(folder / "store.v1.json", store_id=new_id(), now=FakeClock().now())
    return folder


@pytest.fixture
def rt(tmp_path: Path, empty_store: Path, clock: FakeClock) -> Iterator[Runtime]:
    shutil.copytree(empty_store, tmp_path, dirs_exist_ok=True)
    store = open_store(tmp_path / "store.v1.json", Mode.SERVE)
    yield runtime(store, clock)
    store.close()


@pytest.fixture
def web(rt: Runtime) -> Iterator[Web]:
    """The application in this process, asked as tenant alpha."""
    with Web(rt) as web:
        yield web


@pytest.fixture
def server(rt: Runtime) -> Iterator[Server]:
    """The same behind a real HTTP server on a free port."""
    with serving(rt) as server:
        yield server
