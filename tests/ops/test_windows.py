from __future__ import annotations

import random

import pytest

from async_delivery.ops.windows import LONG_SECONDS, SHORT_SECONDS, STEP_SECONDS, Window


def test_an_empty_window_knows_nothing() -> None:
    traffic = Window().look(1000.0, SHORT_SECONDS)

    assert (traffic.answers, traffic.failed_share, traffic.p95_seconds) == (0, None, None)


def test_the_share_of_failed_answers_is_exact() -> None:
    window = Window()
    for number in range(200):
        window.add(1000.0, [0.01], failed=number % 20 == 0)

    assert window.look(1000.0, SHORT_SECONDS).failed_share == 0.05


@pytest.mark.parametrize("scale", [0.0001, 0.03, 1.2, 40.0])
def test_the_p95_is_within_five_percent_of_the_exact_one(scale: float) -> None:
    chance = random.Random(7)
    window = Window()
    seconds = [scale * chance.lognormvariate(0, 0.7) for _ in range(5000)]
    window.add(50.0, sorted(seconds[:2000]), failed=False)
    for one in seconds[2000:]:
        window.add(50.0, [one], failed=False)

    exact = sorted(seconds)[int(0.95 * len(seconds)) - 1]
    assert window.look(50.0, SHORT_SECONDS).p95_seconds == pytest.approx(exact, rel=0.05)


def test_answers_leave_the_short_window_before_the_long_one() -> None:
    window = Window()
    window.add(1000.0, [0.01], failed=True)

    assert window.look(1000.0 + SHORT_SECONDS - STEP_SECONDS, SHORT_SECONDS).answers == 1
    assert window.look(1000.0 + SHORT_SECONDS + STEP_SECONDS, SHORT_SECONDS).answers == 0
    assert window.look(1000.0 + SHORT_SECONDS + STEP_SECONDS, LONG_SECONDS).answers == 1
    assert window.look(1000.0 + LONG_SECONDS + STEP_SECONDS, LONG_SECONDS).answers == 0


def test_old_steps_are_emptied_when_their_place_is_used_again() -> None:
    window = Window()
    for minute in range(60):
        window.add(60.0 * minute, [0.01], failed=False)

    assert window.look(60.0 * 59, SHORT_SECONDS).answers == 5
    assert window.look(60.0 * 59, LONG_SECONDS).answers == 15


def test_a_latency_beyond_every_bucket_counts_in_the_last_one() -> None:
    window = Window()
    window.add(0.0, [1e9], failed=False)
    window.add(0.0, [0.0], failed=False)

    found = window.look(0.0, SHORT_SECONDS)
    assert found.answers == 2
    assert found.p95_seconds is not None
    assert found.p95_seconds > 500
