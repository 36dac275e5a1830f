"""How many jobs of a tenant may wait. Exact at the limit, and nearly free far from it."""

from __future__ import annotations

import threading
from time import monotonic

from async_delivery.domain.errors import QuotaExceededError
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import Reader

# Another process may submit for the same tenant; its jobs are noticed after this long.
_FRESH_SECONDS = 1.0
_MAX_TENANTS = 10_000


class QueueQuota:
    """Keeps for each tenant a number that is never below its queued jobs as far as this process knows.

    It rises with each submit and is counted anew when it is old or reaches the limit; jobs that were claimed
    meanwhile only make it too high, which the next count mends.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._known: dict[OrgId, tuple[int, float]] = {}

    def take(self, reader: Reader, org_id: OrgId, retry_after_seconds: int) -> None:
        """Count one more queued job of the tenant. Raises QuotaExceededError at the limit."""
        with self._lock:
            count, counted_at = self._known.get(org_id, (self.limit, 0.0))
            fresh = monotonic() - counted_at < _FRESH_SECONDS
        if not fresh or count >= self.limit:
            count, counted_at = reader.count_queued(org_id, self.limit), monotonic()
        if count >= self.limit:
            raise QuotaExceededError("queued", self.limit, retry_after_seconds)
        with self._lock:
            if len(self._known) >= _MAX_TENANTS:
                self._known.clear()
            self._known[org_id] = (count + 1, counted_at)
