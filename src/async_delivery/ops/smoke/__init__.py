"""The two smoke checklists of the runbook, carried out against a live server and its store.

Here is which check follows which and what the artefact holds; the checks themselves are in ``reads`` and ``retention``.
Imports ``domain`` and the rest of ``ops``; the store is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from async_delivery import __version__
from async_delivery.domain.instant import format_instant
from async_delivery.domain.smoke import SMOKE_KIND, STAGING_REQUIRED, Profile, staging_fault
from async_delivery.ops.artefacts import Artefact, read_artefact, read_artefacts, write_json
from async_delivery.ops.checks import Check, CheckFailed, Checklist, CheckSkipped
from async_delivery.ops.probe import shown_url
from async_delivery.ops.smoke.plan import Plan, StoreAtHand
from async_delivery.ops.smoke.reads import Reads
from async_delivery.ops.smoke.retention import Retention

__all__ = ["Plan", "SmokeReport", "StoreAtHand", "run_smoke"]

_READS = ("status_read", "result_read", "notifications_read")


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """What a checklist came to. ``path`` is its artefact, ``document`` what that holds."""

    checks: Sequence[Check]
    document: dict[str, Any] = field(repr=False)
    path: Path

    @property
    def ok(self) -> bool:
        """True if no check failed; a skipped one is no failure."""
        return not any(check.ok is False for check in self.checks)


def run_smoke(plan: Plan, done: Callable[[Check], None] = lambda _check: None) -> SmokeReport:
    """Carry out the plan's checklist and write its artefact, whatever came of it.

    done   hears of each check when it is over
    Raises OSError if the artefact cannot be written, KeyboardInterrupt having written that it was interrupted.
    """
    started_at, began = plan.clock.now(), perf_counter()
    checklist = Checklist(done)
    reads, retention = Reads(plan), Retention(plan)
    interrupted: KeyboardInterrupt | None = None
    try:
        if plan.profile is Profile.STAGING:
            _staging(plan, checklist, reads, retention)
        else:
            _prod(plan, checklist, reads, retention)
    except KeyboardInterrupt as exc:
        interrupted = exc
    finished_at = started_at + timedelta(seconds=perf_counter() - began)
    document = {
        "kind": SMOKE_KIND,
        "profile": plan.profile.value,
        "ok": not checklist.failed and interrupted is None,
        **({"interrupted": True} if interrupted else {}),
        "started_at": format_instant(started_at),
        "finished_at": format_instant(finished_at),
        "duration_seconds": round(perf_counter() - began, 3),
        "version": __version__,
        "server_version": reads.server_version,
        "base_url": shown_url(plan.probe.base_url),
        "org_id": plan.org_id,
        "job_id": reads.job_id,
        "result_id": reads.result_id,
        "store_file": plan.store.name if plan.store else None,
        "ttl_seconds": {
            "results": plan.results_ttl_seconds,
            "events": plan.events_ttl_seconds,
            "jobs": plan.jobs_ttl_seconds,
        },
        "retention_artefacts": {name: str(path) for name, path in retention.paths.items()},
        "checks": [check.to_json() for check in checklist.checks],
    }
    stem = f"smoke-{plan.profile}-{started_at:%Y%m%dT%H%M%SZ}"
    path = write_json(plan.artifacts_dir, stem, document)
    if interrupted is not None:
        raise interrupted
    return SmokeReport(tuple(checklist.checks), document, path)


def _staging(plan: Plan, checklist: Checklist, reads: Reads, retention: Retention) -> None:
    checklist.run("health", reads.health)
    checklist.run("job_terminal", reads.run_a_job, needs=["health"])
    checklist.run("job_result_id", reads.status, needs=["job_terminal"])
    checklist.run("permalink_latest", reads.permalink, needs=["job_result_id"])
    checklist.run("notification_in_app", reads.notification, needs=["job_terminal"])
    checklist.run("retention_dry_run", lambda: retention.dry_run(reads.known_job))
    if plan.live_cleanup:
        checklist.run("retention_live", retention.live, needs=STAGING_REQUIRED)
        checklist.run("retention_idempotent", retention.again, needs=["retention_live"])
    else:
        for check_id in ("retention_live", "retention_idempotent"):
            checklist.run(check_id, lambda: _skip("optional: --live-cleanup carries it out"))


def _prod(plan: Plan, checklist: Checklist, reads: Reads, retention: Retention) -> None:
    """Nothing but GET requests and a dry run until the window is released."""
    checklist.run("staging_green", lambda: _staging_green(plan))
    checklist.run("status_read", reads.current_job)
    checklist.run("result_read", reads.permalink, needs=["status_read"])
    checklist.run("notifications_read", reads.notification, needs=["status_read"])
    checklist.run("retention_dry_run", lambda: retention.dry_run(reads.known_job))
    checklist.run("maintenance_window", lambda: _window(plan))
    before = ["maintenance_window", "staging_green", *_READS, "retention_dry_run"]
    checklist.run("retention_live", retention.live, needs=before)
    # Also after a live run that stopped half-way: what it left behind is then the question.
    needs = [] if retention.began else ["retention_live"]
    checklist.run("health_after", reads.health, needs=needs)
    checklist.run("permalink_5xx_after", reads.permalink_5xx, needs=needs)
    checklist.run("artefact_plausible", retention.plausible, needs=needs)


def _skip(why: str) -> str:
    raise CheckSkipped(why)


def _window(plan: Plan) -> str:
    if not plan.maintenance_window:
        raise CheckSkipped(
            "no live cleanup without --maintenance-window: what follows is carried out in a released window only"
        )
    return f"released with --maintenance-window, TTLs {plan.results_ttl_seconds} s and {plan.events_ttl_seconds} s"


def _staging_green(plan: Plan) -> str:
    todo = "run `async-delivery smoke staging` there, and name its artefact with --staging-artefact"
    artefact = _staging_artefact(plan, todo)
    fault = artefact.fault or staging_fault(artefact.body, plan.clock.now())
    if fault:
        raise CheckFailed(f"{artefact.path} {fault}; {todo}")
    return f"{artefact.path} is green, ended {format_instant(artefact.at)}"


def _staging_artefact(plan: Plan, todo: str) -> Artefact:
    if plan.staging_artefact is None:
        # The newest one counts: a green run before a red one says nothing any more.
        found = read_artefacts(plan.artifacts_dir, "smoke-staging-*.json")
        if not found:
            raise CheckFailed(f"there is no smoke-staging-*.json in {plan.artifacts_dir}; {todo}")
        return found[-1]
    try:
        return read_artefact(plan.staging_artefact)
    except OSError as exc:
        raise CheckFailed(f"{plan.staging_artefact}: cannot be read ({exc.strerror}); {todo}") from exc
