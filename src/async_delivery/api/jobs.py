"""The routes of jobs: lists, events, logs, cancel, retry, hold, erase. Submitting and status live beside."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Here, job_ident
from async_delivery.api.cursor import make_cursor, read_cursor
from async_delivery.api.decode import decode_object
from async_delivery.api.errors import NotAcceptableError
from async_delivery.api.request import Body
from async_delivery.api.status import job_document, retry_after
from async_delivery.api.submission import media_type
from async_delivery.domain.errors import FieldIssue, ValidationError
from async_delivery.domain.instant import format_instant, parse_instant
from async_delivery.domain.job import Job, JobId, JobStatus
from async_delivery.engine import jobs
from async_delivery.engine.submission import MAX_LABELS
from async_delivery.storage.contract import JobFilter

MAX_PAGE = 200
MAX_EVENT_PAGE = 1_000
MAX_REASON = 500
_LABEL = "label."
_MAX_FILTER = 256

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Entries of one page.")]


async def list_jobs(
    request: Request,
    status: Annotated[list[JobStatus] | None, Query(description="Only these states; repeatable.")] = None,
    analysis: Annotated[str | None, Query(max_length=_MAX_FILTER)] = None,
    created_after: Annotated[str | None, Query(description="RFC 3339; later than this.")] = None,
    created_before: Annotated[str | None, Query(description="RFC 3339; earlier than this.")] = None,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(max_length=1_000, description="next_cursor of the page before.")
    ] = None,
) -> Response:
    """The tenant's jobs, newest first. `label.KEY=VALUE` keeps those that carry the label, and may be repeated."""
    here = Here(request, free=_LABEL, repeatable=frozenset({"status"}))
    org_id = here.call.org_id
    where = JobFilter(
        statuses=tuple(sorted(set(status or ()))),
        analysis=_storable("analysis", analysis),
        labels=_labels(request),
        created_after=_instant("created_after", created_after),
        created_before=_instant("created_before", created_before),
    )
    filters = _text_of(where)
    before = read_cursor(org_id, filters, cursor) if cursor is not None else None

    def look() -> list[dict[str, Any]]:
        found = jobs.list_jobs(here.api.rt, org_id, where, limit + 1, before)
        return [job_document(here.api, job) for job in found]

    found = await here.read(look)
    more = len(found) > limit
    next_cursor = make_cursor(org_id, filters, JobId(found[limit - 1]["job_id"])) if more else None
    return here.json({"jobs": found[:limit], "next_cursor": next_cursor})


def _labels(request: Request) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith(_LABEL):
            key = _storable(name, name.removeprefix(_LABEL))
            if not key:
                raise ValidationError.of(name, f"the label's name is missing; write {_LABEL}NAME=VALUE")
            if key in labels or len(labels) == MAX_LABELS:
                raise ValidationError.of(name[:64], f"give each label once, at most {MAX_LABELS} of them")
            labels[key] = _storable(name, value) or ""
    return labels or None


def _storable(name: str, text: str | None) -> str | None:
    # Not every database takes U+0000 in a text, and none here has stored one.
    if text is not None and ("\0" in text or len(text) > _MAX_FILTER):
        raise ValidationError.of(
            name[:64].replace("\0", ""), f"must be at most {_MAX_FILTER} characters, none U+0000"
        )
    return text


