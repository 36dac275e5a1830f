"""Smoke runs put together: the server that is asked, the store file that is cleaned up, the checklist over both."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from async_delivery.domain.cleanup import Runner
from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.job import JobId
from async_delivery.domain.retention import RetentionReport
from async_delivery.domain.smoke import Profile
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.retention import run_cleanup
from async_delivery.ops.checks import Check
from async_delivery.ops.probe import Probe
from async_delivery.ops.smoke import Plan, SmokeReport, run_smoke
from async_delivery.settings import Settings
from async_delivery.wiring.stores import look, open_for_cleanup

# One answer; the job as a whole has the patience of --timeout.
_ANSWER_SECONDS = 15.0


class StoreFileAtHand:
    """See ``ops.smoke.StoreAtHand``. Each question opens the store anew, as the cleanup script does."""

    def __init__(self, settings: Settings) -> None:
        self.name = str(settings.store_file)
        self._store_file = settings.store_file
        self._policy = settings.retention

    def has_job(self, org_id: str, job_id: str) -> bool:
        self._must_be_here()
        _, found = look(
            self._store_file,
            lambda store: store.read(lambda reader: reader.find_job(OrgId(org_id), JobId(job_id))),
        )
        return found is not None

    def clean_up(self, *, dry_run: bool, now: datetime | None) -> RetentionReport:
        self._must_be_here()
        with open_for_cleanup(self._store_file, dry_run=dry_run) as store:
            return run_cleanup(
                store, self._policy, runner=Runner.COMMAND, dry_run=dry_run, now=now, store_file=self.name
            )

    def _must_be_here(self) -> None:
        """To make one, as is said elsewhere, would be no help: the server has its own."""
        if not os.path.lexists(self._store_file):
            raise StoreFileError(
                f"{self.name}: there is no store file; name the server's own with --store-file, or leave the cleanup"
                " out with --no-retention"
            )


def smoke(
    profile: Profile,
    settings: Settings,
    *,
    base_url: str,
    org_id: str | None,
    timeout_seconds: float,
    retention: bool,
    live_cleanup: bool = False,
    maintenance_window: bool = False,
    job_id: str | None = None,
    staging_artefact: Path | None = None,
    done: Callable[[Check], None],
) -> SmokeReport:
    """Carry out a checklist. ``retention`` False leaves out what works on the store file. Raises OSError."""
    headers = [("X-Org-Id", org_id)] if org_id else []
    with Probe(base_url, headers, timeout_seconds=_ANSWER_SECONDS) as probe:
        plan = Plan(
            profile=profile,
            probe=probe,
            org_id=org_id,
            store=StoreFileAtHand(settings) if retention else None,
            results_ttl_seconds=settings.results_ttl_seconds,
            events_ttl_seconds=settings.events_ttl_seconds,
            jobs_ttl_seconds=settings.jobs_ttl_seconds,
            artifacts_dir=settings.artifacts_dir,
            timeout_seconds=timeout_seconds,
            live_cleanup=live_cleanup,
            maintenance_window=maintenance_window,
            job_id=job_id,
            staging_artefact=staging_artefact,
        )
        return run_smoke(plan, done)
