"""What observers need of the store, looked up at most every few seconds however many of them ask.

One look is one snapshot. A store that cannot be read is itself something to show, so a look never raises: it says
so. The collector turns a look into Prometheus' gauges. Imports engine, storage.contract and domain.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

from async_delivery.domain.cleanup import CleanupRun, Pause
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.job import JobStatus
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.signal import STALL_MARGIN_SECONDS, DeletePoint, baseline
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Reader, Section, Stock, StoreFacts

FRESH_SECONDS = 5.0
# A store that is back should soon be seen to be.
AGAIN_SECONDS = 1.0
BACKLOG_AT_MOST = 10_000
_WITHOUT_IN_APP_AFTER = timedelta(minutes=10)
_MAX_RUNS = 5_000


@dataclass(frozen=True, slots=True)
class Look:
    """What a store held at ``at`` (aware UTC).

    runs             live cleanups of late, newest first
    last_success_at  of any cleanup, however long ago
    free_bytes       on the file system of the store; None where that is not known
    """

    at: datetime
    stock: Stock
    backlog: Mapping[Section, int]
    runs: Sequence[CleanupRun]
    last_success_at: datetime | None
    pause: Pause | None
    facts: StoreFacts
    free_bytes: int | None

    def oldest_queued_seconds(self) -> float:
        """How long the job has waited that waits longest and may run; 0 if none does."""
        since = self.stock.oldest_queued_at
        return 0.0 if since is None else max(0.0, (self.at - since).total_seconds())

    def points(self, section: Section) -> list[DeletePoint]:
        """What cleanups did to one kind of row, oldest first; runs that were refused are left out."""
        return [_point(run, section) for run in reversed(self.runs) if run.counted]


def _point(run: CleanupRun, section: Section) -> DeletePoint:
    deleted, kept, ttl_seconds = {
        Section.RESULTS: (run.results_deleted, run.results_kept, run.results_ttl_seconds),
        Section.EVENTS: (run.events_deleted, run.events_kept, run.events_ttl_seconds),
        Section.JOBS: (run.jobs_deleted, run.jobs_kept, run.jobs_ttl_seconds),
    }[section]
    return DeletePoint(run.finished_at, deleted, kept, ttl_seconds or 0)


class Looker:
    """Looks at one store on behalf of all observers of a process. Safe to use from any thread.

    What an operator did, a pause or a cleanup, is seen at once; what jobs did, within FRESH_SECONDS.

    policy   the TTLs of this server's own cleanups, for the backlog
    folder   of the store, for its free space; None where it is elsewhere
    """

    def __init__(self, rt: Runtime, policy: RetentionPolicy, folder: Path | None) -> None:
        self._rt, self._policy, self._folder = rt, policy, folder
        self._lock = threading.Lock()
        self._found: Look | None = None
        self._looked_at = float("-inf")

    def look(self) -> Look | None:
        """The last look if it is fresh, else a new one; None if the store cannot be read now."""
        with self._lock:
            fresh = AGAIN_SECONDS if self._found is None else FRESH_SECONDS
            if monotonic() - self._looked_at >= fresh or self._overtaken():
                self._found = self._fresh()
                self._looked_at = monotonic()
            return self._found

    def forget(self) -> None:
        """Let the next look be a new one."""
        with self._lock:
            self._looked_at = float("-inf")

    def _overtaken(self) -> bool:
        """Something was done to the cleanups since the last look: two small reads, where a look counts rows."""
        if self._found is None:
            return False
        known = (self._found.pause, [run.run_id for run in self._found.runs[:1]])
        try:
            now = self._rt.store.read(
                lambda reader: (
                    reader.cleanup_pause(),
                    [run.run_id for run in reader.cleanup_runs(None, 1)],
                )
            )
        except AsyncDeliveryError:
            return True
        return now != known

    def _fresh(self) -> Look | None:
        now = self._rt.clock.now()
        # Not the jobs' own: no signal judges by so long a past, and a look must not read it every few seconds.
        longest = max(self._policy.results_ttl_seconds, self._policy.events_ttl_seconds)
        since = now - timedelta(seconds=longest + 2 * STALL_MARGIN_SECONDS)

        def ask(reader: Reader) -> Look:
            return Look(
                at=now,
                stock=reader.stock(now, now - _WITHOUT_IN_APP_AFTER),
                backlog=reader.backlog(self._policy, now, BACKLOG_AT_MOST),
                runs=reader.cleanup_runs(since, _MAX_RUNS) or reader.cleanup_runs(None, 1),
                last_success_at=reader.last_cleanup_success_at(),
                pause=reader.cleanup_pause(),
                facts=reader.facts(),
                free_bytes=_free_bytes(self._folder),
            )

        try:
            return self._rt.store.read(ask)
        except AsyncDeliveryError:
            return None


def _free_bytes(folder: Path | None) -> int | None:
    try:
        return None if folder is None else shutil.disk_usage(folder).free
    except OSError:
        return None


class StockCollector:
    """A collector of prometheus-client: the same numbers from every process on one store."""

    def __init__(self, looker: Looker, analyses: Iterable[str], cleanup_interval_seconds: float) -> None:
        self._looker, self._analyses = looker, tuple(analyses)
        self._interval = cleanup_interval_seconds

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges of one look; only that it failed if it did."""
        look = self._looker.look()
        yield _gauge("async_store_readable", "1 if the store answered.", 0 if look is None else 1)
        yield _gauge(
            "async_retention_cleanup_interval_seconds",
            "Time between two scheduled cleanups of this server; 0 if it runs none.",
            self._interval,
        )
        if look is not None:
            yield self._jobs(look)
            yield from _stock(look)
            yield from _cleanups(look)

    def _jobs(self, look: Look) -> Metric:
        family = GaugeMetricFamily("async_jobs", "Jobs in the store.", labels=["status", "analysis"])
        counts = dict(look.stock.jobs)
        for analysis in self._analyses:
            for status in JobStatus:
                counts.setdefault((status, analysis), 0)
        for (status, analysis), count in sorted(counts.items()):
            family.add_metric([str(status), analysis], count)
        return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _stock(look: Look) -> Iterator[Metric]:
    stock = look.stock
    yield _gauge(
        "async_queue_oldest_seconds",
        "How long the job has waited that may run and waits longest.",
        look.oldest_queued_seconds(),
    )
    yield _gauge(
        "async_notifications_terminal_jobs_without_in_app_10m",
        "Ended jobs without their in-app record, of those that ended more than ten minutes ago.",
        stock.terminal_without_in_app,
    )
    yield _gauge("async_store_bytes", "Size of the database.", stock.store_bytes)
    yield _gauge("async_store_wal_bytes", "Size of its write-ahead log.", stock.wal_bytes)
    if look.free_bytes is not None:
        yield _gauge("async_store_free_bytes", "Free space on the file system of the store.", look.free_bytes)
    yield _gauge(
        "async_store_created_timestamp_seconds",
        "When the store was made; 0 if it does not say.",
        _timestamp(look.facts.created_at),
    )


