from __future__ import annotations

from datetime import timedelta

from async_delivery.engine.clockwatch import ClockWatch
from async_delivery.testing import FakeClock

DAY, HOUR = 86_400.0, 3_600.0


class Machine:
    """A wall clock that can be set, and the time since the machine was started, which cannot."""

    def __init__(self) -> None:
        self.wall, self.up = FakeClock(), 1_000.0
        self.watch = ClockWatch(self.wall, lambda: self.up)

    def runs(self, seconds: float) -> None:
        self.wall.advance(seconds=seconds)
        self.up += seconds

    def is_set(self, seconds: float) -> None:
        self.wall.set(self.wall.now() + timedelta(seconds=seconds))


def test_a_clock_that_only_runs_is_believed_however_long_it_does() -> None:
    machine = Machine()
    for _ in range(400):
        machine.runs(DAY)
        assert machine.watch.leads_by() is None


def test_a_clock_that_is_put_forward_is_not_believed_until_it_is_back() -> None:
    machine = Machine()
    machine.is_set(DAY)
    machine.runs(60)
    assert machine.watch.leads_by() == DAY

    machine.is_set(-DAY)

    assert machine.watch.leads_by() is None


def test_an_hour_is_nothing_and_neither_is_a_clock_that_is_put_back() -> None:
    machine = Machine()
    machine.is_set(HOUR)
    assert machine.watch.leads_by() is None
    machine.is_set(-2 * DAY)
    assert machine.watch.leads_by() is None


def test_a_clock_that_stands_there_for_a_day_was_wrong_before() -> None:
    machine = Machine()
    machine.is_set(50 * 365 * DAY)
    assert machine.watch.leads_by()
    machine.runs(DAY - 60)
    assert machine.watch.leads_by()

    machine.runs(60)

    assert machine.watch.leads_by() is None
    machine.is_set(DAY)
    assert machine.watch.leads_by() == DAY


def test_a_second_jump_begins_the_day_anew() -> None:
    machine = Machine()
    machine.is_set(DAY)
    assert machine.watch.leads_by()
    machine.runs(DAY - 60)
    machine.is_set(7 * DAY)
    assert machine.watch.leads_by()

    machine.runs(120)

    assert machine.watch.leads_by()
