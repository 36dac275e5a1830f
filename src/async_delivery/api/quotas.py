"""Quotas that one process keeps in memory: requests per second and held answers, each per tenant.

How many jobs may wait is counted by the engine, in the transaction that adds one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from async_delivery.domain.errors import QuotaExceededError
from async_delivery.domain.tenant import OrgId

_MAX_TENANTS = 10_000


class RequestRate:
    """A token bucket per tenant: ``per_second`` on average, and as many at once (at least one).

    Used on the event loop only, so it needs no lock. The clock is in seconds and never goes back.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = monotonic) -> None:
        if per_second <= 0:
            raise ValueError(f"requests_per_second must be above 0, got {per_second}")
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._buckets: dict[OrgId, tuple[float, float]] = {}

    def take(self, org_id: OrgId) -> None:
        """Count one request. Raises QuotaExceededError when the tenant has none left."""
        now = self._clock()
        tokens, at = self._buckets.get(org_id, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        if tokens < 1.0:
            self._buckets[org_id] = (tokens, now)
            seconds = math.ceil((1.0 - tokens) / self._per_second)
            raise QuotaExceededError("requests_per_second", math.ceil(self._per_second), seconds)
        if len(self._buckets) >= _MAX_TENANTS and org_id not in self._buckets:
            self._forget(now)
        self._buckets[org_id] = (tokens - 1.0, now)

    def _forget(self, now: float) -> None:
        # A bucket that is full again says no more than none at all.
        span = self._burst / self._per_second
        self._buckets = {org: bucket for org, bucket in self._buckets.items() if now - bucket[1] < span}
        if len(self._buckets) >= _MAX_TENANTS:
            self._buckets.clear()


class HeldAnswers:
    """How many answers a tenant may have held back at a time, waiting for a job."""

    def __init__(self, per_tenant: int) -> None:
        self._per_tenant = per_tenant
        self._held: Counter[OrgId] = Counter()

    def full(self, org_id: OrgId) -> bool:
        """True if the next ``hold`` would be refused."""
        return self._held[org_id] >= self._per_tenant

    def count(self) -> int:
        """Answers held now, of all tenants."""
        return self._held.total()

    @contextmanager
    def hold(self, org_id: OrgId) -> Iterator[None]:
        """Count one while the block lasts. Raises QuotaExceededError."""
        if self.full(org_id):
            raise QuotaExceededError("waits", self._per_tenant, 1)
        self._held[org_id] += 1
        try:
            yield
        finally:
            self._held[org_id] -= 1
            if not self._held[org_id]:
                del self._held[org_id]
