"""Cleanup: one function behind the server's chore, the script and the command.

Old rows go in small committed batches, sized so that each takes about as long as others may wait for it; what
was committed stands when something stops the run half-way, and the report counts exactly that. Every live run is
remembered in its store, refused ones included; what is made of that is in ``cleanups``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from time import perf_counter

from async_delivery import telemetry
from async_delivery.domain.cleanup import CleanupDoneError, CleanupPausedError, Runner
from async_delivery.domain.errors import AsyncDeliveryError, NoRoomError, StoreBusyError, UnavailableError
from async_delivery.domain.retention import (
    DEFAULT_JOBS_TTL_SECONDS,
    ExitCode,
    RetentionPolicy,
    RetentionReport,
    SectionCount,
)
from async_delivery.engine import cleanups
from async_delivery.engine.runtime import Clock, StoreClock
from async_delivery.storage.contract import (
    FROM_THE_START,
    Deleted,
    Reached,
    RetentionCount,
    Section,
    Store,
    Transaction,
)

# Where one writer serves everybody, a batch holds it up; elsewhere it locks rows that nobody else writes.
TARGET_BATCH_SECONDS = 0.015
_TARGET_BESIDE_OTHERS_SECONDS = 0.25
_SMALLEST_BATCH, _FIRST_BATCH, _LARGEST_BATCH = 20, 100, 20_000

Stop = Callable[[], bool]


def cleanup_retention(
    store: Store,
    *,
    results_ttl_seconds: int,
    events_ttl_seconds: int,
    dry_run: bool = False,
    now: datetime | None = None,
    store_file: str = "",
    stop: Stop = lambda: False,
    force: bool = False,
    jobs_ttl_seconds: int | None = DEFAULT_JOBS_TTL_SECONDS,
) -> RetentionReport:
    """Delete results and events of jobs that ended longer ago than the TTLs, and then the jobs of which nothing of
    that is kept any more; or count them in a dry run.

    now         the instant the TTLs are counted from (aware UTC); the store's clock where None
    store_file  how the report names the store
    stop        asked between batches; True ends the run, and the report says so
    force       go ahead although cleanups are paused
    jobs_ttl_seconds   None keeps jobs for ever
    Raises ValidationError for a bad TTL, CleanupPausedError, StoreBusyError while another cleanup runs,
    UnavailableError if the store cannot be read; each before anything was deleted. Later faults are in the
    report's errors.
    """
    policy = RetentionPolicy(results_ttl_seconds, events_ttl_seconds, jobs_ttl_seconds)
    return run_cleanup(
        store,
        policy,
        runner=Runner.PYTHON,
        dry_run=dry_run,
        now=now,
        store_file=store_file,
        stop=stop,
        force=force,
    )


def run_cleanup(
    store: Store,
    policy: RetentionPolicy,
    *,
    runner: Runner,
    dry_run: bool = False,
    now: datetime | None = None,
    store_file: str = "",
    stop: Stop = lambda: False,
    force: bool = False,
    clock: Clock | None = None,
    done: Callable[[], bool] = lambda: False,
) -> RetentionReport:
    """``cleanup_retention`` for those of this house; ``runner`` says who, ``clock`` tells the time of the run.

    done   asked once no other cleanup can begin; True if this one has become needless: raises CleanupDoneError

    The server's own run that finds another one busy, or a pause, is not remembered: it has been asked by nobody
    and will come again.
    """
    clock = clock or StoreClock(store)
    started_at = clock.now()
    at = now or started_at
    if dry_run:
        found = store.read(lambda reader: reader.count_retention(policy, at))
        return report_of(store_file, policy, True, at, started_at, clock.now(), found, ())
    try:
        with store.cleanup_lock():
            if done():
                raise CleanupDoneError
            report = _sweep(store, policy, at, started_at, clock, store_file, stop, force)
            report = cleanups.remember(store, report, runner)
    except AsyncDeliveryError as exc:
        busy = isinstance(exc, StoreBusyError)
        if not (busy and runner is Runner.SERVER):
            code = ExitCode.BUSY if busy else ExitCode.REFUSED
            cleanups.remember_refusal(store, runner, code, exc.message, started_at, clock.now(), policy)
        raise
    telemetry.emit("cleanup.finished", report=report, runner=runner)
    return report


def _sweep(
    store: Store,
    policy: RetentionPolicy,
    now: datetime,
    started_at: datetime,
    clock: Clock,
    store_file: str,
    stop: Stop,
    force: bool,
) -> RetentionReport:
    if not force and (pause := cleanups.paused(store)):
        raise CleanupPausedError(pause)
    found = store.read(lambda reader: reader.count_retention(policy, now, going=False))

    def why_stop() -> str | None:
        if stop():
            return "stopped on request before everything old was deleted"
        if not force and (pause := cleanups.paused(store)):
            return f"paused by {pause.by} before everything old was deleted: {pause.why}"
        return None

    sweep = _Sweep(store, policy, now, why_stop)
    errors = sweep.run()
    return report_of(store_file, policy, False, now, started_at, clock.now(), sweep.account(found), errors)


class _Sweep:
    """One live run: deletes batch after batch and remembers what was committed."""

    def __init__(
        self, store: Store, policy: RetentionPolicy, now: datetime, why_stop: Callable[[], str | None]
    ) -> None:
        self._store, self._policy, self._now, self._why_stop = store, policy, now, why_stop
        self._target_seconds = TARGET_BATCH_SECONDS if store.exclusive else _TARGET_BESIDE_OTHERS_SECONDS
        self._counts: Counter[Section] = Counter()
        self._bytes: Counter[Section] = Counter()
        self._tenants: dict[str, Counter[Section]] = defaultdict(Counter)

    def run(self) -> tuple[str, ...]:
        for section in Section:
            if section is Section.JOBS and self._policy.jobs_ttl_seconds is None:
                continue
            limit, since = _FIRST_BATCH, FROM_THE_START
            while True:
                try:
                    if why := self._why_stop():
                        return (why,)
                    deleted, seconds = self._batch(section, limit, since)
                except NoRoomError as exc:
                    if limit == _SMALLEST_BATCH:
                        return (f"{section}: {exc.message}",)
                    # The reserve is let go for those who come after; a smaller batch also needs less.
                    limit = max(_SMALLEST_BATCH, limit // 4)
                    continue
                except UnavailableError as exc:
                    return (f"{section}: {exc.message}",)
                self._add(section, deleted)
                if not deleted.more:
                    break
                since = deleted.reached
                limit = _next_limit(limit, seconds, self._target_seconds)
        return ()

    def _batch(self, section: Section, limit: int, since: Reached) -> tuple[Deleted, float]:
        def write(tx: Transaction) -> tuple[Deleted, float]:
            began = perf_counter()
            deleted = tx.delete_old(section, self._policy, self._now, limit, since)
            return deleted, perf_counter() - began

        return self._store.write(write)

    def _add(self, section: Section, deleted: Deleted) -> None:
        self._counts[section] += deleted.count
        self._bytes[section] += deleted.bytes
        for org_id, count in deleted.per_tenant.items():
            self._tenants[org_id][section] += count

    def account(self, found: RetentionCount) -> RetentionCount:
        """``found`` with what was really deleted in place of what was to be."""

        def section(name: Section, before: SectionCount) -> SectionCount:
            return replace(before, delete_count=self._counts[name], bytes=self._bytes[name])

        tenants = {
            org: {str(name): counts[name] for name in Section} for org, counts in self._tenants.items()
        }
        return replace(
            found,
            results=section(Section.RESULTS, found.results),
            events=section(Section.EVENTS, found.events),
            jobs=section(Section.JOBS, found.jobs),
            per_tenant=tenants,
        )


def _next_limit(limit: int, seconds: float, target_seconds: float) -> int:
    """Aim the next batch at ``target_seconds``, changing by at most a factor of two."""
    factor = target_seconds / max(seconds, 1e-6)
    return max(_SMALLEST_BATCH, min(_LARGEST_BATCH, int(limit * min(2.0, max(0.5, factor)))))


def report_of(
    store_file: str,
    policy: RetentionPolicy,
    dry_run: bool,
    now: datetime,
    started_at: datetime,
    finished_at: datetime,
    found: RetentionCount,
    errors: tuple[str, ...],
) -> RetentionReport:
    """What was done, or would have been; see ``RetentionReport``."""
    return RetentionReport(
        store_file=store_file,
        policy=policy,
        dry_run=dry_run,
        now=now,
        started_at=started_at,
        finished_at=finished_at,
        terminal_job_count=found.terminal_job_count,
        active_job_count=found.active_job_count,
        results=found.results,
        events=found.events,
        jobs=found.jobs,
        per_tenant=found.per_tenant,
        errors=errors,
    )
