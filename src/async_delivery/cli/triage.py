"""``triage``: what is wrong, which error class it is, and what to do next; with ``--incident`` as files to attach."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from async_delivery.cli.options import SECONDS, json_option, load_settings, server_address, settings_options
from async_delivery.cli.output import Failed, clean, emit_json, emit_pairs, say
from async_delivery.settings import DEFAULTS, ORG_VARIABLE, Settings

if TYPE_CHECKING:
    from async_delivery.ops.triage import TriageReport

# One name in a folder, on every file system: no path, no hidden file, no option.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9]|[A-Za-z0-9]")
_NAME_FORM = "1 to 64 characters of A-Z a-z 0-9 . _ -, beginning and ending with a letter or digit"


@click.command()
@click.option("--result", "result_id", metavar="RESULT", help="The result that is in trouble.")
@click.option(
    "--job", "job_id", metavar="JOB", help="The job that is in trouble.  [default: the newest of the tenant]"
)
@click.option(
    "--org",
    metavar="TEXT",
    help=f"X-Org-Id exactly as the caller in trouble sends it; {ORG_VARIABLE} otherwise.",
)
@click.option("--tenant-id", "alias", metavar="TEXT", help="X-Tenant-Id exactly as the caller sends it.")
@click.option("--base-url", metavar="URL", help="Where the server is.  [default: http://127.0.0.1:8080]")
@click.option("--deep", is_flag=True, help="Verify every invariant of the store too; reads all of it.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=SECONDS,
    metavar="DURATION",
    default=10.0,
    help="Patience with one answer.  [default: 10s]",
)
@click.option(
    "--incident", metavar="NAME", help="Write the report to artifacts/async/incident-NAME/ as well."
)
@click.option("--update", is_flag=True, help="Bring an incident that is there up to date.")
@settings_options(["store_file", "artifacts_dir"])
@json_option
def triage(
    config_file: str | None,
    incident: str | None,
    update: bool,
    as_json: bool,
    org: str | None,
    base_url: str | None,
    store_file: str | None,
    artifacts_dir: str | None,
    **asked: Any,
) -> int:
    """Settle what is broken: reading results, reading notifications, or the cleanup.

    Looks at server, tenant headers, artefacts and store, changes nothing, and ends with one next step. Exit code 0
    if nothing was found, 1 if something was.
    """
    settings = load_settings(config_file, {"store_file": store_file, "artifacts_dir": artifacts_dir})
    folder = _folder(settings, incident, update=update)
    from async_delivery.wiring.triage import triage as look_everywhere

    report = look_everywhere(
        settings,
        base_url=server_address(base_url),
        org=org if org is not None else os.environ.get(ORG_VARIABLE) or None,
        store_expected=store_file is not None or settings.store_file != DEFAULTS.store_file,
        **asked,
    )
    files: list[Path] = []
    unwritten: Failed | None = None
    try:
        files = _write(report, incident, folder, update=update) if incident and folder else []
    except Failed as exc:
        # What was found is told all the same: a full disk may be the incident.
        unwritten = exc
    if as_json:
        emit_json({**report.to_json(), "incident": [str(file) for file in files] or None})
    else:
        _print(report, files)
    if unwritten is not None:
        raise unwritten
    return 1 if report.findings else 0


def _folder(settings: Settings, incident: str | None, *, update: bool) -> Path | None:
    """Where the incident goes. Refused before anything is looked at, which may take a while."""
    if incident is None:
        if update:
            raise click.UsageError("--update needs --incident")
        return None
    if not _NAME.fullmatch(incident):
        raise click.UsageError(f"--incident: {incident!r} is no name: give {_NAME_FORM}")
    from async_delivery.ops.triage import incident_folder

    folder = incident_folder(settings.artifacts_dir, incident)
    if os.path.lexists(folder) and not update:
        raise click.UsageError(f"--incident: {folder} is there already; bring it up to date with --update")
    if os.path.lexists(folder) and not folder.is_dir():
        raise click.UsageError(f"--incident: {folder} is no folder; give another name, or move it away")
    return folder


def _write(report: TriageReport, incident: str, folder: Path, *, update: bool) -> list[Path]:
    from async_delivery.ops.triage import IncidentExistsError, write_incident

    try:
        return write_incident(report, incident, folder, update=update)
    except IncidentExistsError as exc:
        raise Failed(str(exc)) from exc
    except OSError as exc:
        raise Failed(f"cannot write {folder}: {exc.strerror or exc}") from exc


def _print(report: TriageReport, files: list[Path]) -> None:
    emit_pairs([("error class", report.error_class), *report.target.items()])
    for section, facts in report.facts.items():
        print(f"\n{section}")
        emit_pairs([(f"  {name}", _shown(value)) for name, value in facts.items()])
    for comparison in report.comparisons:
        print(f"\n{comparison.kind}")
        emit_pairs(
            [
                ("  last good", comparison.good and comparison.good.path),
                ("  last bad", comparison.bad and comparison.bad.path),
                ("  bad because", comparison.why),
                *((f"  {each.name}", f"{each.good} -> {each.bad}") for each in comparison.differences),
            ]
        )
    print(f"\nfound: {len(report.findings) or 'nothing'}")
    for finding in report.findings:
        print(f"  {finding.fault} ({finding.error_class}): {clean(finding.text)}")
    step = report.next_step
    print(f"\nnext step: {clean(step.text)}")
    if step.command:
        print(f"  {clean(step.command)}")
    if files:
        say(f"wrote {files[-1]} and {len(files) - 1} files beside it")


def _shown(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
