"""One triage from the first question to the report. What is asked is in the modules beside."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from async_delivery import __version__
from async_delivery.domain.instant import format_instant
from async_delivery.domain.triage import (
    ErrorClass,
    Finding,
    NextStep,
    next_step,
    ordered,
    settle,
)
from async_delivery.engine.runtime import Clock, SystemClock
from async_delivery.ops.probe import Probe, shown_url
from async_delivery.ops.triage.compare import Comparison, compare_artefacts
from async_delivery.ops.triage.notes import Notes
from async_delivery.ops.triage.server import ask_server
from async_delivery.ops.triage.store import Look, look_at_store
from async_delivery.ops.triage.tenant import check_headers
from async_delivery.settings import DEFAULTS

_ON_A_SERVER = frozenset({"doctor", "jobs", "signals", "smoke", "triage"})
_ON_A_STORE = frozenset({"cleanup", "doctor", "serve", "smoke", "store", "triage"})
_USUAL_URL = f"http://{DEFAULTS.host}:{DEFAULTS.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is to be looked at.

    probe               makes a probe that sends these headers
    org, alias          X-Org-Id and X-Tenant-Id as the one in trouble sends them; None: not sent
    job_id, result_id   what is in trouble; the tenant's newest job where both are None
    store_file          the store of this machine
    store_expected      somebody named it: then it should be there
    deep                verify every invariant of the store as well
    """

    base_url: str
    probe: Callable[[list[tuple[str, str]]], Probe]
    org: str | None
    alias: str | None
    job_id: str | None
    result_id: str | None
    store_file: Path
    store_expected: bool
    look: Look
    artifacts_dir: Path
    deep: bool = False
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class TriageReport:
    """What was found.

    findings      causes first
    facts         what was seen, by where it was seen, also where nothing is wrong
    comparisons   the last good and the last bad artefact by kind
    timeline      (instant, what happened), oldest first
    """

    at: datetime
    target: dict[str, Any]
    findings: list[Finding]
    facts: dict[str, dict[str, Any]]
    comparisons: list[Comparison]
    timeline: list[tuple[datetime, str]]

    @property
    def error_class(self) -> ErrorClass:
        """What is broken."""
        return settle(self.findings)

    @property
    def next_step(self) -> NextStep:
        """What to do first."""
        return next_step(self.findings)

    def to_json(self) -> dict[str, Any]:
        """As output and findings.json show it."""
        return {
            "kind": "async-delivery-triage",
            "at": format_instant(self.at),
            "version": __version__,
            "ok": not self.findings,
            "error_class": self.error_class.value,
            "target": self.target,
            "findings": [finding.to_json() for finding in self.findings],
            "facts": self.facts,
            "artefacts": [comparison.to_json() for comparison in self.comparisons],
            "timeline": [{"at": format_instant(at), "what": what} for at, what in self.timeline],
            "next_step": self.next_step.to_json(),
        }


def examine(case: Case) -> TriageReport:
    """Look at headers, server, artefacts and store. Nothing is changed."""
    at = case.clock.now()
    notes = Notes()
    tenant = check_headers(case.org, case.alias, notes)
    with case.probe(tenant.headers) as probe:
        ask_server(probe, tenant, case.job_id, case.result_id, notes)
    comparisons = compare_artefacts(case.artifacts_dir, notes)
    look_at_store(case.look, case.store_file, notes, now=at, expected=case.store_expected, deep=case.deep)
    notes.happened(at, "triage looked")
    return TriageReport(
        at,
        {
            "base_url": shown_url(case.base_url),
            "x_org_id": case.org,
            "x_tenant_id": case.alias,
            "job_id": notes.job_id or case.job_id,
            "result_id": notes.result_id or case.result_id,
            "store_file": str(case.store_file),
            "artifacts_dir": str(case.artifacts_dir),
        },
        ordered(_located(notes.findings, case)),
        notes.facts,
        comparisons,
        sorted(notes.timeline, key=lambda entry: entry[0]),
    )


def _located(findings: Iterable[Finding], case: Case) -> Iterable[Finding]:
    """Each command as it can be typed here: for the server and the store that were looked at."""
    for finding in findings:
        step = finding.next_step
        if step.command == "async-delivery serve" and not case.store_file.exists():
            # Not the machine of the server: what would start here is another one.
            step = NextStep(step.text)
        if step.command is not None:
            step = NextStep(step.text, _typed(step.command, case))
        yield Finding(finding.fault, finding.error_class, finding.text, step)


def _typed(command: str, case: Case) -> str:
    """``command`` with the options that are not what it would take by itself."""
    words = command.split()
    verb = words[1] if words[0] == "async-delivery" and len(words) > 1 else ""
    options = []
    if verb in _ON_A_SERVER and case.base_url.rstrip("/") != _USUAL_URL:
        options.append(("--base-url", shown_url(case.base_url)))
    if verb == "serve" and (port := urlsplit(case.base_url).port) not in (None, DEFAULTS.port):
        options.append(("--port", str(port)))
    if verb in _ON_A_STORE and case.store_file != DEFAULTS.store_file:
        options.append(("--store-file", str(case.store_file)))
    return " ".join(
        [command, *(f"{flag} {shlex.quote(value)}" for flag, value in options if flag not in words)]
    )
