"""One live server for the commands that need one; each test acts as a tenant of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from async_delivery.cli.app import run
from tests.system.live import LiveServer

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("server"), "--slots", "2").start()
    yield live
    assert live.stop() == 0


@pytest.fixture
def org() -> str:
    return f"tenant-{next(_numbers)}"


@pytest.fixture
def command(
    server: LiveServer, org: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs a command as a tenant of the live server."""
    monkeypatch.setenv("ASYNC_DELIVERY_BASE_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("ASYNC_DELIVERY_ORG", org)

    def ran(*args: str) -> Ran:
        capfd.readouterr()
        code = run(args)
        said = capfd.readouterr()
        return Ran(code, said.out, said.err)

    return ran