def _instant(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_instant(text)
    except (ValueError, OverflowError):
        raise ValidationError.of(name, "must be an RFC 3339 instant such as 2026-03-01T12:00:00Z") from None


def _text_of(where: JobFilter) -> str:
    """The same text for the same filters, for cursors."""
    instants = [format_instant(at) if at else "" for at in (where.created_after, where.created_before)]
    labels = sorted((where.labels or {}).items())
    return repr((where.statuses, where.analysis, labels, instants))


async def list_events(
    request: Request,
    job_id: str,
    after: Annotated[int, Query(ge=0, le=2**62, description="Only events with a higher event_seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENT_PAGE)] = 200,
) -> Response:
    """A page of the job's events in their order. `next_after` is null once there are no more for now."""
    here = Here(request)
    if here.call.accepts_only("text/event-stream"):
        raise NotAcceptableError(
            "events are served as application/json; poll with ?after=, or wait on the job's status"
        )
    job = job_ident(job_id)
    found = await here.read(lambda: jobs.list_events(here.api.rt, here.call.org_id, job, after, limit + 1))
    page = found[:limit]
    return here.json(
        {
            "events": wire.event_objects(page),
            "next_after": page[-1].event_seq if len(found) > limit else None,
        }
    )


async def list_logs(request: Request, job_id: str) -> Response:
    """What the job's attempts printed, the last part of it, by attempt."""
    here = Here(request)
    found = await here.read(lambda: jobs.logs(here.api.rt, here.call.org_id, job_ident(job_id)))
    return here.json({"logs": [{"attempt": attempt, "text": text} for attempt, text in found]})


async def cancel_job(request: Request, job_id: str) -> Response:
    """Cancel a job; the body may give a reason: `{"reason": "..."}`. Repeating it changes nothing."""
    here = Here(request)
    reason = await _reason(here)
    job = await here.run(
        lambda: jobs.cancel(here.api.rt, here.call.org_id, job_ident(job_id), "tenant", reason)
    )
    return await _job_answer(here, job, 200 if job.status.terminal else 202)


async def _reason(here: Here) -> str | None:
    data = await Body(here.call, here.receive, here.api.settings.max_body_bytes).read()
    if not data:
        return None
    if media_type(here.call) != "application/json":
        raise ValidationError.of("Content-Type", "must be application/json, or the body empty")
    document = decode_object(data)
    if here.call.prefer.strict and (unknown := sorted(set(document) - {"reason"})):
        raise ValidationError(
            f"{unknown[0][:64]}: unknown key", [FieldIssue(name[:64], "unknown key") for name in unknown[:50]]
        )
    reason = document.get("reason")
    if reason is not None and (not isinstance(reason, str) or len(reason) > MAX_REASON):
        raise ValidationError.of("reason", f"must be a string of at most {MAX_REASON} characters")
    return reason


async def retry_job(request: Request, job_id: str) -> Response:
    """A new job with the same request, for one that failed or was canceled."""
    here = Here(request)
    here.api.refuse_while_draining()
    job = await here.run(lambda: jobs.retry(here.api.rt, here.api.queue, here.call.org_id, job_ident(job_id)))
    here.call.made = job
    return await _job_answer(here, job, 202, accepted=True)


async def hold_job(request: Request, job_id: str) -> Response:
    """Put the job under legal hold: neither cleanup nor erase touches it until the hold is lifted."""
    return await _hold(request, job_id, held=True)


async def lift_hold(request: Request, job_id: str) -> Response:
    """Lift the hold."""
    return await _hold(request, job_id, held=False)


async def _hold(request: Request, job_id: str, *, held: bool) -> Response:
    here = Here(request)
    job = await here.run(lambda: jobs.hold(here.api.rt, here.call.org_id, job_ident(job_id), held))
    return await _job_answer(here, job, 200)


async def erase_job(request: Request, job_id: str) -> Response:
    """Delete an ended job and all that belongs to it."""
    here = Here(request)
    await here.run(lambda: jobs.erase(here.api.rt, here.call.org_id, job_ident(job_id)))
    return Response(status_code=204)


async def _job_answer(here: Here, job: Job, status: int, *, accepted: bool = False) -> Response:
    here.call.correlated = job.correlation_id
    document = await here.read(lambda: job_document(here.api, job))
    headers = []
    if status == 202:
        headers.append((b"location", f"/analyze/jobs/{job.job_id}".encode("ascii")))
        headers.append(await here.read(lambda: retry_after(here.api, job)))
    content: dict[str, Any] = {"accepted": True} if accepted else {}
    content |= {"correlation_id": job.correlation_id, "job": document, "links": document["links"]}
    return here.json(content, status, headers)
