from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.engine.runtime import Runtime, new_id
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import create_store, open_store
from async_delivery.testing import FakeClock
from tests.engine.support import runtime


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rt(tmp_path: Path, clock: FakeClock) -> Iterator[Runtime]:
    path = tmp_path / "store.v1.json"
    create_store(path, store_id=new_id(), now=clock.now())
    store = open_store(path, Mode.SERVE)
    yield runtime(store, clock)
    store.close()
