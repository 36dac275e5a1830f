"""Cleanups put together: the server's own on its schedule, and what commands do about them on a store file."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from async_delivery import telemetry
from async_delivery.domain.cleanup import (
    CleanupDoneError,
    CleanupPausedError,
    CleanupRun,
    Pause,
    Runner,
)
from async_delivery.domain.errors import AsyncDeliveryError, StoreBusyError
from async_delivery.domain.retention import ExitCode, RetentionReport
from async_delivery.engine import cleanups
from async_delivery.engine.retention import Stop, run_cleanup
from async_delivery.engine.runtime import Runtime, SystemClock
from async_delivery.ops.artefacts import write_json
from async_delivery.settings import Schedule, Settings
from async_delivery.storage.contract import Store
from async_delivery.wiring.stores import open_for_cleanup
from async_delivery.worker.chores import Chore

# However old they are, so that there is something to compare with after a long pause.
KEPT_REPORTS = 10
# Only these: what people keep in the folder is theirs.
_STEM = "retention-scheduled-"
_OWN = re.compile(rf"{_STEM}[0-9]{{8}}T[0-9]{{6}}Z(-[0-9]+)?\.json")
_RUNS_LOOKED_AT = 100
# A run begins somewhat later than it was due, by as much as its thread slept too long.
_LATE_SECONDS = 2.0
_LATE_SHARE = 0.1


def cleanup_chore(
    settings: Settings, store: Store, stopping: Stop, leads_by: Callable[[], float | None] = lambda: None
) -> Chore:
    """Clean up on the schedule of the settings, which is not off; ``stopping`` ends a run between batches.

    leads_by   seconds that the clock has been put forward by; then nothing is deleted. See ``engine.clockwatch``

    Of several servers on one store one cleans up at each time, whichever comes first; the others see that it was done.
    """
    schedule = settings.cleanup_schedule
    policy = settings.retention

    def run_once(rt: Runtime, now: datetime) -> RetentionReport | None:
        if (lead := leads_by()) is not None:
            why = f"the clock was put forward by {lead:.0f} s; nothing is deleted until it is back, or has stood a day"
            telemetry.emit("cleanup.skipped", reason="clock", why=why)
            return None
        try:
            report = run_cleanup(
                rt.store,
                policy,
                runner=Runner.SERVER,
                now=now,
                store_file=str(settings.store_file),
                stop=stopping,
                clock=rt.clock,
                done=lambda: _is_done(rt.store, schedule, rt.clock.now()),
            )
        except CleanupPausedError as exc:
            telemetry.emit("cleanup.skipped", reason="paused", why=exc.pause.why, by=exc.pause.by)
            return None
        except CleanupDoneError:
            telemetry.emit("cleanup.skipped", reason="done")
            return None
        except StoreBusyError:
            # Somebody cleans up by hand at this moment, or another server does.
            telemetry.emit("cleanup.skipped", reason="busy")
            return None
        keep_report(settings.artifacts_dir, report, settings.artifacts_ttl_seconds)
        return report

    if schedule.interval_seconds is None:
        return Chore("cleanup", None, run_once, next_after=schedule.next_after)
    return Chore("cleanup", schedule.interval_seconds, run_once, last_at=_last_run(store))


def _runs_of_servers(store: Store) -> list[CleanupRun]:
    runs = store.read(lambda reader: reader.cleanup_runs(None, _RUNS_LOOKED_AT))
    return [run for run in runs if run.runner is Runner.SERVER]


def _last_run(store: Store) -> datetime | None:
    """When a server last cleaned up this store: one that is restarted often must not put it off again and again."""
    return max((run.finished_at for run in _runs_of_servers(store)), default=None)


def _is_done(store: Store, schedule: Schedule, now: datetime) -> bool:
    """True if no scheduled time has passed since a server last cleaned up, and got through."""
    done = [run.started_at for run in _runs_of_servers(store) if not run.exit_code]
    # One that lies ahead was noted by a clock that was wrong; it must not hold up the next.
    begun = max((at for at in done if at <= now), default=None)
    if begun is None:
        return False
    if schedule.interval_seconds is not None:
        begun -= timedelta(seconds=min(_LATE_SECONDS, _LATE_SHARE * schedule.interval_seconds))
    return schedule.next_after(begun) > now


def keep_report(folder: Path, report: RetentionReport, ttl_seconds: float) -> None:
    """Write the report to a file of its own, and let go of old ones, but for the last ten. Raises OSError."""
    write_json(folder, f"{_STEM}{report.started_at:%Y%m%dT%H%M%SZ}", report.to_json())
    limit = (report.started_at - timedelta(seconds=ttl_seconds)).strftime("%Y%m%dT%H%M%SZ")
    own = sorted(path.name for path in folder.iterdir() if _OWN.fullmatch(path.name))
    for name in own[:-KEPT_REPORTS]:
        if name.removeprefix(_STEM) < limit:
            (folder / name).unlink(missing_ok=True)


def note_refusal(store_file: Path, runner: Runner, why: str) -> None:
    """Leave word in the store of a cleanup that could not even begin, if the store can be written."""
    now = SystemClock().now()
    with suppress(AsyncDeliveryError), open_for_cleanup(store_file, dry_run=False) as store:
        cleanups.remember_refusal(store, runner, ExitCode.REFUSED, why, now, now)


def pause(store_file: Path, why: str, by: str) -> Pause:
    """Pause the cleanups of a store. Raises ValidationError, StoreFileError, UnavailableError."""
    now = SystemClock().now()
    Pause(now, why, by)  # what is wrong with the words is said before the store is asked for
    with open_for_cleanup(store_file, dry_run=False) as store:
        return cleanups.pause(store, why, by, now)


def resume(store_file: Path) -> Pause | None:
    """Lift the pause; returns it, or None if there was none. Raises StoreFileError, UnavailableError."""
    with open_for_cleanup(store_file, dry_run=False) as store:
        return cleanups.resume(store)
