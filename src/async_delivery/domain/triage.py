"""Incident triage: what can be found, which error class it is, and what to do next. Decisions only.

What is looked at, and how, is in ``ops.triage``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from async_delivery.domain.smoke import SMOKE_KIND


class ErrorClass(StrEnum):
    """What is broken for tenants and operators. ``none``: none of the three, though something may be found."""

    RESULT_READ = "result_read"
    NOTIFICATION_READ = "notification_read"
    RETENTION = "retention"
    NONE = "none"


class Fault(StrEnum):
    """What triage can find, causes before what follows from them: the first one found decides the next step."""

    TENANT_HEADERS = "tenant_headers"
    SERVER_UNREACHABLE = "server_unreachable"
    STORE_UNUSABLE = "store_unusable"
    DISK_NEARLY_FULL = "disk_nearly_full"
    STORE_DAMAGED = "store_damaged"
    OTHER_SPELLING = "other_spelling"
    RESULT_READ_FAILS = "result_read_fails"
    NOTIFICATION_READ_FAILS = "notification_read_fails"
    NOTIFICATION_MISSING = "notification_missing"
    RESULT_EXPIRED = "result_expired"
    RESULT_NOT_FOUND = "result_not_found"
    RESULT_SLOW = "result_slow"
    NOT_READY = "not_ready"
    QUEUE_STUCK = "queue_stuck"
    CLEANUP_FAILED = "cleanup_failed"
    CLEANUP_REFUSED = "cleanup_refused"
    ARTEFACT_BAD = "artefact_bad"
    ROWS_WITHOUT_TIMESTAMP = "rows_without_timestamp"
    WAL_LARGE = "wal_large"
    CLEANUP_PAUSED = "cleanup_paused"
    # What a signal tells is a symptom, and its hint a beginning: whatever else was found says more.
    SIGNAL = "signal"


_ORDER = tuple(Fault)
_READS_FAIL = frozenset({Fault.SERVER_UNREACHABLE, Fault.RESULT_READ_FAILS, Fault.NOTIFICATION_READ_FAILS})


@dataclass(frozen=True, slots=True)
class NextStep:
    """One concrete thing to do; ``command`` where one helps."""

    text: str
    command: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As output and reports show it."""
        return {"text": self.text, "command": self.command}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, what it means for the error class, and what to do about it."""

    fault: Fault
    error_class: ErrorClass
    text: str
    next_step: NextStep

    def to_json(self) -> dict[str, Any]:
        """As output and reports show it."""
        return {
            "fault": self.fault.value,
            "error_class": self.error_class.value,
            "text": self.text,
            "next_step": self.next_step.to_json(),
        }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Causes first; otherwise in the order they were found. Each text once."""
    unique: dict[str, Finding] = {}
    for finding in findings:
        unique.setdefault(finding.text, finding)
    return sorted(unique.values(), key=lambda finding: _ORDER.index(finding.fault))


def settle(findings: Sequence[Finding]) -> ErrorClass:
    """The class of the first finding, in their order, that has one.

    A store that cannot be used stops the cleanup at least; where reads fail as well, they are the incident.
    """
    if any(each.fault is Fault.STORE_UNUSABLE for each in findings):
        findings = [each for each in findings if each.fault in _READS_FAIL] or findings
    return next(
        (each.error_class for each in findings if each.error_class is not ErrorClass.NONE), ErrorClass.NONE
    )


def next_step(findings: Sequence[Finding]) -> NextStep:
    """What to do first."""
    if findings:
        return findings[0].next_step
    return NextStep("nothing was found; if something is reported, triage it by its --result or --job")


# ---------------------------------------------------------------- artefacts
_SECTIONS = ("results", "events", "jobs")
# Reports of older versions say nothing of jobs.
_REQUIRED_SECTIONS = ("results", "events")
_COUNTS = ("total", "delete_count", "kept_count", "skipped_missing_timestamp", "held_count", "bytes")
# A run that takes so much longer than the last good one, and not just a blink, is worth a line.
_SLOWER_FACTOR, _SLOWER_SECONDS = 3.0, 1.0


class ArtefactKind(StrEnum):
    """What is compared with what."""

    RETENTION_LIVE = "retention_live"
    RETENTION_DRY_RUN = "retention_dry_run"
    SMOKE_STAGING = "smoke_staging"
    SMOKE_PROD = "smoke_prod"


def kind_of(name: str, body: Mapping[str, Any] | None) -> ArtefactKind | None:
    """What kind of artefact a file is, by what it holds, or where that cannot be read by its name; None: neither."""
    if name.startswith("smoke-"):
        profile = body.get("profile") if body is not None else name.split("-")[1]
        if body is not None and body.get("kind") != SMOKE_KIND:
            return None
        return {"staging": ArtefactKind.SMOKE_STAGING, "prod": ArtefactKind.SMOKE_PROD}.get(str(profile))
    if not name.startswith("retention-"):
        return None
    dry_run = body.get("dry_run") if body is not None else "dry-run" in name
    return ArtefactKind.RETENTION_DRY_RUN if dry_run else ArtefactKind.RETENTION_LIVE


