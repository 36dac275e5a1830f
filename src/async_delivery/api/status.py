"""The status of a job: the route that everybody polls, outside the framework's machinery like the permalink.

A plain function from a Call to an Answer; long-polling on the way if the client prefers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from async_delivery.api import wire
from async_delivery.api.answer import JSON, NOSNIFF, Answer, Headers, header_block
from async_delivery.api.context import Api, job_ident, refuse_unknown
from async_delivery.api.request import Call, Receive
from async_delivery.api.results import VARY, is_current, matched_tags
from async_delivery.domain.errors import NotFoundError
from async_delivery.domain.job import Job, JobId
from async_delivery.domain.result import over_at, result_over
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import jobs
from async_delivery.storage.contract import Reader, SeenJob

# An answer carries this many events at most; its links say where the rest is.
MAX_EVENTS = 1_000
# Answers that are remembered; most are much shorter.
_MEMORABLE_BYTES = 1_048_576

_BARE = header_block(((b"cache-control", b"private, no-cache"), VARY, NOSNIFF))
_BLOCK = _BARE + header_block((JSON,))


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
    return await api.read(lambda: status_answer(api, call, job, tags, applied))


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


class Known(NamedTuple):
    """A job as it was seen; ``version`` is the store's content that it was seen in, see ``Store.version``."""

    version: bytes | None
    seen: SeenJob


@dataclass(frozen=True, slots=True)
class Written:
    """A status answer as it was last written, up to what depends on the moment.

    seen        the job that it is of, and the first of its events: cleanup takes those away from the front
    block       the headers, but for those that depend on the moment
    over_at     from when on its result cannot be read any more; None before it has ended
    over        that was so then
    before      ``{"ok":true,...,"job":{...`` up to the events
    events      the events, with commas between them; none is ever changed, so a later answer begins with the same
    last_seq    the last of them, and how many they are
    ended       the body of an ended job up to the request id, as nothing of it depends on the moment; else empty
    """

    seen: SeenJob
    block: bytes
    over_at: datetime | None
    over: bool
    before: bytes
    events: bytes
    last_seq: int
    count: int
    ended: bytes


def status_answer(api: Api, call: Call, job_id: JobId, tags: frozenset[bytes], applied: Headers) -> Answer:
    """The answer as the job is now; 304 if its tag is one of ``tags``. Raises NotFoundError."""
    seen = _see(api, call.org_id, job_id)
    call.correlated = seen.job.correlation_id
    if tags and is_current(tag := _tag(seen.job), tags):
        return Answer(304, _waiting(api, seen.job, [(b"etag", b"W/" + tag), *applied]), block=_BARE)
    written = api.written.get(job_id)
    if written is None or written.seen is not seen or written.over != _is_over(written.over_at, api):
        known = written
        written = api.rt.store.read(lambda reader: _write(api, reader, call.org_id, job_id, known))
    request_id = orjson.dumps(call.request_id)
    if written.ended:
        body = b"%s%s}" % (written.ended, request_id)
        return Answer(200, applied, (body,), block=_with_length(written, body))
    job = written.seen.job
    body = b"%s%s}" % (_with_eta(written.before, written.events, api.estimates.eta_seconds(job)), request_id)
    return Answer(200, _waiting(api, job, applied), (body,), block=_with_length(written, body))


def _is_over(at: datetime | None, api: Api) -> bool:
    return at is not None and at <= api.rt.clock.now()


def _with_length(written: Written, body: bytes) -> bytes:
    return b"%scontent-length: %d\r\n" % (written.block, len(body))


def _see(api: Api, org_id: OrgId, job_id: JobId) -> SeenJob:
    # Asked for before the job is: a commit from here on is one that the next request sees.
    version = api.rt.store.version()
    known = api.known_jobs.get((org_id, job_id))
    if known is not None and known.version == version:
        return known.seen
    seen = api.rt.store.ask(lambda reader: reader.see_job(org_id, job_id))
    if seen is None:
        raise NotFoundError("job")
    if version is not None:
        api.known_jobs.put((org_id, job_id), Known(version, seen))
    return seen


def _with_eta(before: bytes, events: bytes, eta_seconds: float | None) -> bytes:
    return b'%s,"events":[%s],"eta_seconds":%s},"request_id":' % (before, events, orjson.dumps(eta_seconds))


def _waiting(api: Api, job: Job, applied: Headers) -> Headers:
    return applied if job.status.terminal else [*applied, retry_after(api, job)]


def _write(api: Api, reader: Reader, org_id: OrgId, job_id: JobId, known: Written | None) -> Written:
    """The job and its events as they are at one moment; only those are asked for that are not ``known``."""
    seen = reader.see_job(org_id, job_id)
    if seen is None:
        raise NotFoundError("job")
    job, now = seen.job, api.rt.clock.now()
    written, last_seq, count = b"", 0, 0
    if known is not None and known.seen.first_seq == seen.first_seq:
        written, last_seq, count = known.events, known.last_seq, known.count
    new = reader.list_events(org_id, job_id, last_seq, MAX_EVENTS - count) if count < MAX_EVENTS else []
    if new:
        added = orjson.dumps(wire.event_objects(new))[1:-1]
        written = b"%s,%s" % (written, added) if written else added
        last_seq, count = new[-1].event_seq, count + len(new)
    document = wire.job_object(job, now)
    if count and last_seq < job.event_seq:
        document["links"]["more_events"] = f"{document['links']['events']}?after={last_seq}"
    before = orjson.dumps({"ok": True, "correlation_id": job.correlation_id, "job": document})[:-2]
    ended = _with_eta(before, written, api.estimates.eta_seconds(job)) if job.status.terminal else b""
    block = b"%setag: W/%s\r\n" % (_BLOCK, _tag(job))
    made = Written(seen, block, over_at(job), result_over(job, now), before, written, last_seq, count, ended)
    size = len(before) + len(written) + len(ended)
    if size <= _MEMORABLE_BYTES:
        api.written.put(job_id, made, size)
    return made


def retry_after(api: Api, job: Job) -> tuple[bytes, bytes]:
    """When to ask again for a job that has not ended."""
    return b"retry-after", b"%d" % api.estimates.retry_after_seconds(job)


def job_document(api: Api, job: Job) -> dict[str, Any]:
    """The job without its events. Asks the store for typical run times now and then."""
    return {**wire.job_object(job, api.rt.clock.now()), "eta_seconds": api.estimates.eta_seconds(job)}
