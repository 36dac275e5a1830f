"""Desks: one at a server of its own, which a test may harm, and one at a server that others use as well."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.desk import Desk
from tests.system.live import LiveServer

_numbers = itertools.count(1)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    """A server that a test may harm; its folder is the working directory, as the runbook has it."""
    live = LiveServer(tmp_path, "--slots", "2").start()
    yield Desk(live, tmp_path, "default-org")
    live.stop()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("server"), "--slots", "2").start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def desk(live: LiveServer, tmp_path: Path) -> Desk:
    """A desk at a server that others use as well: a tenant and artefacts of its own."""
    return Desk(live, tmp_path, f"tenant-{next(_numbers)}")
