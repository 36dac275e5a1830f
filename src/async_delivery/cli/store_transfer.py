"""``store convert|import|export``: the older document turned into a database, and jobs moved between stores."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from async_delivery.cli.options import json_option, load_settings, settings_options
from async_delivery.cli.output import Failed, emit_json, emit_pairs, emit_table, say
from async_delivery.cli.process import TERMINATED
from async_delivery.domain.account import Kind

if TYPE_CHECKING:
    from async_delivery.wiring.transfer import Moved

_COLUMNS = ("read", "taken", "odd", "refused", "there", "made")
_STDIO = "-"
_account = click.option(
    "--account",
    "account_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write there what became of every odd or refused record.  [default: a new file beside the store file]",
)


@click.command()
@settings_options(["store_file", "store_url", "default_analysis", "results_ttl_seconds"])
@_account
@json_option
def convert(config_file: str | None, account_file: Path | None, as_json: bool, **flags: Any) -> int:
    """Turn a store of the older form, one JSON document, into a database. The document is kept as a backup.

    Stop whatever writes the document first. Interrupted at any moment, the document is untouched or the store is
    finished; run it again. Records that cannot be kept are named, and written whole to the account.
    """
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.transfer import convert as run

    with _ended_by_sigterm():
        moved = run(settings, account_file)
    if as_json:
        emit_json({**_facts(moved), "already": moved.already})
    elif moved.already:
        say(
            f"{settings.store_file}: names a database ({moved.file.database}) already; there is nothing to convert"
        )
    else:
        _show(moved)
        emit_pairs(
            [
                ("store file", moved.file.path),
                ("database", moved.file.database),
                ("backup", moved.backup),
                ("account", moved.account_file),
            ]
        )
    return 0


@click.command("import")
@click.argument("file", metavar="FILE|-")
@settings_options(["store_file", "default_analysis", "results_ttl_seconds"])
@_account
@json_option
def import_(
    file: str, config_file: str | None, account_file: Path | None, as_json: bool, **flags: Any
) -> int:
    """Enter the jobs of a document into a store, beside a running server or at rest.

    What is there already stays as it is: a second run enters nothing. Exit code 1 if the store has something else
    under the id of a job, which is then left out and named.
    """
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.transfer import import_document

    with _ended_by_sigterm():
        if file == _STDIO:
            with tempfile.NamedTemporaryFile(prefix="async-delivery-import-") as kept:
                shutil.copyfileobj(sys.stdin.buffer, kept)
                kept.flush()
                moved = import_document(settings, Path(kept.name), account_file)
        else:
            moved = import_document(settings, Path(file), account_file)
    account = moved.account
    if as_json:
        emit_json(_facts(moved))
    else:
        _show(moved)
        jobs = account.counts[Kind.JOBS]
        say(f"{jobs.taken + jobs.odd} jobs entered, {jobs.there} were there already")
        emit_pairs([("account", moved.account_file)])
    if account.conflicts:
        raise Failed(
            f"{settings.store_file}: has something else under the ids of {account.conflicts} jobs of {file}; they were"
            f" left out, see {moved.account_file}"
        )
    return 0


@click.command()
@click.argument("file", metavar="[FILE|-]", default=_STDIO)
@settings_options(["store_file"])
@_account
@json_option
def export(file: str, config_file: str | None, account_file: Path | None, as_json: bool, **flags: Any) -> int:
    """Write every job of a store, as it is in one moment, to a document that import takes; without FILE to stdout.

    Beside a running server or at rest. Nothing is written over a file that is there.
    """
    settings = load_settings(config_file, flags)
    from async_delivery.wiring.transfer import export_document, export_to

    if file != _STDIO:
        with _ended_by_sigterm():
            moved = export_document(settings, Path(file), account_file)
        if as_json:
            emit_json({**_facts(moved), "document": file})
        else:
            _show(moved)
            emit_pairs([("document", file), ("account", moved.account_file)])
        return 0
    if as_json:
        raise click.UsageError(
            "--json says what was written to FILE; without FILE the document itself is printed"
        )
    # Whole before a byte of it goes out: a document that ends in the middle is no document.
    with _ended_by_sigterm(), tempfile.TemporaryFile(prefix="async-delivery-export-") as out:
        moved = export_to(settings, out, Path(tempfile.gettempdir()), account_file, _STDIO)
        out.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(out, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()
    _say_odd(moved)
    return 0


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a move like Ctrl-C: what is unfinished is taken away, and a line says so."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one waits for nothing
        raise Failed("ended by SIGTERM; run it again", TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _facts(moved: Moved) -> dict[str, Any]:
    from async_delivery.wiring.transfer import sums

    return {
        "store_file": str(moved.file.path),
        "store_id": moved.file.store_id,
        "database": moved.file.database,
        "backup": str(moved.backup) if moved.backup else None,
        "account": str(moved.account_file) if moved.account_file else None,
        **sums(moved.account),
        "shown": [entry.to_json() for entry in moved.account.shown],
    }


def _show(moved: Moved) -> None:
    account = moved.account
    emit_table(
        ("WHAT", *(name.upper() for name in _COLUMNS)),
        [
            (str(kind), *(tally.to_json()[name] for name in _COLUMNS))
            for kind, tally in account.counts.items()
            if tally.read or tally.made or kind is not Kind.INPUTS
        ],
    )
    for kind, names in account.left.items():
        shown = ", ".join(f"{name} ({number})" for name, number in sorted(names.items()))
        say(f"fields of {kind} without a place in a store: {shown}")
    _say_odd(moved)


def _say_odd(moved: Moved) -> None:
    account = moved.account
    for entry in account.shown:
        say(entry.sentence())
    more = account.total("odd") + account.total("refused") - len(account.shown)
    if more > 0:
        say(f"... and {more} more odd or refused records, in {moved.account_file}")
