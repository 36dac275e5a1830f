"""``cleanup`` and the script in scripts/: options, signals, artefact and exit code around one engine function.

Exit codes: 0 done; 1 bad settings or store, nothing was deleted; 2 stopped half-way, what was committed stands and
is reported; 3 another cleanup is running, or cleanups are paused. Wrong usage is 2 for ``async-delivery cleanup``, as
for every command, and 1 for the script, whose 2 belongs to a run that was stopped.
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from async_delivery.cli.artefact import Artefact, ArtefactError
from async_delivery.cli.options import json_option, load_settings, settings_options
from async_delivery.cli.output import Failed, emit_json, emit_table, say
from async_delivery.domain.cleanup import Pause, Runner
from async_delivery.domain.errors import AsyncDeliveryError, StoreBusyError, ValidationError
from async_delivery.domain.retention import ExitCode
from async_delivery.settings import Settings, SettingsError

if TYPE_CHECKING:
    from async_delivery.domain.retention import RetentionReport

_dry_run = click.option(
    "--dry-run", is_flag=True, help="Count what a cleanup would delete now, and change nothing."
)
_output = click.option(
    "--output-json",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report there too; missing folders are made.",
)
_force = click.option("--force", is_flag=True, help="Go ahead although cleanups are paused; the pause stays.")
Tell = Callable[["RetentionReport"], None]
_SETTINGS = ("store_file", "results_ttl_seconds", "events_ttl_seconds", "jobs_ttl_seconds")


@click.command()
@click.argument(
    "action", type=click.Choice(["run", "pause", "resume"]), default="run", metavar="[run|pause|resume]"
)
@settings_options(_SETTINGS)
@_dry_run
@_output
@_force
@click.option("--why", metavar="TEXT", help="For pause: the reason, for whoever finds cleanups paused.")
@click.option("--by", metavar="NAME", help="For pause: who pauses.  [default: the user of this process]")
@json_option
def cleanup(
    action: str,
    config_file: str | None,
    dry_run: bool,
    output_json: Path | None,
    force: bool,
    why: str | None,
    by: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Delete old results and events of ended jobs, and old jobs of which nothing else is kept, beside a running
    server or at rest; or pause all cleanups.

    TTLs are seconds or 30m, 24h, 7d; off keeps jobs for ever. Exit code 1: refused, nothing was deleted; 2: stopped
    half-way, what was committed stands; 3: another cleanup is running, or cleanups are paused.

    A pause stays until `resume`, also over restarts, and holds for the server, the script and this command.
    """
    if action == "pause":
        if why is None:
            raise click.UsageError("pause needs --why TEXT")
        return _pause(load_settings(config_file, flags), why, by or _user(), as_json)
    if why is not None or by is not None:
        raise click.UsageError(f"--why and --by belong to pause, not to {action}")
    if action == "resume":
        return _resume(load_settings(config_file, flags), as_json)
    order = _Order(Runner.COMMAND, dry_run, force, output_json, _print_json if as_json else _print_table)
    try:
        return _clean_up(order, config_file, flags)
    except StoreBusyError as exc:
        raise Failed(exc.message, ExitCode.BUSY) from exc


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@settings_options(_SETTINGS)
@_dry_run
@_output
@_force
def _script(
    config_file: str | None, dry_run: bool, output_json: Path | None, force: bool, **flags: Any
) -> int:
    """Delete old results and events of ended jobs, and old jobs of which nothing else is kept, beside a running
    server or at rest.

    TTLs are seconds or 30m, 24h, 7d; off keeps jobs for ever. Prints a report as JSON. Exit code 0: done; 1: bad
    settings or store, nothing was deleted; 2: stopped half-way, what was committed stands; 3: another cleanup is
    running, or cleanups are paused.
    """
    return _clean_up(_Order(Runner.SCRIPT, dry_run, force, output_json, _print_json), config_file, flags)


def script(args: Sequence[str], program: str) -> int:
    """What scripts/run_async_retention_cleanup.py does with its arguments; the exit code."""
    try:
        done = _script.main(list(args), prog_name=program, standalone_mode=False)
        return done if isinstance(done, int) else ExitCode.DONE
    except click.ClickException as exc:
        say(f"{program}: {exc.format_message()}")
    except StoreBusyError as exc:
        say(f"{program}: {exc.message}")
        return ExitCode.BUSY
    except AsyncDeliveryError as exc:
        say(f"{program}: {exc.message}")
    except (SettingsError, Failed) as exc:
        say(f"{program}: {exc}")
    except KeyboardInterrupt:
        say(f"{program}: ended at once by a second signal; what was committed stands")
        return ExitCode.PARTIAL
    return ExitCode.REFUSED


