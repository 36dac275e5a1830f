"""The last good and the last bad artefact of each kind, and what differs between them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from async_delivery.domain.instant import format_instant
from async_delivery.domain.triage import (
    ArtefactKind,
    Difference,
    ErrorClass,
    Fault,
    badness,
    class_of,
    differences,
    kind_of,
    skipped_rows,
)
from async_delivery.ops.artefacts import Artefact, read_artefacts
from async_delivery.ops.triage.notes import Notes

_PATTERNS = ("retention-*.json", "smoke-*.json")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One kind of artefact.

    good, bad     the last of each; None if there is none
    why           why the bad one is bad
    differences   what is not the same in both
    """

    kind: ArtefactKind
    good: Artefact | None
    bad: Artefact | None
    why: str | None
    differences: Sequence[Difference]

    @property
    def is_open(self) -> bool:
        """True if the last one of all is bad."""
        return self.bad is not None and (self.good is None or self.bad.at >= self.good.at)

    def to_json(self) -> dict[str, Any]:
        """As output and reports show it."""
        return {
            "kind": self.kind.value,
            "last_good": _named(self.good),
            "last_bad": _named(self.bad),
            "why": self.why,
            "open": self.is_open,
            "differences": [each.to_json() for each in self.differences],
        }


def compare_artefacts(folder: Path, notes: Notes) -> list[Comparison]:
    """Compare what the folder has of each kind; a kind without any is left out."""
    by_kind: dict[ArtefactKind, list[Artefact]] = {}
    for pattern in _PATTERNS:
        for artefact in read_artefacts(folder, pattern):
            kind = kind_of(artefact.path.name, artefact.body)
            if kind is not None:
                by_kind.setdefault(kind, []).append(artefact)
    notes.fact("artefacts", "folder", str(folder))
    notes.fact("artefacts", "count", sum(map(len, by_kind.values())))
    found = [_compare(kind, by_kind[kind], notes) for kind in ArtefactKind if kind in by_kind]
    _look_for_undated_rows(by_kind, notes)
    return found


def _compare(kind: ArtefactKind, artefacts: Sequence[Artefact], notes: Notes) -> Comparison:
    judged = [(each, _why_bad(kind, each)) for each in artefacts]
    good = next((each for each, why in reversed(judged) if why is None), None)
    bad, why = next(((each, why) for each, why in reversed(judged) if why is not None), (None, None))
    comparison = Comparison(
        kind, good, bad, why, differences(kind, good.body if good else None, bad.body if bad else None)
    )
    for artefact, words in ((good, "last good"), (bad, "last bad")):
        if artefact is not None:
            notes.happened(artefact.at, f"{words} {kind}: {artefact.path.name}")
    if comparison.is_open and bad is not None:
        error_class = class_of(kind, bad.body)
        step, command = _step(kind, bad, error_class)
        since = f"; the last good one is {good.path.name}" if good else "; there is no good one"
        notes.found(Fault.ARTEFACT_BAD, error_class, f"{bad.path}: {why}{since}", step, command)
    return comparison


def _why_bad(kind: ArtefactKind, artefact: Artefact) -> str | None:
    if artefact.fault is not None or artefact.body is None:
        return artefact.fault
    return badness(kind, artefact.body)


def _step(kind: ArtefactKind, bad: Artefact, error_class: ErrorClass) -> tuple[str, str]:
    match kind:
        case ArtefactKind.RETENTION_LIVE:
            why = shlex.quote(f"errors in {bad.path.name}")
            return (
                f"pause the cleanup until the errors in {bad.path} are understood",
                f"async-delivery cleanup pause --why {why}",
            )
        case ArtefactKind.RETENTION_DRY_RUN:
            return "mend what the errors name, then count again", "async-delivery cleanup --dry-run"
        case ArtefactKind.SMOKE_STAGING | ArtefactKind.SMOKE_PROD:
            profile = kind.removeprefix("smoke_")
            what = "what failed" if error_class is ErrorClass.NONE else f"the {error_class} that failed"
            return (
                f"mend {what} in {bad.path}, then carry out the checklist again",
                f"async-delivery smoke {profile}",
            )


def _look_for_undated_rows(by_kind: dict[ArtefactKind, list[Artefact]], notes: Notes) -> None:
    """Rows without a valid timestamp are kept for ever; more of them than before means somebody makes them."""
    runs = [
        artefact
        for kind in (ArtefactKind.RETENTION_LIVE, ArtefactKind.RETENTION_DRY_RUN)
        for artefact in by_kind.get(kind, ())
        if _why_bad(kind, artefact) is None
    ]
    runs.sort(key=lambda artefact: artefact.at)
    if not runs:
        return
    last = runs[-1]
    earlier = runs[-2].body if len(runs) > 1 else None
    before = skipped_rows(earlier)
    now = skipped_rows(last.body, like=earlier)
    notes.fact("artefacts", "skipped_missing_timestamp", skipped_rows(last.body))
    if now > before:
        notes.found(
            Fault.ROWS_WITHOUT_TIMESTAMP,
            ErrorClass.RETENTION,
            f"{last.path}: {now} rows are kept because an instant is missing or not valid, {before} before",
            "find out which rows they are and who writes them",
            "async-delivery store check",
        )


def _named(artefact: Artefact | None) -> dict[str, str] | None:
    if artefact is None:
        return None
    return {"path": str(artefact.path), "at": format_instant(artefact.at)}
