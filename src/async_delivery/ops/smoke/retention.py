"""The checks that clean up: the dry run, the live run, its second run, and whether the numbers make sense.

Each cleanup leaves its own artefact, and the checks judge what is in that file, not what was returned.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.smoke import SECTIONS, implausible, report_fault
from async_delivery.ops.artefacts import read_artefact, write_json
from async_delivery.ops.checks import CheckFailed, CheckSkipped
from async_delivery.ops.probe import shown_url
from async_delivery.ops.smoke.plan import Plan, StoreAtHand


class Retention:
    """The store's side of a checklist. ``paths``: the artefacts by the check that made them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dry: dict[str, Any] | None = None
        self._live: dict[str, Any] | None = None
        self._at: datetime | None = None
        self.paths: dict[str, Path] = {}

    @property
    def began(self) -> bool:
        """True once a live run has left an artefact."""
        return "retention_live" in self.paths

    def dry_run(self, known_job: tuple[str, str] | None) -> str:
        """Count in a dry run what a cleanup would delete now.

        known_job   (org_id, job_id) that the server has shown: the store must hold it, or it is another one
        """
        store = self._store()
        if known_job and not store.has_job(*known_job):
            raise CheckFailed(
                f"{store.name} is not the store of {shown_url(self._plan.probe.base_url)}: job {known_job[1]} is not"
                " in it; name the server's own with --store-file"
            )
        self._dry = self._clean_up("retention_dry_run", store, dry_run=True)
        sure = "" if known_job else "; whether it is this server's store could not be compared"
        return f"{_counts(self._dry, 'would delete')} ({self.paths['retention_dry_run'].name}){sure}"

    def live(self) -> str:
        self._at = self._plan.clock.now()
        self._live = self._clean_up("retention_live", self._store(), dry_run=False)
        return f"{_counts(self._live, 'deleted')} ({self.paths['retention_live'].name})"

    def again(self) -> str:
        """The same cleanup a second time, counted from the same instant: what became old since is not its business."""
        second = self._clean_up("retention_idempotent", self._store(), dry_run=False)
        for name in SECTIONS:
            if deleted := second[name]["delete_count"]:
                raise CheckFailed(
                    f"the second run deleted {deleted} {name} that the first one should have; compare"
                    f" {self.paths['retention_live']} with {self.paths['retention_idempotent']}"
                )
        return f"the second run deleted 0 ({self.paths['retention_idempotent'].name})"

    def plausible(self) -> str:
        if self._dry is None or self._live is None:
            raise CheckFailed("the live cleanup left no whole artefact to compare with its dry run")
        if fault := implausible(self._dry, self._live):
            raise CheckFailed(
                f"{fault}; compare {self.paths['retention_dry_run']} with {self.paths['retention_live']},"
                " then TTLs and clocks"
            )
        skipped = sum(self._live[name]["skipped_missing_timestamp"] for name in SECTIONS)
        return f"{_counts(self._live, 'deleted')} as the dry run counted, skipped_missing_timestamp {skipped}"

    # ------------------------------------------------------------ one cleanup
    def _store(self) -> StoreAtHand:
        if self._plan.store is None:
            raise CheckSkipped("left out with --no-retention")
        return self._plan.store

    def _clean_up(self, check_id: str, store: StoreAtHand, *, dry_run: bool) -> dict[str, Any]:
        """One cleanup and its artefact, read back from its file."""
        try:
            report = store.clean_up(dry_run=dry_run, now=self._at)
        except AsyncDeliveryError as exc:
            raise CheckFailed(f"the cleanup was refused: {exc.message}") from exc
        kind = check_id.removeprefix("retention_").replace("_", "-")
        stem = f"retention-smoke-{self._plan.profile}-{kind}-{report.started_at:%Y%m%dT%H%M%SZ}"
        try:
            path = write_json(self._plan.artifacts_dir, stem, report.to_json())
        except OSError as exc:
            raise CheckFailed(f"its artefact cannot be written: {exc}") from exc
        self.paths[check_id] = path
        artefact = read_artefact(path)
        fault = artefact.fault or report_fault(artefact.body, dry_run=dry_run)
        if fault or artefact.body is None:
            raise CheckFailed(f"{path} {fault}")
        return dict(artefact.body)


def _counts(report: dict[str, Any], verb: str) -> str:
    parts = [
        f"{report[name]['delete_count']} {name} (kept {report[name]['kept_count']})" for name in SECTIONS
    ]
    return f"{verb} {', '.join(parts[:-1])} and {parts[-1]}"
