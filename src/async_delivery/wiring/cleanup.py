"""The cleanup that a server runs by itself: the script's function as a chore, with its report in a file."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from async_delivery.domain.errors import StoreBusyError
from async_delivery.domain.retention import RetentionReport
from async_delivery.engine.retention import Stop, cleanup_retention
from async_delivery.engine.runtime import Runtime
from async_delivery.settings import Settings
from async_delivery.worker.chores import Chore

# Enough for a month at the default interval.
KEPT_REPORTS = 750


def cleanup_chore(settings: Settings, interval_seconds: float, stopping: Stop) -> Chore:
    """Clean up every ``interval_seconds`` by the TTLs of the settings; ``stopping`` ends a run between batches."""

    def run_once(rt: Runtime, now: datetime) -> RetentionReport | None:
        try:
            report = cleanup_retention(
                rt.store,
                results_ttl_seconds=settings.results_ttl_seconds,
                events_ttl_seconds=settings.events_ttl_seconds,
                now=now,
                store_file=str(settings.store_file),
                stop=stopping,
            )
        except StoreBusyError:
            # Somebody cleans up by hand at this moment.
            return None
        keep_report(settings.artifacts_dir, report)
        return report

    return Chore("cleanup", interval_seconds, run_once)


def keep_report(folder: Path, report: RetentionReport) -> None:
    """Write the report to a file of its own, and let go of the oldest. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"retention-scheduled-{report.now:%Y%m%dT%H%M%S}.json"
    part = folder / f".{name}.part"
    part.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    part.replace(folder / name)
    for old in sorted(folder.glob("retention-scheduled-*.json"))[:-KEPT_REPORTS]:
        old.unlink(missing_ok=True)
