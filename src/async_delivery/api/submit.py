"""Submitting: from the bytes of ``POST /analyze`` to a durable job, and to its result for a client that waits.

What a request means is judged by the engine; here are the forms it may come in and the ways it may be answered.
Outside the framework's machinery, like the other routes that are asked most: a plain function from a Call to an
Answer, put ahead of the framework by ``plain``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from async_delivery.api.answer import Answer, Headers
from async_delivery.api.context import Api, json_answer, refuse_unknown
from async_delivery.api.decode import decode_object
from async_delivery.api.errors import JobFailedError, error_answer
from async_delivery.api.request import Body, Call, Receive
from async_delivery.api.results import permalink_answer
from async_delivery.api.status import job_document, retry_after
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
from async_delivery.engine.submission import Submission

# Bodies beyond this are decoded and judged on a thread.
INLINE_BYTES = 65_536

_KNOWN: Mapping[str, frozenset[str]] = {
    "": frozenset({"analysis", "query", "params", "timeout_seconds", "labels", "options"}),
    "options": frozenset({"async_mode", "priority", "results_ttl_seconds"}),
    "options.async_mode": frozenset({"requested"}),
}
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_MAX_UNKNOWN = 50  # of which a refusal tells
_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class _Wish:
    """How the client wants to be answered.

    wait_seconds   how long to hold the answer; None: not at all, 202 at once
    applied        the preferences that were honoured, for Preference-Applied
    """

    wait_seconds: float | None
    applied: Headers


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
    key, faults = _idempotency_key(here.call)
    with _in_flight(here, key):
        try:
            document, submitted = await _accept(here, key, faults)
        except ValidationError as exc:
            # Where the body could not be judged, the key's fault is still unsaid.
            unsaid = [fault for fault in faults if fault not in exc.details]
            raise (ValidationError.listing([*unsaid, *exc.details]) if unsaid else exc) from None
    here.call.correlated = submitted.job.correlation_id
    if not submitted.replayed:
        here.call.made = submitted.job
    wish = _wish(here, document)
    if submitted.replayed:
        wish.applied.append((b"idempotency-replayed", b"true"))
    return await _answer(here, submitted.job, wish)


def _idempotency_key(call: Call) -> tuple[str | None, list[FieldIssue]]:
    """The key, or what is wrong with it: no reason to keep the body's faults from the client."""
    try:
        key = call.only(b"idempotency-key", "Idempotency-Key")
    except ValidationError as exc:
        return None, list(exc.details)
    if key is not None and not _KEY.match(key):
        return None, [FieldIssue("Idempotency-Key", "must be 1 to 255 printable ASCII characters")]
    return key, []


@contextmanager
def _in_flight(here: Here, key: str | None) -> Iterator[None]:
    """Raises IdempotencyInFlightError while another request with the key is on its way through this process."""
    if key is None:
        yield
        return
    entry = (here.call.org_id, key)
    if entry in here.api.in_flight:
        raise IdempotencyInFlightError
    here.api.in_flight.add(entry)
    try:
        yield
    finally:
        here.api.in_flight.discard(entry)


async def _accept(
    here: Here, key: str | None, faults: Sequence[FieldIssue]
) -> tuple[dict[str, Any], Submitted]:
    """Read, judge, keep. Returns what was asked and the job, which is durable then. Never keeps if there are faults."""
    base = Submission(faults=tuple(faults))
    content_type = here.call.only(b"content-type", "Content-Type") or ""
    match media_type(content_type):
        case "application/json":
            body = Body(here.call, here.receive, here.api.settings.max_body_bytes)
            data = await body.read()
            return await _keep(here, key, data, base)
        case "multipart/form-data":
            data, sink = await receive_upload(here.api, here.call, here.receive, content_type)
            try:
                kept = await _keep(here, key, data, replace(base, input=sink.file))
            except BaseException:
                await asyncio.shield(sink.abort())
                raise
            if kept[1].replayed:
                # The job has the file of the first request.
                await sink.abort()
            return kept
    raise ValidationError.of("Content-Type", "must be application/json or multipart/form-data")


