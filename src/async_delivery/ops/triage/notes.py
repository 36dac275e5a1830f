"""Where everybody who looks writes down what they saw."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from async_delivery.domain.instant import parse_instant
from async_delivery.domain.triage import ErrorClass, Fault, Finding, NextStep


class Notes:
    """Findings, facts by section, and what happened when.

    job_id, result_id   what was looked at
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.timeline: list[tuple[datetime, str]] = []
        self.job_id: str | None = None
        self.result_id: str | None = None

    def found(
        self, fault: Fault, error_class: ErrorClass, text: str, step: str, command: str | None = None
    ) -> None:
        """Something is not as it should be."""
        self.findings.append(Finding(fault, error_class, " ".join(text.split()), NextStep(step, command)))

    def fact(self, section: str, name: str, value: Any) -> None:
        """Something was seen."""
        self.facts.setdefault(section, {})[name] = value

    def happened(self, at: datetime | str | None, what: str) -> None:
        """Something happened; an instant that cannot be read is left out."""
        if isinstance(at, str):
            try:
                at = parse_instant(at)
            except ValueError:
                return
        if at is not None:
            self.timeline.append((at, " ".join(what.split())))

    def paused(self, since: str, by: str, why: str) -> None:
        """Cleanups are paused; told by the server and by the store, in the same words."""
        self.fact("store", "cleanup_paused", f"since {since} by {by}: {why}")
        self.found(
            Fault.CLEANUP_PAUSED,
            ErrorClass.RETENTION,
            f"cleanup is paused since {since} by {by}: {why}",
            "resume it once that is settled",
            "async-delivery cleanup resume",
        )

    def not_paused(self) -> None:
        """The store knows of no pause: what the server said of one is some seconds old."""
        self.facts.get("store", {}).pop("cleanup_paused", None)
        self.findings = [each for each in self.findings if each.fault is not Fault.CLEANUP_PAUSED]