def _cleanups(look: Look) -> Iterator[Metric]:
    last = look.runs[0] if look.runs else None
    yield _gauge(
        "async_retention_cleanup_paused", "1 while cleanups are paused.", 0 if look.pause is None else 1
    )
    yield _gauge(
        "async_retention_cleanup_last_run_timestamp_seconds",
        "When the last cleanup ended; 0 before the first.",
        _timestamp(last.finished_at if last else None),
    )
    yield _gauge(
        "async_retention_cleanup_last_success_timestamp_seconds",
        "When the last cleanup with exit code 0 ended; 0 before the first.",
        _timestamp(look.last_success_at),
    )
    backlog = GaugeMetricFamily(
        "async_retention_backlog_rows", "Rows that a cleanup would delete now.", labels=["section"]
    )
    usual = GaugeMetricFamily(
        "async_retention_delete_median_7d",
        "Median of what the cleanups of the seven days before the last deleted.",
        labels=["section"],
    )
    for section in Section:
        backlog.add_metric([str(section)], look.backlog.get(section, 0))
        usual.add_metric([str(section)], baseline(look.points(section)) or 0.0)
    yield backlog
    yield usual
    if last is not None:
        yield _gauge(
            "async_retention_cleanup_exit_code", "Of the last cleanup, whoever ran it.", last.exit_code
        )
    counted = next((run for run in look.runs if run.counted), None)
    if counted is not None:
        yield from _counts(counted)


def _counts(run: CleanupRun) -> Iterator[Metric]:
    for name, text, value in (
        ("results_delete_count", "Results that the last cleanup deleted.", run.results_deleted),
        ("events_delete_count", "Events that the last cleanup deleted.", run.events_deleted),
        ("results_kept_count", "Results that the last cleanup kept.", run.results_kept),
        ("events_kept_count", "Events that the last cleanup kept.", run.events_kept),
        ("jobs_delete_count", "Jobs that the last cleanup deleted whole.", run.jobs_deleted),
        ("jobs_kept_count", "Jobs that the last cleanup kept, active ones too.", run.jobs_kept),
        (
            "skipped_missing_timestamp_count",
            "Rows that the last cleanup kept because an instant is missing or not valid.",
            run.skipped_missing_timestamp,
        ),
    ):
        # Untyped: the ending _count belongs to histograms, and a gauge of that name is refused by linters.
        yield UnknownMetricFamily(f"async_retention_{name}", text, value=value)


def _timestamp(at: datetime | None) -> float:
    return 0.0 if at is None else at.timestamp()