def media_type(content_type: str) -> str:
    """The media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


async def _keep(
    here: Here, key: str | None, data: bytes, base: Submission
) -> tuple[dict[str, Any], Submitted]:
    api, call = here.api, here.call
    facts = replace(
        base,
        idempotency_key=key,
        correlation_id=call.correlation_id(),
        traceparent=_traceparent(call),
    )

    def judge() -> tuple[dict[str, Any], asyncio.Future[Submitted] | Any]:
        document = decode_object(data)
        asked = _submission(document, facts, strict=call.prefer.strict)
        return document, jobs.submit(api.rt, api.queue, call.org_id, asked)

    document, kept = judge() if len(data) <= INLINE_BYTES else await api.run(judge)
    try:
        # Shielded: once it is on its way to the store, no cancellation here may leave its fate unknown.
        return document, await asyncio.shield(asyncio.wrap_future(kept))
    except ConflictError as exc:
        if key is None:
            raise
        # Another process has just committed the first request with this key.
        raise IdempotencyInFlightError from exc


def _submission(document: dict[str, Any], facts: Submission, *, strict: bool) -> Submission:
    faults = list(facts.faults)
    options = _object(document, "options", faults)
    async_mode = _object(options, "async_mode", faults, "options.")
    if not isinstance(async_mode.get("requested", False), bool):
        faults.append(FieldIssue("options.async_mode.requested", "must be true or false"))
    if strict:
        faults += _unknown({"": document, "options": options, "options.async_mode": async_mode})
    return replace(
        facts,
        faults=tuple(faults),
        analysis=document.get("analysis"),
        query=document.get("query"),
        params=document.get("params"),
        timeout_seconds=document.get("timeout_seconds"),
        labels=document.get("labels"),
        priority=options.get("priority"),
        results_ttl_seconds=options.get("results_ttl_seconds"),
    )


def _object(parent: dict[str, Any], name: str, faults: list[FieldIssue], prefix: str = "") -> dict[str, Any]:
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        faults.append(FieldIssue(f"{prefix}{name}", "must be an object"))
        return {}
    return value


def _unknown(levels: Mapping[str, dict[str, Any]]) -> list[FieldIssue]:
    unknown = [
        f"{path}.{name[:64]}" if path else name[:64]
        for path, value in levels.items()
        for name in value
        if name not in _KNOWN[path]
    ]
    return [FieldIssue(name, "unknown key") for name in unknown[:_MAX_UNKNOWN]]


def _traceparent(call: Call) -> str | None:
    values = call.headers.get(b"traceparent", [])
    text = values[0].decode("latin-1") if len(values) == 1 else ""
    return text if _TRACEPARENT.match(text) else None


def _wish(here: Here, document: dict[str, Any]) -> _Wish:
    prefer, longest = here.call.prefer, here.api.settings.max_wait_seconds
    applied = ["handling=strict"] if prefer.strict else []
    requested = ((document.get("options") or {}).get("async_mode") or {}).get("requested", False)
    seconds: float | None = None
    if prefer.respond_async:
        applied.append("respond-async")
    if prefer.wait_seconds is not None:
        # With respond-async as well: held for so long, then answered asynchronously (RFC 7240, section 4.3).
        seconds = min(prefer.wait_seconds, longest)
        applied.append(f"wait={seconds:g}")
    elif not (prefer.respond_async or requested):
        seconds = longest
    return _Wish(seconds, [(b"preference-applied", ", ".join(applied).encode())] if applied else [])


async def _answer(here: Here, job: Job, wish: _Wish) -> Answer:
    api, call = here.api, here.call
    if wish.wait_seconds is None:
        return await _accepted(here, job, wish.applied)
    # Without a free place to wait in, the job is accepted all the same and answered for at once.
    if not job.status.terminal and not api.held.full(call.org_id):
        with api.held.hold(call.org_id):
            job = await api.waits.until(
                lambda: api.read(lambda: jobs.find(api.rt, call.org_id, job.job_id)),
                job.job_id,
                lambda now: now.status.terminal,
                wish.wait_seconds,
                here.receive,
            )
    if not job.status.terminal:
        return await _accepted(here, job, wish.applied)
    if job.status is not JobStatus.COMPLETED or job.result_id is None:
        failed = error_answer(JobFailedError(job), call)
        return replace(failed, headers=[*failed.headers, *wish.applied])
    try:
        found = await permalink_answer(api, call, job.result_id, View.LATEST, frozenset())
    except ResultExpiredError as exc:
        # Its time was over before it could be read; the job is there, and the client has not heard of it yet.
        exc.details = (FieldIssue("job_id", job.job_id), FieldIssue("result_id", job.result_id))
        gone = error_answer(exc, call)
        return replace(gone, headers=[*gone.headers, _location(job), *wish.applied])
    headers = [header for header in found.all_headers() if header[0] != b"cache-control"]
    return replace(found, headers=[*headers, (b"cache-control", b"no-store"), *wish.applied], block=b"")


def _location(job: Job) -> tuple[bytes, bytes]:
    return b"location", f"/analyze/jobs/{job.job_id}".encode("ascii")


async def _accepted(here: Here, job: Job, applied: Headers) -> Answer:
    api, call = here.api, here.call
    document = await api.read(lambda: job_document(api, job))
    headers: Headers = [_location(job), *applied]
    if not job.status.terminal:
        headers.append(await api.read(lambda: retry_after(api, job)))
    return json_answer(
        202,
        {
            "ok": True,
            "accepted": True,
            "correlation_id": job.correlation_id,
            "job": document,
            "links": document["links"],
            "request_id": call.request_id,
        },
        headers,
    )