def badness(kind: ArtefactKind, body: Mapping[str, Any]) -> str | None:
    """Why what an artefact reports is bad; None if it is good."""
    if kind in (ArtefactKind.SMOKE_STAGING, ArtefactKind.SMOKE_PROD):
        failed = [each for each in _checks(body) if each.get("ok") is False]
        if failed:
            names = ", ".join(str(each.get("id")) for each in failed)
            return f"failed: {names} ({failed[0].get('detail')})"
        return None if body.get("ok") is True else "is not green"
    if errors := body.get("errors"):
        return f"errors: {'; '.join(map(str, errors)) if isinstance(errors, list) else errors}"
    if exit_code := body.get("exit_code"):
        return f"exit code {exit_code}"
    missing = [name for name in _REQUIRED_SECTIONS if not isinstance(body.get(name), dict)]
    return f"lacks {', '.join(missing)}" if missing else None


_READS_RESULTS = frozenset(
    {"job_result_id", "permalink_latest", "status_read", "result_read", "permalink_5xx_after"}
)
_READS_NOTIFICATIONS = frozenset({"notification_in_app", "notifications_read"})


def class_of(kind: ArtefactKind, body: Mapping[str, Any] | None) -> ErrorClass:
    """The error class that a bad artefact speaks of."""
    if kind in (ArtefactKind.RETENTION_LIVE, ArtefactKind.RETENTION_DRY_RUN):
        return ErrorClass.RETENTION
    for check in _checks(body or {}):
        if check.get("ok") is not False:
            continue
        check_id = str(check.get("id"))
        if check_id in _READS_RESULTS:
            return ErrorClass.RESULT_READ
        if check_id in _READS_NOTIFICATIONS:
            return ErrorClass.NOTIFICATION_READ
        if check_id.startswith("retention_") or check_id == "artefact_plausible":
            return ErrorClass.RETENTION
    return ErrorClass.NONE


@dataclass(frozen=True, slots=True)
class Difference:
    """What one field is in the good and in the bad artefact."""

    name: str
    good: Any
    bad: Any

    def to_json(self) -> dict[str, Any]:
        """As output and reports show it."""
        return {"field": self.name, "good": self.good, "bad": self.bad}


def differences(
    kind: ArtefactKind, good: Mapping[str, Any] | None, bad: Mapping[str, Any] | None
) -> list[Difference]:
    """What differs between the last good and the last bad artefact of one kind, as far as it can explain anything."""
    if good is None or bad is None:
        return []
    names = ["store_file", "version", "server_version", "base_url", "org_id"]
    names += [f"ttl_seconds.{name}" for name in _SECTIONS if _both_say(good, bad, "ttl_seconds", name)]
    if kind in (ArtefactKind.RETENTION_LIVE, ArtefactKind.RETENTION_DRY_RUN):
        names += ["terminal_job_count", "active_job_count", "exit_code"]
        told = [name for name in _SECTIONS if name in _REQUIRED_SECTIONS or (name in good and name in bad)]
        names += [f"{section}.{count}" for section in told for count in _COUNTS]
    found = [Difference(name, _at(good, name), _at(bad, name)) for name in names]
    found += _check_differences(good, bad)
    found.append(_slower(good, bad))
    found.append(Difference("errors", good.get("errors") or [], bad.get("errors") or []))
    return [each for each in found if each.good != each.bad]


def _both_say(good: Mapping[str, Any], bad: Mapping[str, Any], place: str, name: str) -> bool:
    """False for what only one of two versions of the program tells."""
    return name in _REQUIRED_SECTIONS or all(name in (body.get(place) or {}) for body in (good, bad))


def _check_differences(good: Mapping[str, Any], bad: Mapping[str, Any]) -> list[Difference]:
    before, after = ({each.get("id"): each for each in _checks(body)} for body in (good, bad))
    return [
        Difference(f"checks.{check_id}", _told(before.get(check_id)), _told(check))
        for check_id, check in after.items()
        if check.get("ok") is False
    ]


def _checks(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    checks = body.get("checks")
    return [each for each in checks if isinstance(each, dict)] if isinstance(checks, list) else []


def _told(check: Mapping[str, Any] | None) -> str | None:
    return None if check is None else f"{check.get('outcome')}: {check.get('detail')}"


def _slower(good: Mapping[str, Any], bad: Mapping[str, Any]) -> Difference:
    before, after = good.get("duration_seconds"), bad.get("duration_seconds")
    numbers = isinstance(before, int | float) and isinstance(after, int | float)
    slower = numbers and after > _SLOWER_FACTOR * before and after - before > _SLOWER_SECONDS  # type: ignore[operator]
    return Difference("duration_seconds", before, after) if slower else Difference("duration_seconds", 0, 0)


def _at(body: Mapping[str, Any], name: str) -> Any:
    value: Any = body
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def skipped_rows(body: Mapping[str, Any] | None, like: Mapping[str, Any] | None = None) -> int:
    """Rows of all kinds that a cleanup kept because an instant is missing or not valid; of the kinds that ``like``
    tells of as well, to be compared with it."""
    sections = [name for name in _SECTIONS if like is None or name in _REQUIRED_SECTIONS or name in like]
    counts = [_at(body or {}, f"{section}.skipped_missing_timestamp") for section in sections]
    return sum(count for count in counts if isinstance(count, int))


# ---------------------------------------------------------------- tenants
_MOST_SPELLINGS = 8


def other_spellings(org_id: str) -> list[str]:
    """How else a person may have written a tenant's name; names are case-sensitive and compared byte by byte."""
    swapped = org_id.translate(str.maketrans("-_", "_-"))
    stripped = org_id.strip("._:-")
    tried = [
        org_id.lower(),
        org_id.upper(),
        org_id.title(),
        org_id.capitalize(),
        org_id.swapcase(),
        swapped,
        swapped.lower(),
        stripped,
    ]
    return [each for each in dict.fromkeys(tried) if each and each != org_id][:_MOST_SPELLINGS]
