"""A running attempt and its lease, as the threads of a worker see them; time is given."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from async_delivery.domain import lifecycle
from async_delivery.engine.runs import Run
from async_delivery.worker.attempt import Attempt, StopReason, Waker
from tests.domain.support import NOON, REQUEST, fresh_job


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    """One whose lease is relied on until the instant 10."""
    ids = (f"id-{number}" for number in count())
    change = lifecycle.claim(fresh_job(), "worker-a", "token", 30.0, NOON, lambda: next(ids))
    waker = Waker()
    yield Attempt(Run(change.job, REQUEST, None), 10.0, waker)
    waker.close()


def test_a_lease_that_is_over_stays_over_however_late_a_renewal_succeeds(attempt: Attempt) -> None:
    attempt.expire(10.0)

    # The process had slept, nobody else wanted the job, so the store renewed it: too late for this attempt.
    attempt.prolong(99.0)

    assert not attempt.held(11.0)
    # By this the slot knows that it has to give the job back.
    assert attempt.lease_until == 10.0


def test_a_lease_that_was_renewed_in_the_last_moment_holds(attempt: Attempt) -> None:
    attempt.prolong(99.0)

    attempt.expire(10.0)

    assert attempt.held(11.0)
    assert not attempt.lost


def test_what_runs_for_an_attempt_is_ended_once(attempt: Attempt) -> None:
    ended: list[str] = []

    with attempt.leashed(lambda: ended.append("once")):
        attempt.expire(10.0)
        attempt.ask(StopReason.LOST)
        attempt.expire(11.0)

    assert ended == ["once"]
