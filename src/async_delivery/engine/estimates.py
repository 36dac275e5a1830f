"""How long things take, from what they took lately: for ``eta_seconds`` and ``Retry-After``."""

from __future__ import annotations

import math
import threading
from statistics import median
from time import monotonic

from async_delivery.domain.job import Job, JobStatus
from async_delivery.engine.runtime import Runtime

_SAMPLE = 20
_FRESH_SECONDS = 5.0
_UNKNOWN_SECONDS = 2.0
_LONGEST_SECONDS = 30


class Estimates:
    """Remembers each analysis's typical run time for a few seconds."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float | None, float]] = {}

    def typical_seconds(self, analysis: str) -> float | None:
        """Median run time of the latest completed attempts, or None before the first."""
        with self._lock:
            known = self._known.get(analysis)
        if known and monotonic() - known[1] < _FRESH_SECONDS:
            return known[0]
        lately = self._rt.store.read(lambda reader: reader.recent_run_seconds(analysis, _SAMPLE))
        typical = median(lately) if lately else None
        with self._lock:
            self._known[analysis] = (typical, monotonic())
        return typical

    def is_fresh(self, analysis: str) -> bool:
        """True if ``typical_seconds`` need not ask the store."""
        known = self._known.get(analysis)
        return known is not None and monotonic() - known[1] < _FRESH_SECONDS

    def eta_seconds(self, job: Job) -> float | None:
        """Seconds of work left for ``job`` as far as can be told; 0 when it has ended, None when unknown.

        Time in the queue is not part of it. The progress an analysis reports counts more than the history of
        others once there is enough of it.
        """
        if job.status.terminal:
            return 0.0
        typical = self.typical_seconds(job.analysis)
        if job.status is JobStatus.QUEUED or job.started_at is None:
            return typical
        elapsed = max(0.0, (self._rt.clock.now() - job.started_at).total_seconds())
        if job.progress_percent >= 5 and job.attempt == 1:
            return round(elapsed * (100.0 - job.progress_percent) / job.progress_percent, 1)
        return None if typical is None else round(max(0.0, typical - elapsed), 1)

    def retry_after_seconds(self, job: Job) -> int:
        """When it makes sense to ask again for ``job``; see ``pause_seconds``."""
        return pause_seconds(self.eta_seconds(job))


def pause_seconds(eta_seconds: float | None) -> int:
    """When it makes sense to ask again: about half of what is left, from 1 to 30 whole seconds."""
    eta = _UNKNOWN_SECONDS if eta_seconds is None else eta_seconds
    return max(1, min(_LONGEST_SECONDS, math.ceil(eta / 2)))
