"""Retention: what may be cleaned up and when, and the report of a cleanup.

Only terminal jobs are touched. The clock of a row is the instant its job ended, so a job that ran for days does
not lose its first events the moment it ends; a row whose instants are missing or not valid is kept and counted.
Results and events go by their own TTLs; the job goes last, and never before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from async_delivery.domain.duration import MAX_SECONDS
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.instant import format_instant

DEFAULT_RESULTS_TTL_SECONDS = 604_800
DEFAULT_EVENTS_TTL_SECONDS = 259_200
DEFAULT_JOBS_TTL_SECONDS = 7_776_000

RUNNER = "async_retention_cleanup"


class ExitCode(IntEnum):
    """How a cleanup ended, as its process tells it."""

    DONE = 0
    REFUSED = 1
    PARTIAL = 2
    BUSY = 3


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long things are kept after their job has ended, in whole seconds.

    results_ttl_seconds   results, unless the tenant asked for a TTL of its own at submit
    events_ttl_seconds    events
    jobs_ttl_seconds      the job itself with all that belongs to it, once no result or event of it is kept any more;
                          None: for ever
    """

    results_ttl_seconds: int = DEFAULT_RESULTS_TTL_SECONDS
    events_ttl_seconds: int = DEFAULT_EVENTS_TTL_SECONDS
    jobs_ttl_seconds: int | None = DEFAULT_JOBS_TTL_SECONDS

    def __post_init__(self) -> None:
        for name in ("results_ttl_seconds", "events_ttl_seconds", "jobs_ttl_seconds"):
            value = getattr(self, name)
            if name == "jobs_ttl_seconds" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SECONDS:
                raise ValidationError.of(name, f"must be a whole number of seconds from 0 to {MAX_SECONDS}")

    def results_cutoff(self, now: datetime) -> datetime:
        """Results of jobs that ended at or before this instant are old."""
        return now - timedelta(seconds=self.results_ttl_seconds)

    def events_cutoff(self, now: datetime) -> datetime:
        """Events of jobs that ended at or before this instant are old."""
        return now - timedelta(seconds=self.events_ttl_seconds)

    def jobs_cutoff(self, now: datetime) -> datetime | None:
        """Jobs that ended at or before this instant are old; None where they are kept for ever."""
        return None if self.jobs_ttl_seconds is None else now - timedelta(seconds=self.jobs_ttl_seconds)


@dataclass(frozen=True, slots=True)
class SectionCount:
    """What a cleanup found in one table. ``total`` = ``delete_count`` + ``kept_count``.

    total                       rows that still have something to delete
    eligible_terminal           of these, rows of terminal jobs
    delete_count                of these, rows past the cutoff; on a live run the rows really deleted
    kept_count                  all the others
    skipped_missing_timestamp   kept because an instant is missing or not valid
    held_count                  kept, though old, because of a hold
    bytes                       size of what is (to be) deleted
    """

    total: int = 0
    eligible_terminal: int = 0
    delete_count: int = 0
    skipped_missing_timestamp: int = 0
    held_count: int = 0
    bytes: int = 0

    @property
    def kept_count(self) -> int:
        """Rows that stay."""
        return self.total - self.delete_count

    def to_json(self, cutoff: datetime | None) -> dict[str, Any]:
        """The section of the artefact. ``cutoff``: None where nothing grows old."""
        return {
            "total": self.total,
            "eligible_terminal": self.eligible_terminal,
            "delete_count": self.delete_count,
            "kept_count": self.kept_count,
            "skipped_missing_timestamp": self.skipped_missing_timestamp,
            "held_count": self.held_count,
            "bytes": self.bytes,
            "cutoff": None if cutoff is None else format_instant(cutoff),
        }


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """What a cleanup did, or in a dry run would have done; ``to_json`` is the artefact.

    per_tenant   org_id -> {"results": deletes, "events": deletes, "jobs": deletes}, only tenants with any
    errors       one sentence each; none means everything was done
    """

    store_file: str
    policy: RetentionPolicy
    dry_run: bool
    now: datetime
    started_at: datetime
    finished_at: datetime
    terminal_job_count: int
    active_job_count: int
    results: SectionCount
    events: SectionCount
    jobs: SectionCount = field(default_factory=SectionCount)
    per_tenant: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """DONE, or PARTIAL when something stopped it half-way."""
        return ExitCode.PARTIAL if self.errors else ExitCode.DONE

    def to_json(self) -> dict[str, Any]:
        """The artefact, in the words of the contract."""
        return {
            "runner": RUNNER,
            "store_file": self.store_file,
            "started_at": format_instant(self.started_at),
            "finished_at": format_instant(self.finished_at),
            "duration_seconds": max(0.0, round((self.finished_at - self.started_at).total_seconds(), 6)),
            "dry_run": self.dry_run,
            "now": format_instant(self.now),
            "terminal_job_count": self.terminal_job_count,
            "active_job_count": self.active_job_count,
            "ttl_seconds": {
                "results": self.policy.results_ttl_seconds,
                "events": self.policy.events_ttl_seconds,
                "jobs": self.policy.jobs_ttl_seconds,
            },
            "results": self.results.to_json(self.policy.results_cutoff(self.now)),
            "events": self.events.to_json(self.policy.events_cutoff(self.now)),
            "jobs": self.jobs.to_json(self.policy.jobs_cutoff(self.now)),
            "per_tenant": {org: dict(counts) for org, counts in sorted(self.per_tenant.items())},
            "errors": list(self.errors),
        }
