"""What is remembered of cleanups, and the pause an operator puts on them. Cleaning up itself is in ``retention``."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from async_delivery import telemetry
from async_delivery.domain.cleanup import CleanupRun, Pause, Runner
from async_delivery.domain.errors import AsyncDeliveryError, UnavailableError
from async_delivery.domain.retention import ExitCode, RetentionPolicy, RetentionReport
from async_delivery.domain.text import storable
from async_delivery.engine.runtime import new_id
from async_delivery.storage.contract import Store, Transaction


def pause(store: Store, why: str, by: str, now: datetime) -> Pause:
    """Let no cleanup of the store begin, and end one that runs after its batch. Raises ValidationError."""
    wanted = Pause(now, storable(why), storable(by))
    store.write(lambda tx: tx.set_cleanup_pause(wanted))
    telemetry.emit("cleanup.paused", why=why, by=by)
    return wanted


def resume(store: Store) -> Pause | None:
    """Lift the pause; returns it, or None if there was none."""

    def write(tx: Transaction) -> Pause | None:
        found = tx.cleanup_pause()
        tx.set_cleanup_pause(None)
        return found

    lifted = store.write(write)
    if lifted is not None:
        telemetry.emit("cleanup.resumed", why=lifted.why, by=lifted.by)
    return lifted


def paused(store: Store) -> Pause | None:
    """The pause that is on, or None."""
    return store.read(lambda reader: reader.cleanup_pause())


def remember(store: Store, report: RetentionReport, runner: Runner) -> RetentionReport:
    """Keep a live run in its store. Returns the report, with an error more if it could not be kept."""
    artefact = report.to_json()
    # The share of each tenant stays in the artefact: a row of the store must not grow with their number.
    del artefact["per_tenant"]
    results, events, jobs = report.results, report.events, report.jobs
    run = CleanupRun(
        run_id=new_id(),
        runner=runner,
        started_at=report.started_at,
        finished_at=report.finished_at,
        exit_code=int(report.exit_code),
        results_deleted=results.delete_count,
        results_kept=results.kept_count,
        events_deleted=events.delete_count,
        events_kept=events.kept_count,
        jobs_deleted=jobs.delete_count,
        jobs_kept=jobs.kept_count,
        skipped_missing_timestamp=sum(each.skipped_missing_timestamp for each in (results, events, jobs)),
        bytes=results.bytes + events.bytes + jobs.bytes,
        results_ttl_seconds=report.policy.results_ttl_seconds,
        events_ttl_seconds=report.policy.events_ttl_seconds,
        jobs_ttl_seconds=report.policy.jobs_ttl_seconds,
        report=artefact,
    )
    try:
        store.write(lambda tx: tx.record_cleanup(run))
    except UnavailableError as exc:
        return replace(
            report, errors=(*report.errors, f"the run could not be noted in the store: {exc.message}")
        )
    return report


def remember_refusal(
    store: Store,
    runner: Runner,
    exit_code: ExitCode,
    why: str,
    started_at: datetime,
    finished_at: datetime,
    policy: RetentionPolicy | None = None,
) -> bool:
    """Keep a run that was refused before it deleted anything; False if the store could not take it.

    Only where a server works on the store: a refused cleanup of a store at rest touches nothing, to the byte.
    """
    telemetry.emit("cleanup.refused", runner=runner, exit_code=int(exit_code), error=why)
    run = CleanupRun(
        run_id=new_id(),
        runner=runner,
        started_at=started_at,
        finished_at=finished_at,
        exit_code=int(exit_code),
        results_ttl_seconds=policy.results_ttl_seconds if policy else None,
        events_ttl_seconds=policy.events_ttl_seconds if policy else None,
        jobs_ttl_seconds=policy.jobs_ttl_seconds if policy else None,
        report={"errors": [why]},
    )

    def record(tx: Transaction) -> None:
        # Whoever looks at exit code 3 later must see that a person wanted it so, also when the pause is over.
        pause = tx.cleanup_pause() if exit_code is ExitCode.BUSY else None
        told = {**run.report, "paused": pause.to_json()} if pause else run.report
        tx.record_cleanup(replace(run, report=told))

    if not store.is_served():
        return False
    try:
        store.write(record)
    except AsyncDeliveryError:
        # Who started the run hears why it was refused; there is nobody else to tell.
        return False
    return True
