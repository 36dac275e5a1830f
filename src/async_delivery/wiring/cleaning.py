"""One cleanup, as the command and the script ask for it: of a store, or of a document in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from async_delivery import telemetry
from async_delivery.domain.cleanup import Runner
from async_delivery.domain.errors import AsyncDeliveryError, StoreBusyError
from async_delivery.domain.retention import ExitCode, RetentionPolicy, RetentionReport, SectionCount
from async_delivery.engine.retention import Stop, report_of, run_cleanup
from async_delivery.engine.runtime import SystemClock
from async_delivery.storage.contract import RetentionCount
from async_delivery.storage.storefile import is_document
from async_delivery.wiring.stores import open_for_cleanup


def clean_up(
    store_file: Path,
    policy: RetentionPolicy,
    *,
    runner: Runner,
    dry_run: bool,
    stop: Stop,
    force: bool,
) -> RetentionReport:
    """Clean up what ``store_file`` names or is. Raises StoreFileError, StoreBusyError, CleanupPausedError and
    UnavailableError, each before anything was deleted."""
    if is_document(store_file):
        return _clean_document(store_file, policy, runner, dry_run, stop)
    with open_for_cleanup(store_file, dry_run=dry_run) as store:
        return run_cleanup(
            store,
            policy,
            runner=runner,
            dry_run=dry_run,
            store_file=str(store_file),
            stop=stop,
            force=force,
        )


def _clean_document(
    store_file: Path, policy: RetentionPolicy, runner: Runner, dry_run: bool, stop: Stop
) -> RetentionReport:
    from async_delivery.storage import document_cleanup as documents
    from async_delivery.storage.conversion import only_one
    from async_delivery.storage.document import Document

    started_at = SystemClock().now()
    path = documents.real_path(store_file)

    def report(found: RetentionCount, errors: tuple[str, ...] = ()) -> RetentionReport:
        finished_at = SystemClock().now()
        return report_of(str(store_file), policy, dry_run, started_at, started_at, finished_at, found, errors)

    if dry_run:
        with Document(path) as document:
            return report(documents.DocumentCleanup(document, policy, started_at, lambda: False).count())
    try:
        with only_one(path), Document(path) as document:
            try:
                cleanup = documents.DocumentCleanup(document, policy, started_at, stop)
                cleanup.carry_out()
                done = report(cleanup.count())
            except documents.StoppedError:
                found = documents.DocumentCleanup(document, policy, started_at, lambda: False).count()
                done = report(_nothing_deleted(found), ("stopped on request before anything was deleted",))
    except AsyncDeliveryError as exc:
        code = ExitCode.BUSY if isinstance(exc, StoreBusyError) else ExitCode.REFUSED
        telemetry.emit("cleanup.refused", runner=runner, exit_code=int(code), error=exc.message)
        raise
    telemetry.emit("cleanup.finished", report=done, runner=runner)
    return done


def _nothing_deleted(found: RetentionCount) -> RetentionCount:
    def kept(section: SectionCount) -> SectionCount:
        return replace(section, delete_count=0, bytes=0)

    return replace(
        found,
        results=kept(found.results),
        events=kept(found.events),
        jobs=kept(found.jobs),
        per_tenant={},
    )
