"""The fixtures ``score`` and ``seed``, and the scorecard at the end of a run."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol

import pytest

from tests.reliability.scorecard import Form, Measurement, Scorecard, write_json

CARD = pytest.StashKey[Scorecard]()
FOLDER = Path(__file__).resolve().parents[2] / ".scorecard"


class Score(Protocol):
    """Record a measured value, and fail the test if it misses its target."""

    def __call__(
        self,
        figure: str,
        store: str,
        measured: float,
        *,
        cases: int,
        seed: int | None = None,
        form: Form | None = None,
    ) -> None: ...


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Score:
    """``score("R6.recorded", "sqlite", 0.4, cases=10, seed=seed)``.

    The form is long in a test marked long, else short, unless it is said.
    """
    card = request.config.stash.setdefault(CARD, Scorecard())
    usual: Form = "long" if request.node.get_closest_marker("long") else "short"

    def record(
        figure: str,
        store: str,
        measured: float,
        *,
        cases: int,
        seed: int | None = None,
        form: Form | None = None,
    ) -> None:
        one = Measurement(figure, store, form or usual, measured, cases, seed, request.node.nodeid)
        card.record(one)
        if not one.reached:
            pytest.fail(one.words())

    return record


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What everything random in a test comes from; RELIABILITY_SEED chooses it, and a failure shows it."""
    chosen = os.environ.get("RELIABILITY_SEED")
    value = int(chosen) if chosen else secrets.randbits(32)
    print(f"reproduce with RELIABILITY_SEED={value} pytest '{request.node.nodeid}'")
    return value


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    card = config.stash.get(CARD, None)
    if not card:
        return
    terminalreporter.section("reliability scorecard")
    for line in card.lines():
        terminalreporter.write_line(line)
    chosen: str | None = config.getoption("scorecard")
    if chosen:
        write_json(Path(chosen), card.as_json())
        written = [Path(chosen)]
    else:
        written = card.write(FOLDER)
    terminalreporter.write_line(f"written to {', '.join(map(str, written))}")
