"""The store file and its database, looked at without changing a byte."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from async_delivery.domain.cleanup import CleanupRun, Pause
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.instant import format_instant
from async_delivery.domain.retention import ExitCode
from async_delivery.domain.signal import WITHOUT_IN_APP
from async_delivery.domain.triage import ErrorClass, Fault
from async_delivery.ops.triage.notes import Notes
from async_delivery.storage.ballast import ballast_path
from async_delivery.storage.contract import Reader, Stock, Store, StoreFacts
from async_delivery.storage.schema import HEAD
from async_delivery.storage.sqlite_files import size_of
from async_delivery.storage.storefile import KIND, StoreFile, read_store_file

T = TypeVar("T")

_MEBIBYTE = 1024 * 1024
FREE_BYTES_WARNING = 256 * _MEBIBYTE
# The log is cut back to 64 MiB after a checkpoint; four times that means checkpoints do not get through.
WAL_BYTES_WARNING = 256 * _MEBIBYTE
QUEUE_SECONDS_WARNING = 900
_RUNS = 5
_BREACHES, _BREACHES_SHOWN = 1000, 5


class Look(Protocol):
    """Asks the store that a store file names, without changing a byte of it."""

    def __call__(self, store_file: Path, question: Callable[[Store], T], /) -> tuple[StoreFile, T]:
        """What the file says, and the answer. Raises AsyncDeliveryError."""


@dataclass(frozen=True, slots=True)
class _Seen:
    facts: StoreFacts
    stock: Stock
    runs: list[CleanupRun]
    succeeded_at: datetime | None
    pause: Pause | None


def look_at_store(
    look: Look, store_file: Path, notes: Notes, *, now: datetime, expected: bool, deep: bool
) -> None:
    """Look at all of it, as far as it can be opened.

    expected   False: nobody named the file, so that it is not here means nothing
    deep       verify every invariant as well
    """
    notes.fact("store", "store_file", str(store_file))
    if not expected and not os.path.lexists(store_file):
        notes.fact("store", "looked_at", "no: it is not here; name the server's with --store-file")
        return
    if not os.path.lexists(store_file):
        notes.fact("store", "looked_at", "no: it is not here")
        notes.found(
            Fault.STORE_UNUSABLE,
            ErrorClass.RETENTION,
            f"there is no store file {store_file}",
            "name the server's own with --store-file; if it was that one, put it back from a backup and do not make"
            " a new one",
        )
        return
    try:
        file = read_store_file(store_file)
        notes.fact("store", "kind", KIND)
        notes.happened(file.created_at, f"store {file.store_id} made")
        notes.fact("store", "store_id", file.store_id)
        notes.fact("store", "database", file.database)
        _disk(file.database_path if file.is_sqlite else store_file, notes, sqlite=file.is_sqlite)
        _, seen = look(store_file, lambda store: store.read(lambda reader: _see(reader, now)))
        _tell(seen, notes, now)
        if deep:
            _verify(look, store_file, notes)
    except AsyncDeliveryError as exc:
        notes.fact("store", "looked_at", f"cannot be used: {exc.message}")
        notes.found(
            Fault.STORE_UNUSABLE,
            ErrorClass.RETENTION,
            f"the store cannot be used: {exc.message}",
            "do what the line above says, and see what the last deployment or copy did to the store's folder",
            f"async-delivery store info --store-file {shlex.quote(str(store_file))}",
        )


def _see(reader: Reader, now: datetime) -> _Seen:
    ended_before = now - timedelta(seconds=WITHOUT_IN_APP.window_seconds or 0)
    return _Seen(
        reader.facts(),
        reader.stock(now, ended_before),
        reader.cleanup_runs(None, _RUNS),
        reader.last_cleanup_success_at(),
        reader.cleanup_pause(),
    )


def _disk(path: Path, notes: Notes, *, sqlite: bool) -> None:
    try:
        found = os.statvfs(path.parent)
    except OSError as exc:
        notes.fact("store", "disk_free_bytes", f"unknown: {exc.strerror}")
        return
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    notes.fact("store", "disk_free_bytes", free)
    notes.fact("store", "disk_total_bytes", total)
    if sqlite:
        notes.fact("store", "disk_reserve_bytes", size_of(ballast_path(path)))
    if free < FREE_BYTES_WARNING:
        notes.found(
            Fault.DISK_NEARLY_FULL,
            ErrorClass.NONE,
            f"only {free // _MEBIBYTE} MiB are free where the database is: writes will be refused",
            "run a cleanup, which works on a full disk too; then free space there, or move the store to a larger disk",
            f"df -h {shlex.quote(str(path.parent))}",
        )


def _tell(seen: _Seen, notes: Notes, now: datetime) -> None:
    stock = seen.stock
    figures: dict[str, Any] = {
        "schema_revision": f"{seen.facts.schema_revision} (this program has {HEAD})",
        "last_migration": seen.facts.schema_revision,
        "created_at": _instant(seen.facts.created_at),
        "bytes": stock.store_bytes,
        "wal_bytes": stock.wal_bytes,
        "jobs": _by_status(stock),
        "oldest_queued_at": _instant(stock.oldest_queued_at),
        "terminal_without_in_app": stock.terminal_without_in_app,
        "last_cleanup_success_at": _instant(seen.succeeded_at),
        "last_cleanups": [
            f"{format_instant(run.finished_at)} {run.runner}: exit {run.exit_code}, results {run.results_deleted},"
            f" events {run.events_deleted}"
            for run in seen.runs
        ],
    }
    for name, value in figures.items():
        notes.fact("store", name, value)
    _queue(stock, notes, now)
    _notifications(stock, notes)
    _cleanups(seen, notes)
    if stock.wal_bytes > WAL_BYTES_WARNING:
        notes.found(
            Fault.WAL_LARGE,
            ErrorClass.NONE,
            f"the write-ahead log has {stock.wal_bytes // _MEBIBYTE} MiB: something reads for so long that it is not"
            " worked in",
            "find the process that keeps the database open, such as a copy or a shell",
            "ls -l /proc/*/fd 2>/dev/null | grep -- -wal",
        )


def _by_status(stock: Stock) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (status, _), count in stock.jobs.items():
        counts[status.value] = counts.get(status.value, 0) + count
    return counts


def _queue(stock: Stock, notes: Notes, now: datetime) -> None:
    if stock.oldest_queued_at is None:
        return
    notes.happened(stock.oldest_queued_at, "the oldest job that still waits was queued")
    waited = (now - stock.oldest_queued_at).total_seconds()
    if waited > QUEUE_SECONDS_WARNING:
        notes.found(
            Fault.QUEUE_STUCK,
            ErrorClass.NONE,
            f"the oldest queued job has waited for {waited / 60:.0f} minutes",
            "see whether workers run and what they are busy with; start more of them if all are busy",
            "async-delivery jobs --status running",
        )


def _notifications(stock: Stock, notes: Notes) -> None:
    if stock.terminal_without_in_app:
        notes.found(
            Fault.NOTIFICATION_MISSING,
            ErrorClass.NOTIFICATION_READ,
            f"{stock.terminal_without_in_app} ended jobs have no in_app notification",
            f"{WITHOUT_IN_APP.hint} The store says which jobs they are.",
            "async-delivery store check",
        )


def _cleanups(seen: _Seen, notes: Notes) -> None:
    for run in seen.runs:
        notes.happened(run.finished_at, f"cleanup by {run.runner} ended with exit code {run.exit_code}")
    pause = seen.pause
    if pause is None:
        notes.not_paused()
    else:
        notes.paused(format_instant(pause.paused_at), pause.by, pause.why)
        notes.happened(pause.paused_at, f"cleanup paused by {pause.by}: {pause.why}")
    last = seen.runs[0] if seen.runs else None
    if last is None or not last.exit_code:
        return
    refused_by = last.report.get("paused")
    if pause and last.exit_code == ExitCode.BUSY:
        # Refused because of the pause is not another fault.
        return
    if refused_by:
        notes.found(
            Fault.CLEANUP_REFUSED,
            ErrorClass.RETENTION,
            f"the last cleanup, by {last.runner} at {format_instant(last.finished_at)}, was refused by a pause that"
            f" {refused_by['by']} had put on ({refused_by['why']}) and that is lifted",
            "run it now, or wait for the next one",
            "async-delivery cleanup",
        )
        return
    said = last.report.get("errors") or []
    why = f": {'; '.join(map(str, said))}" if said else ""
    notes.found(
        Fault.CLEANUP_FAILED,
        ErrorClass.RETENTION,
        f"the last cleanup, by {last.runner} at {format_instant(last.finished_at)}, ended with exit code"
        f" {last.exit_code}{why}",
        "mend what it names, then count what a run would do now",
        "async-delivery cleanup --dry-run",
    )


def _verify(look: Look, store_file: Path, notes: Notes) -> None:
    _, breaches = look(store_file, lambda store: store.read(lambda reader: reader.violations(_BREACHES)))
    notes.fact("store", "violations", len(breaches))
    if breaches:
        shown = "; ".join(breaches[:_BREACHES_SHOWN])
        more = f" and {len(breaches) - _BREACHES_SHOWN} more" if len(breaches) > _BREACHES_SHOWN else ""
        notes.found(
            Fault.STORE_DAMAGED,
            ErrorClass.NONE,
            f"the store breaks its own rules: {shown}{more}",
            "copy the store's folder away as it is, then see all of them; a damaged file is restored from a backup",
            f"async-delivery store check --store-file {shlex.quote(str(store_file))}",
        )


def _instant(at: datetime | None) -> str | None:
    return None if at is None else format_instant(at)
