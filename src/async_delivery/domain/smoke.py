"""The two smoke checklists: which checks there are, and the two judgements in them that need no server.

The ids are the ones of the runbook, of the output and of the artefacts. How a check is carried out is in ``ops.smoke``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from async_delivery.domain.instant import format_instant, parse_instant

SMOKE_KIND = "async-delivery-smoke"

STAGING = (
    "health",
    "job_terminal",
    "job_result_id",
    "permalink_latest",
    "notification_in_app",
    "retention_dry_run",
    "retention_live",
    "retention_idempotent",
)
# The live cleanup and its second run are optional on staging; the others make it green.
STAGING_REQUIRED = STAGING[:6]
PROD = (
    "staging_green",
    "status_read",
    "result_read",
    "notifications_read",
    "retention_dry_run",
    "maintenance_window",
    "retention_live",
    "health_after",
    "permalink_5xx_after",
    "artefact_plausible",
)

SECTIONS = ("results", "events", "jobs")
# Reports of older versions say nothing of jobs.
_REQUIRED_SECTIONS = ("results", "events")

STAGING_VALID_SECONDS = 86_400
# Two machines need not agree on the time to the second.
_CLOCK_SKEW_SECONDS = 300
# A live run may find a little more (time has passed) or less (another cleanup ran) than the dry run before it.
_PLAUSIBLE_ROWS, _PLAUSIBLE_SHARE = 20, 0.05


class Profile(StrEnum):
    """Which checklist."""

    STAGING = "staging"
    PROD = "prod"


def staging_fault(artefact: Any, now: datetime) -> str | None:
    """Why a parsed smoke artefact does not show a green staging of the last 24 hours; None if it does."""
    if not isinstance(artefact, dict) or artefact.get("kind") != SMOKE_KIND:
        return "is no smoke artefact"
    if artefact.get("profile") != Profile.STAGING:
        return f"is of smoke {artefact.get('profile')!s:.20}, not of smoke staging"
    try:
        finished_at = parse_instant(artefact["finished_at"])
        outcomes = {each["id"]: each["ok"] for each in artefact["checks"]}
    except (KeyError, TypeError, ValueError):
        return "is damaged"
    for check_id in STAGING_REQUIRED:
        if outcomes.get(check_id) is not True:
            how = "failed" if outcomes.get(check_id) is False else "was not run"
            return f"is not entirely green: {check_id} {how}"
    if artefact.get("ok") is not True:
        return "is not green"
    if finished_at > now + timedelta(seconds=_CLOCK_SKEW_SECONDS):
        return f"ended in the future ({format_instant(finished_at)}): compare the clocks of the machines"
    if finished_at < now - timedelta(seconds=STAGING_VALID_SECONDS):
        return f"is older than 24 hours ({format_instant(finished_at)})"
    return None


def report_fault(report: Any, *, dry_run: bool) -> str | None:
    """What is wrong with a cleanup's artefact by itself; None if it is whole and its numbers agree."""
    if not isinstance(report, dict):
        return "is no report of a cleanup"
    if errors := report.get("errors"):
        return f"has errors: {errors[0] if isinstance(errors, list) else errors}"
    if report.get("dry_run") is not dry_run:
        return f"says dry_run {report.get('dry_run')!s:.10}"
    if type(report.get("terminal_job_count")) is not int:
        return "has no terminal_job_count"
    for name in SECTIONS:
        section = report.get(name)
        if section is None and name not in _REQUIRED_SECTIONS:
            continue
        if not isinstance(section, dict):
            return f"has no section {name}"
        for count in ("total", "delete_count", "kept_count", "skipped_missing_timestamp"):
            if type(section.get(count)) is not int or section[count] < 0:
                return f"has no {name}.{count}"
        if section["delete_count"] + section["kept_count"] != section["total"]:
            return f"does not add up: {name}.delete_count and kept_count are not the total"
    return None


def implausible(dry: Mapping[str, Any], live: Mapping[str, Any]) -> str | None:
    """What a live cleanup's artefact has that the dry run right before it does not explain; None if nothing.

    Both are without a fault of their own (``report_fault``).
    """
    for name in SECTIONS:
        if name not in dry or name not in live:
            continue
        expected, deleted = dry[name]["delete_count"], live[name]["delete_count"]
        if abs(deleted - expected) > max(_PLAUSIBLE_ROWS, _PLAUSIBLE_SHARE * expected):
            return f"{name}: the dry run counted {expected} to delete, the live run deleted {deleted}"
        before, after = dry[name]["skipped_missing_timestamp"], live[name]["skipped_missing_timestamp"]
        if after not in (0, before):
            return f"{name}: skipped_missing_timestamp went from {before} to {after}"
    return None
