from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.worker import forkserver
from async_delivery.worker.catalogue import load_catalogue
from tests.worker.support import World, refs

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def infos() -> Iterator[list[AnalysisInfo]]:
    forkserver.prepare(refs())
    yield load_catalogue(refs())
    forkserver.close()


@pytest.fixture
def make_world(tmp_path: Path, infos: list[AnalysisInfo]) -> Iterator[MakeWorld]:
    forkserver.prepare(refs())
    made: list[World] = []

    def make(**changes: Any) -> World:
        made.append(World(tmp_path, changes.pop("infos", infos), **changes))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world().start()
