from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.engine.support import lent_runtime


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rt(tmp_path: Path, clock: FakeClock) -> Iterator[Runtime]:
    with lent_runtime(tmp_path, clock) as rt:
        yield rt
