"""Requests per second and held answers, per tenant."""

from __future__ import annotations

import pytest

from async_delivery.api.quotas import HeldAnswers, RequestRate
from async_delivery.domain.errors import QuotaExceededError
from async_delivery.domain.tenant import OrgId
from tests.engine.support import ALPHA, BETA


class Seconds:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(rate: RequestRate, org_id: OrgId, tries: int) -> int:
    """How many of so many requests get through now."""
    count = 0
    for _ in range(tries):
        try:
            rate.take(org_id)
        except QuotaExceededError:
            continue
        count += 1
    return count


def test_a_tenant_gets_its_rate_and_no_more() -> None:
    clock = Seconds()
    rate = RequestRate(5, clock)

    at_once = taken(rate, ALPHA, 100)
    clock.now += 1
    a_second_later = taken(rate, ALPHA, 100)
    clock.now += 3600
    after_a_pause = taken(rate, ALPHA, 100)

    assert (at_once, a_second_later, after_a_pause) == (5, 5, 5)


def test_one_tenants_flood_takes_nothing_from_another() -> None:
    rate = RequestRate(2, Seconds())
    taken(rate, ALPHA, 100)

    assert taken(rate, BETA, 100) == 2


def test_the_refusal_says_when_to_come_back_and_it_is_true() -> None:
    clock = Seconds()
    rate = RequestRate(0.1, clock)
    rate.take(ALPHA)

    with pytest.raises(QuotaExceededError) as refusal:
        rate.take(ALPHA)
    clock.now += refusal.value.retry_after_seconds
    rate.take(ALPHA)

    assert refusal.value.details[0].field == "quota.requests_per_second"


def test_tenants_that_come_and_go_do_not_fill_the_memory() -> None:
    rate = RequestRate(1, Seconds())

    for number in range(30_000):
        rate.take(OrgId(f"org-{number}"))

    assert len(rate._buckets) <= 10_000


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        RequestRate(0)


def test_places_to_wait_in_are_counted_and_given_back() -> None:
    held = HeldAnswers(2)

    with held.hold(ALPHA), held.hold(ALPHA):
        assert held.full(ALPHA)
        assert not held.full(BETA)
        with pytest.raises(QuotaExceededError), held.hold(ALPHA):
            pytest.fail("a third place")

    assert not held.full(ALPHA)
    with held.hold(ALPHA):
        pass
