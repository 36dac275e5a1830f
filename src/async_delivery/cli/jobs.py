"""``wait``, ``watch``, ``jobs`` and ``cancel``: what a tenant does with jobs that are there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from async_delivery.cli.follow import finish, report_end
from async_delivery.cli.options import (
    SECONDS,
    TEXT,
    WORD,
    client_options,
    json_option,
    labels_of,
    open_client,
)
from async_delivery.cli.output import clean, emit_json, emit_table, say
from async_delivery.cli.progress import follower, stage_of
from async_delivery.domain.job import JobStatus

if TYPE_CHECKING:
    from async_delivery.client import Client, Event, Job

_patience = click.option(
    "--timeout", type=SECONDS, metavar="DURATION", help="Give up after this long; the job goes on."
)


@click.command()
@click.argument("job_id", type=WORD, metavar="JOB")
@_patience
@json_option
@client_options
def wait(job_id: str, timeout: float | None, as_json: bool, base_url: str | None, org: str | None) -> int:
    """Wait until JOB has ended. Exit code 0 if it completed, else 1."""
    with open_client(base_url, org) as client:
        with follower(quiet=as_json) as show:
            job = finish(client, job_id, show, timeout_seconds=timeout)
        return report_end(client, job, as_json=as_json)


@click.command()
@click.argument("job_id", type=WORD, metavar="JOB")
@_patience
@json_option
@client_options
def watch(job_id: str, timeout: float | None, as_json: bool, base_url: str | None, org: str | None) -> int:
    """Show each event of JOB as it comes, partial results included, until the end.

    With --json one event per line.
    """
    seen = 0

    def told(_job: Job) -> None:
        nonlocal seen
        for event in client.events(job_id, after=seen):
            seen = event.event_seq
            _print_event(client, event, as_json=as_json)

    with open_client(base_url, org) as client:
        # The events are the output here: a bar or lines on stderr would say the same again.
        with follower(quiet=True) as show:
            job = finish(client, job_id, show, timeout_seconds=timeout, changed=told)
        if as_json:
            return 0 if job.status is JobStatus.COMPLETED else 1
        return report_end(client, job, as_json=False)


def _print_event(client: Client, event: Event, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(event.raw, ensure_ascii=True), flush=True)
        return
    facts = dict(event.payload)
    if event.event_type == "job.partial" and (result_id := facts.pop("result_id", None)):
        facts["link"] = f"{client.base_url}/analyze/results/{result_id}?view=requested"
    words = clean(" ".join(f"{name}={value}" for name, value in facts.items() if value is not None))
    print(
        f"{clean(event.occurred_at)}  {event.event_seq:>4}  {clean(event.event_type):<20}  {words}".rstrip(),
        flush=True,
    )


@click.command()
@click.option(
    "--status",
    "statuses",
    type=click.Choice([str(status) for status in JobStatus]),
    multiple=True,
    help="Only jobs in this state (may be repeated).",
)
@click.option("--analysis", type=WORD, metavar="NAME", help="Only jobs of this analysis.")
@click.option(
    "--label",
    "labels",
    type=TEXT,
    metavar="K=V",
    multiple=True,
    help="Only jobs with this label (may be repeated).",
)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many."
)
@json_option
@client_options
def jobs(
    statuses: tuple[str, ...],
    analysis: str | None,
    labels: tuple[str, ...],
    limit: int,
    as_json: bool,
    base_url: str | None,
    org: str | None,
) -> int:
    """List your jobs, newest first."""
    where = labels_of(labels)
    found: list[Job] = []
    cursor = None
    with open_client(base_url, org) as client:
        while len(found) < limit:
            page = client.jobs(
                statuses=statuses,
                analysis=analysis,
                labels=where,
                limit=min(200, limit - len(found)),
                cursor=cursor,
            )
            found.extend(page.jobs)
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        emit_json({"jobs": [job.raw for job in found], "more": cursor is not None})
        return 0
    emit_table(
        ("JOB", "STATUS", "PERCENT", "ANALYSIS", "QUEUED AT", "RESULT", "STAGE OR ERROR"),
        (
            (
                job.job_id,
                job.status,
                f"{job.progress_percent:.0f}",
                job.analysis,
                job.queued_at,
                job.result_id,
                job.error_code or stage_of(job) or None,
            )
            for job in found
        ),
    )
    if cursor is not None:
        say(f"there are older ones: --limit {limit * 2} shows more")
    return 0


@click.command()
@click.argument("job_id", type=WORD, metavar="JOB")
@click.option("--reason", type=TEXT, metavar="TEXT", help="Why, for the job's record.")
@json_option
@client_options
def cancel(job_id: str, reason: str | None, as_json: bool, base_url: str | None, org: str | None) -> int:
    """Cancel JOB. One that has ended stays as it is."""
    with open_client(base_url, org) as client:
        job = client.cancel(job_id, reason=reason)
    if as_json:
        emit_json(job.raw)
    elif job.status is JobStatus.CANCELED:
        print(f"job {job.job_id} is canceled")
    elif job.terminal:
        print(f"job {job.job_id} had already ended: {job.status}")
    else:
        print(f"job {job.job_id} is {job.status}; its worker was asked to stop")
    return 0
