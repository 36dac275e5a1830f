"""``smoke staging`` and ``smoke prod``: the runbook's checklists, as a table, as JSON and as JUnit."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from async_delivery.cli.options import (
    SECONDS,
    client_options,
    json_option,
    load_settings,
    server_address,
    settings_options,
    tenant,
)
from async_delivery.cli.output import Failed, clean, emit_json, say, write_file
from async_delivery.cli.process import silence
from async_delivery.domain.smoke import Profile

if TYPE_CHECKING:
    from async_delivery.ops.checks import Check
    from async_delivery.ops.smoke import SmokeReport

Command = TypeVar("Command", bound=Callable[..., Any])
_SETTINGS = ("store_file", "results_ttl_seconds", "events_ttl_seconds", "jobs_ttl_seconds", "artifacts_dir")
_MARKS = {"ok": "ok", "failed": "FAILED", "skipped": "skipped"}


@click.group()
def smoke() -> None:
    """Carry out the smoke checklists of the runbook."""


def _shared(command: Command) -> Command:
    for option in (
        click.option(
            "--junit",
            "junit_file",
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write the checks there as JUnit XML too.",
        ),
        json_option,
        click.option(
            "--no-retention",
            is_flag=True,
            help="Leave out the steps that work on the store file, where this is not the machine of the server.",
        ),
        click.option(
            "--timeout",
            "timeout_seconds",
            type=SECONDS,
            metavar="DURATION",
            default=30.0,
            help="How long a job may take to its end.  [default: 30s]",
        ),
        settings_options(_SETTINGS),
        client_options,
    ):
        command = option(command)
    return command


@smoke.command()
@click.option(
    "--live-cleanup", is_flag=True, help="Clean up for real, and see that a second run deletes nothing."
)
@_shared
def staging(live_cleanup: bool, **given: Any) -> int:
    """Run a job of its own through the service, and count in a dry run what a cleanup would delete.

    Writes artifacts/async/smoke-staging-TIME.json. Exit code 1 if a check failed.
    """
    return _run(Profile.STAGING, given, needs_store=live_cleanup, live_cleanup=live_cleanup)


@smoke.command()
@click.option("--job", "job_id", metavar="JOB", help="The job to read.  [default: the newest completed one]")
@click.option(
    "--staging-artefact",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What shows that staging is green.  [default: the newest smoke-staging-*.json of the artefacts]",
)
@click.option(
    "--maintenance-window",
    is_flag=True,
    help="The window is released: clean up for real if all before it is ok, and check what it left.",
)
@_shared
def prod(job_id: str | None, staging_artefact: Path | None, maintenance_window: bool, **given: Any) -> int:
    """Read a current job, and count in a dry run what a cleanup would delete; no job is made.

    Writes artifacts/async/smoke-prod-TIME.json. Exit code 1 if a check failed.
    """
    return _run(
        Profile.PROD,
        given,
        needs_store=maintenance_window,
        maintenance_window=maintenance_window,
        job_id=job_id,
        staging_artefact=staging_artefact,
    )


def _run(profile: Profile, given: dict[str, Any], *, needs_store: bool, **more: Any) -> int:
    if more.get("job_id") == "":
        raise click.UsageError("--job: must not be empty")
    if given["no_retention"] and needs_store:
        raise click.UsageError("a live cleanup needs the store file: leave out --no-retention")
    settings = load_settings(given["config_file"], {name: given[name] for name in _SETTINGS})
    base_url, org_id = server_address(given["base_url"]), tenant(given["org"])
    table = _Table()
    from async_delivery.ops.artefacts import check_writable
    from async_delivery.wiring.smoke import smoke as run_smoke

    try:
        # Before anything is done: a run that cannot be told of afterwards is none.
        check_writable(settings.artifacts_dir)
        _check_junit(given["junit_file"])
        report = run_smoke(
            profile,
            settings,
            base_url=base_url,
            org_id=org_id,
            timeout_seconds=given["timeout_seconds"],
            retention=not given["no_retention"],
            done=(lambda _check: None) if given["as_json"] else table.show,
            **more,
        )
    except OSError as exc:
        raise Failed(f"cannot write an artefact to {settings.artifacts_dir}: {exc.strerror or exc}") from exc
    code = _told(profile, report, given)
    if table.fault is not None and not isinstance(table.fault, BrokenPipeError):
        raise Failed(f"cannot write the output: {table.fault.strerror}")
    return code


def _check_junit(path: Path | None) -> None:
    """Make the folder, and see that the file can be written. Raises Failed."""
    if path is None:
        return
    from async_delivery.ops.artefacts import check_writable

    try:
        check_writable(path.parent)
    except OSError as exc:
        raise Failed(f"--junit: cannot write {path}: {exc.strerror or exc}") from exc


class _Table:
    """A line for each check as soon as it is over.

    fault   why nobody takes the lines any more; the checks go on, as one of them may clean up, and are in the artefact
    """

    def __init__(self) -> None:
        from async_delivery.domain.smoke import PROD, STAGING

        self._width = max(len(check_id) for check_id in (*STAGING, *PROD))
        self._begun = False
        self.fault: OSError | None = None

    def show(self, check: Check) -> None:
        try:
            self._print(check)
        except OSError as exc:
            self.fault = exc
            silence(sys.stdout)

    def _print(self, check: Check) -> None:
        if not self._begun:
            print(f"{'CHECK':<{self._width}}  {'OUTCOME':<7}  {'SECONDS':>7}  DETAIL")
            self._begun = True
        mark = _MARKS[check.outcome]
        print(
            f"{check.id:<{self._width}}  {mark:<7}  {check.seconds:7.2f}  {clean(check.detail)}", flush=True
        )


def _told(profile: Profile, report: SmokeReport, given: dict[str, Any]) -> int:
    if given["as_json"]:
        emit_json({**report.document, "artefact": str(report.path)})
        for check in report.checks:
            if check.ok is False:
                say(f"{check.id}: {check.detail}")
    failed = [check.id for check in report.checks if check.ok is False]
    counts = {how: sum(check.outcome == how for check in report.checks) for how in _MARKS}
    numbers = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    say(f"smoke {profile}: {'green' if report.ok else 'RED'}, {numbers}; artefact {report.path}")
    if failed:
        say(f"next: {_triage(given)}")
    junit_file = given["junit_file"]
    if junit_file is not None:
        from async_delivery.ops.checks import junit

        document = junit(f"async_delivery.smoke.{profile}", report.checks, report.document["started_at"])
        write_file(junit_file, document)
    return 0 if report.ok else 1


def _triage(given: dict[str, Any]) -> str:
    """The command that looks where this one looked."""
    from async_delivery.ops.probe import shown_url

    words = ["async-delivery", "triage"]
    for name in ("config_file", "base_url", "org", "store_file", "artifacts_dir"):
        if given[name]:
            flag = name.removesuffix("_file") if name == "config_file" else name
            shown = shown_url(given[name]) if name == "base_url" else given[name]
            words += [f"--{flag.replace('_', '-')}", shlex.quote(str(shown))]
    return " ".join(words)