@dataclass(frozen=True, slots=True)
class _Order:
    """One cleanup as it was asked for."""

    runner: Runner
    dry_run: bool
    force: bool
    output: Path | None
    tell: Tell


def _clean_up(order: _Order, config_file: str | None, flags: dict[str, Any]) -> int:
    try:
        settings = load_settings(config_file, flags)
    except SettingsError as exc:
        _note_refusal(order, exc.store_file, str(exc))
        raise
    try:
        with _stop_on_signal() as stop, Artefact(order.output, settings.store_file) as artefact:
            return _told(_run(order, settings, stop), artefact, order.tell)
    except ArtefactError as exc:
        _note_refusal(order, settings.store_file, str(exc))
        raise Failed(str(exc), ExitCode.REFUSED) from exc


def _run(order: _Order, settings: Settings, stop: Callable[[], bool]) -> RetentionReport:
    from async_delivery.wiring.cleaning import clean_up

    return clean_up(
        settings.store_file,
        settings.retention,
        runner=order.runner,
        dry_run=order.dry_run,
        stop=stop,
        force=order.force,
    )


def _note_refusal(order: _Order, store_file: Path | None, why: str) -> None:
    """Leave word in the store of a cleanup that could not begin, as far as there is a store to leave it in."""
    if order.dry_run or store_file is None:
        return
    from async_delivery.wiring.cleanup import note_refusal

    note_refusal(store_file, order.runner, why)


def _pause(settings: Settings, why: str, by: str, as_json: bool) -> int:
    from async_delivery.wiring.cleanup import pause

    try:
        made = pause(settings.store_file, why, by)
    except ValidationError as exc:
        raise click.UsageError(exc.message) from exc
    _show_pause(settings, made, f"cleanups are paused: {made.why}", as_json)
    return ExitCode.DONE


def _resume(settings: Settings, as_json: bool) -> int:
    from async_delivery.wiring.cleanup import resume

    lifted = resume(settings.store_file)
    words = (
        f"cleanups run again; they were paused by {lifted.by}: {lifted.why}"
        if lifted
        else "nothing was paused"
    )
    _show_pause(settings, None, words, as_json)
    return ExitCode.DONE


def _show_pause(settings: Settings, pause: Pause | None, words: str, as_json: bool) -> None:
    if as_json:
        emit_json({"store_file": str(settings.store_file), "cleanup_pause": pause and pause.to_json()})
    else:
        say(words)


def _user() -> str:
    """The name of the user this process runs as; its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _told(report: RetentionReport, artefact: Artefact, tell: Tell) -> int:
    """Write and print the report. What was deleted is told on stdout even if the file cannot be written."""
    try:
        artefact.write(_text(report))
    except ArtefactError as exc:
        report = replace(report, errors=(*report.errors, str(exc)))
    for error in report.errors:
        say(f"cleanup: {error}")
    try:
        tell(report)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever started this reads no output; the exit code is still theirs.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return report.exit_code


def _print_json(report: RetentionReport) -> None:
    sys.stdout.write(_text(report))


def _print_table(report: RetentionReport) -> None:
    found = report.to_json()
    done = "WOULD DELETE" if report.dry_run else "DELETED"
    columns = (
        "total",
        "delete_count",
        "kept_count",
        "held_count",
        "skipped_missing_timestamp",
        "bytes",
        "cutoff",
    )
    emit_table(
        ("WHAT", "TOTAL", done, "KEPT", "HELD", "UNDATED", "BYTES", "OF JOBS ENDED BY"),
        [(kind, *(found[kind][column] for column in columns)) for kind in ("results", "events", "jobs")],
    )
    say(f"{report.terminal_job_count} ended and {report.active_job_count} active jobs in {report.store_file}")


def _text(report: RetentionReport) -> str:
    return json.dumps(report.to_json(), indent=2) + "\n"


@dataclass(slots=True)
class _Asked:
    to_stop: bool = False


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT end the run between two batches; a second one waits for nothing, and is told."""
    asked = _Asked()

    def handle(number: int, frame: FrameType | None) -> None:
        asked.to_stop = True
        for each in originals:
            signal.signal(each, signal.default_int_handler)

    originals = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked.to_stop
    finally:
        for number, original in originals.items():
            signal.signal(number, original)
