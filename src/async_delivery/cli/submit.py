"""``submit`` and ``retry``: from the words on the command line to an accepted job, and on to its end."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, NoReturn

import click

from async_delivery.cli.follow import finish, report_end
from async_delivery.cli.options import (
    SOME_SECONDS,
    TEXT,
    WHOLE_SECONDS,
    WORD,
    client_options,
    json_option,
    labels_of,
    open_client,
)
from async_delivery.cli.output import Failed, emit_json, say
from async_delivery.cli.progress import Follower, follower

if TYPE_CHECKING:
    from async_delivery.client import Client, Submitted

STDIN = "-"

wait_option = click.option(
    "--wait/--no-wait",
    "wait",
    default=True,
    help="Follow the job to its end, or only print its id.  [default: wait]",
)


@click.command()
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@click.option(
    "--analysis",
    type=WORD,
    metavar="NAME",
    help="What to run.  [default: what the server has as its default]",
)
@click.option("--params", type=TEXT, metavar="JSON", help="Parameters of the analysis, as a JSON object.")
@click.option("--params-file", metavar="FILE", help="The same from a file; - for standard input.")
@click.option(
    "--query", type=TEXT, metavar="TEXT", help="The subject in one string, for analyses that take one."
)
@click.option(
    "--label",
    "labels",
    type=TEXT,
    metavar="K=V",
    multiple=True,
    help="A label for filters (may be repeated).",
)
@click.option(
    "--timeout", type=SOME_SECONDS, metavar="DURATION", help="The longest that one attempt may run."
)
@click.option("--priority", type=click.Choice(["default", "expedite"]), help="Order among your own jobs.")
@click.option(
    "--ttl", type=WHOLE_SECONDS, metavar="DURATION", help="How long to keep the results, such as 7d."
)
@click.option(
    "--idempotency-key",
    type=WORD,
    metavar="KEY",
    help="Submitting again with the same key makes no second job.",
)
@wait_option
@json_option
@client_options
def submit(
    file: Path | None,
    params: str | None,
    params_file: str | None,
    labels: tuple[str, ...],
    idempotency_key: str | None,
    wait: bool,
    as_json: bool,
    base_url: str | None,
    org: str | None,
    **wishes: Any,
) -> int:
    """Submit a job: a data FILE to analyze (- for standard input), or --params alone.

    \b
    async-delivery submit data.csv
    async-delivery submit --analysis selftest --params '{"stages": 3}'
    zcat data.csv.gz | async-delivery submit -
    """
    if file is not None:
        _check_file(file, params_file)
    request = _request(_params(params, params_file), labels_of(labels), **wishes)
    if idempotency_key is not None and not (idempotency_key.isascii() and idempotency_key.isprintable()):
        raise click.UsageError("--idempotency-key must be printable ASCII")

    def send(client: Client, show: Follower) -> Submitted:
        if file is None:
            return client.submit(request, idempotency_key=idempotency_key)
        try:
            with _whole(file) as (whole, name):
                size = whole.stat().st_size
                return client.submit_file(
                    request,
                    whole,
                    filename=name,
                    idempotency_key=idempotency_key,
                    sent=lambda sent: show.uploading(sent, size),
                )
        except OSError as exc:
            raise Failed(f"cannot read {file}: {exc.strerror or exc}") from exc

    with open_client(base_url, org) as client:
        return _accepted(client, send, wait=wait, as_json=as_json)


@click.command()
@click.argument("job_id", type=WORD, metavar="JOB")
@wait_option
@json_option
@client_options
def retry(job_id: str, wait: bool, as_json: bool, base_url: str | None, org: str | None) -> int:
    """Submit a failed or canceled job again, as a new job."""
    with open_client(base_url, org) as client:
        return _accepted(client, lambda client, _show: client.retry(job_id), wait=wait, as_json=as_json)


def _accepted(
    client: Client, send: Callable[[Client, Follower], Submitted], *, wait: bool, as_json: bool
) -> int:
    with follower(quiet=as_json and not sys.stderr.isatty()) as show:
        submitted = send(client, show)
        if submitted.replayed:
            show.note(f"job {submitted.job.job_id} was submitted before with this key")
        job_id = submitted.job.job_id
        ended = None
        if wait:
            show.note(f"job {job_id}")
            ended = finish(client, job_id, show)
    if ended is not None:
        return report_end(client, ended, as_json=as_json)
    if as_json:
        emit_json(submitted.job.raw)
    else:
        print(job_id)
        say(f"accepted; follow it with: async-delivery watch {job_id}")
    return 0


def _check_file(file: Path, params_file: str | None) -> None:
    # os.path, as pathlib raises for names that no file can have.
    if str(file) == STDIN:
        if params_file == STDIN:
            raise click.UsageError("FILE and --params-file cannot both be standard input")
    elif os.path.isdir(file):
        raise click.UsageError(f"{file} is a folder; name a file")
    elif not os.path.exists(file):
        raise click.UsageError(f"there is no file {file}")


@contextmanager
def _whole(file: Path) -> Iterator[tuple[Path, str]]:
    """``file`` and its name; what cannot be measured and read twice, such as a pipe, is copied to a file first."""
    if file.is_file():
        yield file, file.name
        return
    with NamedTemporaryFile(prefix="async-delivery-") as copy:
        if str(file) == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with file.open("rb") as pipe:
                shutil.copyfileobj(pipe, copy)
        copy.flush()
        yield Path(copy.name), "stdin" if str(file) == STDIN else file.name


def _request(params: dict[str, Any] | None, labels: dict[str, str], **wishes: Any) -> dict[str, Any]:
    """The body of ``POST /analyze``; what was not asked for is left to the server."""
    options = {"priority": wishes["priority"], "results_ttl_seconds": wishes["ttl"]}
    asked = {
        "analysis": wishes["analysis"],
        "query": wishes["query"],
        "params": params,
        "timeout_seconds": wishes["timeout"],
        "labels": labels or None,
        "options": {
            "async_mode": {"requested": True},
            **{name: value for name, value in options.items() if value is not None},
        },
    }
    return {name: value for name, value in asked.items() if value is not None}


def _params(text: str | None, file: str | None) -> dict[str, Any] | None:
    if text is not None and file is not None:
        raise click.UsageError("give --params or --params-file, not both")
    source = "--params" if file is None else "--params-file"
    if file is not None:
        try:
            text = sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise click.UsageError(f"--params-file: cannot read {file}: {exc}") from exc
    if text is None:
        return None
    try:
        params = json.loads(text, parse_constant=_no_constant)
        # What has no form that can be sent: half a surrogate pair, a number beyond a double.
        json.dumps(params, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise click.UsageError(f"{source} is not JSON: {exc}") from exc
    if not isinstance(params, dict):
        raise click.UsageError(f"{source} must be a JSON object, such as " + '{"stages": 3}')
    return params


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
