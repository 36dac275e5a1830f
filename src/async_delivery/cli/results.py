"""``result``: a snapshot, as text for people or byte for byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from async_delivery.cli.options import WORD, client_options, json_option, open_client
from async_delivery.cli.output import Failed, clean, emit_json, emit_table, say, write_file

if TYPE_CHECKING:
    from async_delivery.client import Client, Result


@click.command()
@click.argument("wanted", type=WORD, metavar="RESULT_OR_JOB")
@click.option(
    "--view",
    type=click.Choice(["latest", "requested"]),
    default="latest",
    show_default=True,
    help="The newest snapshot of the job, or exactly the one that is named.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the JSON to FILE instead."
)
@json_option
@client_options
def result(
    wanted: str, view: str, output: Path | None, as_json: bool, base_url: str | None, org: str | None
) -> int:
    """Show a result by its id, or the newest one of a job by the job's id.

    --json and --output give the answer of the permalink byte for byte.
    """
    with open_client(base_url, org) as client:
        found = _find(client, wanted, view)
    if output is not None:
        write_file(output, found.body)
        say(f"wrote {output} ({len(found.body)} bytes)")
    elif as_json:
        sys.stdout.buffer.write(found.body + b"\n")
    else:
        say(f"{found.result_kind} result {found.result_id} of job {found.job_id}")
        show_value(found.result)
    return 0


def _find(client: Client, wanted: str, view: str) -> Result:
    from async_delivery.client import NotFound, ResultExpired

    try:
        try:
            return client.result(wanted, view=view)
        except NotFound:
            return client.result(_newest_of(client, wanted), view=view)
    except ResultExpired as exc:
        since = f" (since {exc.expired_at})" if exc.expired_at else ""
        raise Failed(f"this result has expired{since}") from exc
    except NotFound as exc:
        raise Failed(f"there is no result or job {wanted}") from exc


def _newest_of(client: Client, job_id: str) -> str:
    job = client.job(job_id)
    if job.result_id:
        return job.result_id
    snapshots = client.results(job_id)
    if snapshots:
        return str(snapshots[-1]["result_id"])
    why = f": {job.error_code}: {job.error_message}" if job.error_code else ""
    raise Failed(f"job {job_id} is {job.status} and has no result{why}")


def show_value(value: Any) -> None:
    """The tables of a result that has some (``tables``: title, columns, rows); else the whole as JSON."""
    tables = value.get("tables") if isinstance(value, dict) else None
    if not isinstance(tables, list) or not tables or not all(_is_table(each) for each in tables):
        emit_json(value)
        return
    for index, table in enumerate(tables):
        if index:
            print()
        show_table(table)


def show_table(table: dict[str, Any]) -> None:
    """One table of a result, under its title."""
    print(clean(table["title"]))
    emit_table(table["columns"], ([cell_text(cell) for cell in row] for row in table["rows"]))


def cell_text(cell: Any) -> str | None:
    """A value as it reads best in a column."""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    if isinstance(cell, str) and len(cell) > 40:
        return f"{cell[:39]}…"
    return None if cell is None else str(cell)


def _is_table(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("columns"), list):
        return False
    rows, width = value.get("rows"), len(value["columns"])
    return (
        isinstance(value.get("title"), str)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == width for row in rows)
    )
