"""The fixtures ``score`` and ``seed``. What was measured is summed up in ``summary``."""

from __future__ import annotations

import os
import secrets
from typing import Protocol

import pytest

from tests.reliability.scorecard import Form, Measurement
from tests.reliability.summary import attach


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
        one.require_known()
        attach(request.node, one)
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
