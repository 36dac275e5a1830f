"""What a smoke run is asked to do, and what it needs of the store it cleans up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import Protocol

from async_delivery.domain.retention import RetentionReport
from async_delivery.domain.smoke import Profile
from async_delivery.engine.runtime import Clock, SystemClock
from async_delivery.ops.probe import Probe


class StoreAtHand(Protocol):
    """The store file of this machine."""

    name: str

    def has_job(self, org_id: str, job_id: str) -> bool:
        """Whether it holds the tenant's job. Raises StoreFileError."""

    def clean_up(self, *, dry_run: bool, now: datetime | None) -> RetentionReport:
        """One cleanup by the TTLs of the plan, counted from ``now``. Raises AsyncDeliveryError where it is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which checklist, against what.

    org_id              None: no tenant header is sent
    store               None: the steps of the cleanup are skipped
    jobs_ttl_seconds    None: jobs are kept for ever
    timeout_seconds     how long the job of smoke staging may take
    live_cleanup        smoke staging: clean up for real, twice
    maintenance_window  smoke prod: the window is released
    job_id              smoke prod: the job to read; the tenant's newest completed one where None
    staging_artefact    smoke prod: what shows that staging is green; the newest one of artifacts_dir where None
    """

    profile: Profile
    probe: Probe
    org_id: str | None
    store: StoreAtHand | None
    results_ttl_seconds: int
    events_ttl_seconds: int
    jobs_ttl_seconds: int | None
    artifacts_dir: Path
    timeout_seconds: float = 30.0
    live_cleanup: bool = False
    maintenance_window: bool = False
    job_id: str | None = None
    staging_artefact: Path | None = None
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = sleep
