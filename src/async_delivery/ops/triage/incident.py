"""The folder of an incident: what triage found as a Markdown report and as JSON, and the artefacts it speaks of.

A new folder appears whole or not at all. In one that is there each file is replaced whole, the report last, so a
crash leaves the old report or the new one. What somebody else put there stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from async_delivery.domain.instant import format_instant
from async_delivery.ops.artefacts import as_json
from async_delivery.ops.triage.compare import Comparison
from async_delivery.ops.triage.examine import TriageReport

REPORT, FINDINGS = "report.md", "findings.json"
_MOST_CHECKS = 50


class IncidentExistsError(Exception):
    """There is a report of an incident of that name, and nobody said that it may be brought up to date."""


def incident_folder(artifacts_dir: Path, name: str) -> Path:
    """Where the incident's files are. ``name`` has been checked by the caller."""
    return artifacts_dir / f"incident-{name}"


def write_incident(report: TriageReport, name: str, folder: Path, *, update: bool) -> list[Path]:
    """Write the incident; its files. Raises IncidentExistsError, OSError."""
    if os.path.lexists(folder) and not update:
        raise IncidentExistsError(f"{folder} is there already; bring it up to date with --update")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if update and folder.is_dir():
        earlier = _earlier(folder)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            names = _fill(Path(scratch), report, name, earlier)
            for each in names:
                (Path(scratch) / each).replace(folder / each)
        _drop_old_copies(folder, names)
        return [folder / each for each in names]
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        names = _fill(part, report, name, [])
        part.chmod(0o755)
        # Fails if somebody made the folder meanwhile and it has anything in it.
        part.rename(folder)
    except OSError as exc:
        if os.path.lexists(folder):
            raise IncidentExistsError(
                f"{folder} is there already; bring it up to date with --update"
            ) from exc
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / each for each in names]


def _fill(folder: Path, report: TriageReport, name: str, earlier: list[dict[str, str]]) -> list[str]:
    """Write all files to ``folder``; their names in the order in which they may appear, the report last."""
    copied = dict(_copies(report.comparisons, folder))
    said = {
        "at": format_instant(report.at),
        "error_class": report.error_class.value,
        "next_step": _step(report),
    }
    checks = [*earlier, said][-_MOST_CHECKS:]
    document = {"incident": name, **report.to_json(), "copied": copied, "checks": checks}
    for file, data in (
        (FINDINGS, as_json(document)),
        (REPORT, _markdown(report, name, copied, checks).encode("utf-8", "backslashreplace")),
    ):
        with (folder / file).open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
    return [*copied, FINDINGS, REPORT]


def _copies(comparisons: Sequence[Comparison], folder: Path) -> Iterator[tuple[str, str]]:
    """Copy the last good and the last bad artefacts; (name here, where it came from)."""
    for comparison in comparisons:
        for artefact, prefix in ((comparison.good, "last-good"), (comparison.bad, "last-bad")):
            if artefact is None:
                continue
            name = f"{prefix}-{artefact.path.name}"
            # What cannot be read any more is named in the report all the same.
            with contextlib.suppress(OSError):
                shutil.copyfile(artefact.path, folder / name)
                yield name, str(artefact.path)


def _earlier(folder: Path) -> list[dict[str, str]]:
    """When this incident was triaged before, and what came of it."""
    try:
        checks = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))["checks"]
        return [{name: str(each[name]) for name in ("at", "error_class", "next_step")} for each in checks]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _drop_old_copies(folder: Path, names: Sequence[str]) -> None:
    """Copies of artefacts that are the last ones no more; only what this program copied."""
    for pattern in ("last-good-*.json", "last-bad-*.json"):
        for path in folder.glob(pattern):
            if path.name not in names:
                with contextlib.suppress(OSError):
                    path.unlink()


# ---------------------------------------------------------------- the report
def _markdown(
    report: TriageReport, name: str, copied: Mapping[str, str], checks: Sequence[Mapping[str, str]]
) -> str:
    parts = [
        f"# Incident {name}",
        _table(
            ("", ""),
            [
                ("What", report.findings[0].text if report.findings else "nothing was found"),
                ("When", format_instant(report.at)),
                ("Error class", report.error_class.value),
                *((key, value) for key, value in report.target.items() if value is not None),
            ],
        ),
        "## Next step",
        _next_step(report),
        "## Findings",
        "\n".join(
            f"{number}. **{finding.fault}** ({finding.error_class}): {_text(finding.text)}"
            for number, finding in enumerate(report.findings, 1)
        )
        or "None.",
        "## Evidence",
    ]
    for section, facts in report.facts.items():
        parts += [f"### {section.capitalize()}", _table(("fact", "value"), list(facts.items()))]
    parts.append("## Artefacts")
    parts += [_compared(comparison) for comparison in report.comparisons] or ["None."]
    parts += [
        "## Timeline",
        _table(("at", "what"), [(format_instant(at), what) for at, what in report.timeline]),
        "## Triage of this incident so far",
        _table(
            ("at", "error class", "next step"),
            [(each["at"], each["error_class"], each["next_step"]) for each in checks],
        ),
        "## Files",
        _table(("file", "copy of"), list(copied.items())) if copied else "No artefact was there to copy.",
    ]
    return "\n\n".join(parts) + "\n"


def _next_step(report: TriageReport) -> str:
    step = report.next_step
    text = _text(step.text)
    return text if step.command is None else f"{text}\n\n```sh\n{_line(step.command)}\n```"


def _step(report: TriageReport) -> str:
    step = report.next_step
    return step.text if step.command is None else f"{step.text}: {step.command}"


def _compared(comparison: Comparison) -> str:
    rows = [
        (words, artefact.path.name, format_instant(artefact.at))
        for words, artefact in (("last good", comparison.good), ("last bad", comparison.bad))
        if artefact is not None
    ]
    parts = [f"### {comparison.kind}", _table(("", "file", "at"), rows)]
    if comparison.why:
        parts.append(f"Bad because: {_text(comparison.why)}")
    if comparison.differences:
        parts.append(
            _table(
                ("field", "good", "bad"),
                [(each.name, each.good, each.bad) for each in comparison.differences],
            )
        )
    elif comparison.good and comparison.bad:
        parts.append("They differ in nothing that is compared.")
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _text(value: Any) -> str:
    """A value as text that stays text in Markdown, on one line."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    line = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(value.split())
    )
    for mark in "\\`*[]<>|":
        line = line.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return line


def _line(text: str) -> str:
    return "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split())
    )
