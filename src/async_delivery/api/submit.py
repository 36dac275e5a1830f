"""Submitting: from the bytes of ``POST /analyze`` to a durable job, and to its result for a client that waits.

Outside the framework's machinery, like the other routes that are asked most: a plain function from a Call to an
Answer, put ahead of the framework by ``plain``. A short submit whose client does not wait need not even come here:
see ``submit_at_once``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from async_delivery.api.answer import Answer
from async_delivery.api.context import Api, refuse_unknown
from async_delivery.api.decode import decode_object
from async_delivery.api.errors import JobFailedError, error_answer
from async_delivery.api.request import Body, Call, Receive
from async_delivery.api.results import permalink_answer
from async_delivery.api.submission import (
    Keyed,
    Wish,
    accepted_answer,
    enter,
    keyed,
    location,
    media_type,
    note,
    wish_of,
)
from async_delivery.api.uploads import receive_upload
from async_delivery.domain.errors import (
    ConflictError,
    FieldIssue,
    IdempotencyInFlightError,
    ResultExpiredError,
    ValidationError,
)
from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.result import View
from async_delivery.engine import jobs
from async_delivery.engine.jobs import Submitted
from async_delivery.storage.contract import InputFile

# Bodies beyond this are decoded and judged on a thread.
INLINE_BYTES = 65_536


class Here(NamedTuple):
    """One request of this route."""

    api: Api
    call: Call
    receive: Receive


async def submit(api: Api, call: Call, query: bytes, receive: Receive) -> Answer:
    """``POST /analyze``: 202 once the job is durable, or 200 with its result for those who wait.

    Raises what becomes an error's answer.
    """
    if query and call.prefer.strict:
        refuse_unknown(parse_qs(query.decode("latin-1"), keep_blank_values=True), ())
    api.refuse_while_draining()
    here = Here(api, call, receive)
    own = keyed(api, call)
    with _in_flight(here, own.key):
        try:
            document, submitted = await _accept(here, own)
        except ValidationError as exc:
            raise own.with_unsaid(exc) from None
    wish = wish_of(api, call, document)
    note(call, submitted, wish)
    return await _answer(here, submitted.job, wish)


@contextmanager
def _in_flight(here: Here, key: str | None) -> Iterator[None]:
    """Others with the key are refused meanwhile."""
    if key is None:
        yield
        return
    entry = (here.call.org_id, key)
    here.api.in_flight.add(entry)
    try:
        yield
    finally:
        here.api.in_flight.discard(entry)


async def _accept(here: Here, own: Keyed) -> tuple[dict[str, Any], Submitted]:
    """Read, judge, keep. Returns what was asked and the job, which is durable then. Never keeps if there are faults."""
    match media_type(here.call):
        case "application/json":
            body = Body(here.call, here.receive, here.api.settings.max_body_bytes)
            return await _keep(here, own, await body.read(), None)
        case "multipart/form-data":
            content_type = here.call.only(b"content-type", "Content-Type") or ""
            data, sink = await receive_upload(here.api, here.call, here.receive, content_type)
            try:
                kept = await _keep(here, own, data, sink.file)
            except BaseException:
                await asyncio.shield(sink.abort())
                raise
            if kept[1].replayed:
                # The job has the file of the first request.
                await sink.abort()
            return kept
    raise ValidationError.of("Content-Type", "must be application/json or multipart/form-data")


async def _keep(
    here: Here, own: Keyed, data: bytes, file: InputFile | None
) -> tuple[dict[str, Any], Submitted]:
    api = here.api

    def judge() -> tuple[dict[str, Any], Any]:
        document = decode_object(data)
        return document, enter(api, here.call, own, document, file)

    document, kept = judge() if len(data) <= INLINE_BYTES else await api.run(judge)
    try:
        # Shielded: once it is on its way to the store, no cancellation here may leave its fate unknown.
        return document, await asyncio.shield(asyncio.wrap_future(kept))
    except ConflictError as exc:
        if own.key is None:
            raise
        raise IdempotencyInFlightError from exc


async def _answer(here: Here, job: Job, wish: Wish) -> Answer:
    api, call = here.api, here.call
    if wish.wait_seconds is None:
        return await _accepted(here, job, wish)
    # Without a free place to wait in, the job is accepted all the same and answered for at once.
    if not job.status.terminal and not api.held.full(call.org_id):
        with api.held.hold(call.org_id):
            job = await api.waits.until(
                lambda: api.read(lambda: jobs.find(api.rt, call.org_id, job.job_id)),
                job.job_id,
                lambda now: now.status.terminal,
                wish.wait_seconds,
                here.receive,
                heeds=lambda signal: signal.status.terminal,
            )
    if not job.status.terminal:
        return await _accepted(here, job, wish)
    if job.status is not JobStatus.COMPLETED or job.result_id is None:
        failed = error_answer(JobFailedError(job), call)
        return replace(failed, headers=[*failed.headers, *wish.applied])
    try:
        found = await permalink_answer(api, call, job.result_id, View.LATEST, frozenset())
    except ResultExpiredError as exc:
        # Its time was over before it could be read; the job is there, and the client has not heard of it yet.
        exc.details = (FieldIssue("job_id", job.job_id), FieldIssue("result_id", job.result_id))
        gone = error_answer(exc, call)
        return replace(gone, headers=[*gone.headers, location(job), *wish.applied])
    headers = [header for header in found.all_headers() if header[0] != b"cache-control"]
    return replace(found, headers=[*headers, (b"cache-control", b"no-store"), *wish.applied], block=b"")


async def _accepted(here: Here, job: Job, wish: Wish) -> Answer:
    return await here.api.read(lambda: accepted_answer(here.api, here.call, job, wish.applied))
