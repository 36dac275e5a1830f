"""Fixtures: a store of the test's own, the clock it goes by, and a log that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.engine.support import lent_runtime
from tests.ops.logbook import Page


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rt(tmp_path: Path, clock: FakeClock) -> Iterator[Runtime]:
    with lent_runtime(tmp_path, clock) as rt:
        yield rt


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path / "log")
