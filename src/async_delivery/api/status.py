"""The status of a job: the route that everybody polls, outside the framework's machinery like the permalink.

A plain function from a Call to an Answer; long-polling on the way if the client prefers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from async_delivery.api import wire
from async_delivery.api.context import Api, job_ident, refuse_unknown
from async_delivery.api.errors import JSON, NOSNIFF, Answer, Headers
from async_delivery.api.request import Call, Receive
from async_delivery.api.results import VARY, matched_tags
from async_delivery.domain.errors import NotFoundError
from async_delivery.domain.job import Job, JobId
from async_delivery.domain.result import result_over
from async_delivery.engine import jobs
from async_delivery.storage.contract import Reader

# An answer carries this many events at most; its links say where the rest is.
MAX_EVENTS = 1_000
# Answers that are remembered; most are much shorter.
_MEMORABLE_BYTES = 16_384

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


@dataclass(frozen=True, slots=True)
class Written:
    """A status answer as it was last written, up to what depends on the moment.

    state       what in the job tells one state from another
    first_seq   its first event then; cleanup takes events away from the front
    """

    state: tuple[Any, ...]
    first_seq: int
    data: bytes


def _answer(api: Api, call: Call, job_id: JobId, tags: frozenset[bytes], applied: Headers) -> Answer:
    def look(reader: Reader) -> tuple[Job, bytes | None]:
        job = reader.find_job(call.org_id, job_id)
        if job is None:
            raise NotFoundError("job")
        call.correlated = job.correlation_id
        current = bool(tags) and (_tag(job) in tags or b"*" in tags)
        return job, None if current else _written(api, reader, job)

    job, written = api.rt.store.read(look)
    headers = [*_headers(api, job), NOSNIFF, *applied]
    if written is None:
        return Answer(304, headers)
    eta, request_id = orjson.dumps(api.estimates.eta_seconds(job)), orjson.dumps(call.request_id)
    body = b'%s%s},"request_id":%s}' % (written, eta, request_id)
    return Answer(200, [*headers, JSON, (b"content-length", b"%d" % len(body))], (body,))


def _written(api: Api, reader: Reader, job: Job) -> bytes:
    """``{"ok":true,...,"job":{...,"eta_seconds":``, from memory if nothing in it has changed."""
    now = api.rt.clock.now()
    state = (job.event_seq, job.updated_at, job.held, result_over(job, now))
    known = api.written.get(job.job_id)
    if known is not None and known.state == state and known.first_seq == _first_seq(reader, job):
        return known.data
    events = reader.list_events(job.org_id, job.job_id, 0, MAX_EVENTS)
    document = wire.job_object(job, now)
    document["events"] = wire.event_objects(events)
    if events and events[-1].event_seq < job.event_seq:
        document["links"]["more_events"] = f"{document['links']['events']}?after={events[-1].event_seq}"
    content = orjson.dumps({"ok": True, "correlation_id": job.correlation_id, "job": document})
    data = content[:-2] + b',"eta_seconds":'
    if len(data) <= _MEMORABLE_BYTES:
        api.written.put(job.job_id, Written(state, events[0].event_seq if events else 0, data))
    return data


def _first_seq(reader: Reader, job: Job) -> int:
    if not job.status.terminal:
        return 1  # nothing is taken from a job that has not ended
    events = reader.list_events(job.org_id, job.job_id, 0, 1)
    return events[0].event_seq if events else 0


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
    return {**wire.job_object(job, api.rt.clock.now()), "eta_seconds": api.estimates.eta_seconds(job)}
