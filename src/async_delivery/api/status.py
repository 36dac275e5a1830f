"""The status of a job: the route that everybody polls, outside the framework's machinery like the permalink.

A plain function from a Call to an Answer; long-polling on the way if the client prefers it.
"""

from __future__ import annotations

from typing import Any

from async_delivery.api import wire
from async_delivery.api.context import Api, job_ident, json_answer, refuse_unknown
from async_delivery.api.errors import NOSNIFF, Answer, Headers
from async_delivery.api.request import Call, Receive
from async_delivery.api.results import VARY, matched_tags
from async_delivery.domain.job import Job, JobId
from async_delivery.engine import jobs

# An answer carries this many events at most; its links say where the rest is.
MAX_EVENTS = 1_000

_NO_CACHE = (b"cache-control", b"private, no-cache")


async def job_status(api: Api, call: Call, job_id: str, query: bytes, receive: Receive) -> Answer:
    """``GET /analyze/jobs/{job_id}``. Raises what becomes 400, 404 and 429."""
    if query and call.prefer.strict:
        refuse_unknown([part.partition("=")[0] for part in query.decode("latin-1").split("&")], ())
    job = job_ident(job_id)
    tags = matched_tags(call)
    applied: Headers = []
    if call.prefer.wait_seconds is not None:
        seconds = min(call.prefer.wait_seconds, api.settings.max_wait_seconds)
        applied.append((b"preference-applied", b"wait=%d" % seconds))
        await _first_change(api, call, job, tags, seconds, receive)
    return await api.read(lambda: _answer(api, call, job, tags, applied))


async def _first_change(
    api: Api, call: Call, job_id: JobId, tags: frozenset[bytes], seconds: float, receive: Receive
) -> None:
    """Until the job is no longer what the client knows: by its tag, else as it is now. An ended job changes no more."""
    known: set[bytes] = set(tags)

    def changed(job: Job) -> bool:
        if not known:
            known.add(_tag(job))
        return job.status.terminal or _tag(job) not in known

    with api.held.hold(call.org_id):
        await api.waits.until(
            lambda: api.read(lambda: jobs.find(api.rt, call.org_id, job_id)),
            job_id,
            changed,
            seconds,
            receive,
        )


def _tag(job: Job) -> bytes:
    return b'"%d"' % job.event_seq


def _answer(api: Api, call: Call, job_id: JobId, tags: frozenset[bytes], applied: Headers) -> Answer:
    if tags:
        job = jobs.find(api.rt, call.org_id, job_id)
        if _tag(job) in tags or b"*" in tags:
            return Answer(304, [*_headers(api, job), *applied, NOSNIFF])
    view = jobs.status(api.rt, call.org_id, job_id, MAX_EVENTS)
    job = view.job
    document = job_document(api, job)
    document["events"] = wire.event_objects(view.events)
    if view.events and view.events[-1].event_seq < job.event_seq:
        document["links"]["more_events"] = f"{document['links']['events']}?after={view.events[-1].event_seq}"
    content = {
        "ok": True,
        "correlation_id": job.correlation_id,
        "job": document,
        "request_id": call.request_id,
    }
    return json_answer(200, content, [*_headers(api, job), *applied])


def _headers(api: Api, job: Job) -> Headers:
    headers: Headers = [(b"etag", b"W/" + _tag(job)), _NO_CACHE, VARY]
    if not job.status.terminal:
        headers.append(retry_after(api, job))
    return headers


def retry_after(api: Api, job: Job) -> tuple[bytes, bytes]:
    """When to ask again for a job that has not ended."""
    return b"retry-after", b"%d" % api.estimates.retry_after_seconds(job)


def job_document(api: Api, job: Job) -> dict[str, Any]:
    """The job without its events. Asks the store for typical run times now and then."""
    return wire.job_object(job, api.estimates.eta_seconds(job))
