"""What a submit asks for and how it wants to be answered, from its headers and its document. Nothing here waits.

Shared by the two ways that a submit may go: ``submit``, which reads bodies and holds answers, and ``submit_at_once``.
What the values mean is judged by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import orjson

from async_delivery.api import wire
from async_delivery.api.answer import JSON, NO_STORE, NOSNIFF, Answer, Headers, header_block
from async_delivery.api.context import Api
from async_delivery.api.request import Call
from async_delivery.domain.errors import FieldIssue, IdempotencyInFlightError, ValidationError
from async_delivery.domain.job import Job
from async_delivery.engine import jobs
from async_delivery.engine.estimates import pause_seconds
from async_delivery.engine.jobs import Submitted
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import InputFile

_KNOWN: Mapping[str, frozenset[str]] = {
    "": frozenset({"analysis", "query", "params", "timeout_seconds", "labels", "options"}),
    "options": frozenset({"async_mode", "priority", "results_ttl_seconds"}),
    "options.async_mode": frozenset({"requested"}),
}
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_MAX_UNKNOWN = 50  # of which a refusal tells
_KEY = re.compile(r"[\x20-\x7e]{1,255}\Z")
_BLOCK = header_block((JSON, NOSNIFF, NO_STORE))


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request's Idempotency-Key, or what is wrong with it: no reason to keep the body's faults from the client."""

    key: str | None
    faults: Sequence[FieldIssue] = ()

    def with_unsaid(self, exc: ValidationError) -> ValidationError:
        """Where the body could not be judged, the key's fault is still unsaid."""
        unsaid = [fault for fault in self.faults if fault not in exc.details]
        return ValidationError.listing([*unsaid, *exc.details]) if unsaid else exc


_KEYLESS = Keyed(None)


def keyed(api: Api, call: Call) -> Keyed:
    """Raises IdempotencyInFlightError while another request with the key is on its way through this process."""
    try:
        key = call.only(b"idempotency-key", "Idempotency-Key")
    except ValidationError as exc:
        return Keyed(None, exc.details)
    if key is None:
        return _KEYLESS
    if not _KEY.match(key):
        return Keyed(None, [FieldIssue("Idempotency-Key", "must be 1 to 255 printable ASCII characters")])
    if (call.org_id, key) in api.in_flight:
        raise IdempotencyInFlightError
    return Keyed(key)


def media_type(call: Call) -> str:
    """Of the body, without its parameters, in lower case. Raises ValidationError if it is given twice."""
    text = call.only(b"content-type", "Content-Type") or ""
    return text.partition(";")[0].strip().lower()


def enter(
    api: Api, call: Call, own: Keyed, document: dict[str, Any], file: InputFile | None = None
) -> Future[Submitted]:
    """Hand what is asked for to the engine; the future is done when it is durable. Raises ValidationError.

    The future raises ConflictError where another process has just committed the first request with the key.
    """
    asked = _submission(call, own, document, file)
    return jobs.submit(api.rt, api.queue, call.org_id, asked)


def _submission(call: Call, own: Keyed, document: dict[str, Any], file: InputFile | None) -> Submission:
    faults = list(own.faults)
    options = _object(document, "options", faults)
    async_mode = _object(options, "async_mode", faults, "options.")
    if not isinstance(async_mode.get("requested", False), bool):
        faults.append(FieldIssue("options.async_mode.requested", "must be true or false"))
    if call.prefer.strict:
        faults += _unknown({"": document, "options": options, "options.async_mode": async_mode})
    return Submission(
        analysis=document.get("analysis"),
        query=document.get("query"),
        params=document.get("params"),
        timeout_seconds=document.get("timeout_seconds"),
        labels=document.get("labels"),
        priority=options.get("priority"),
        results_ttl_seconds=options.get("results_ttl_seconds"),
        input=file,
        idempotency_key=own.key,
        correlation_id=call.correlation_id(),
        traceparent=_traceparent(call),
        faults=tuple(faults),
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
    values = call.headers.get(b"traceparent")
    if values is None or len(values) != 1:
        return None
    text = values[0].decode("latin-1")
    return text if _TRACEPARENT.match(text) else None


@dataclass(slots=True)
class Wish:
    """How the client wants to be answered.

    wait_seconds   how long to hold the answer; None: not at all, 202 at once
    applied        the preferences that were honoured, for Preference-Applied
    """

    wait_seconds: float | None
    applied: Headers


def wish_of(api: Api, call: Call, document: dict[str, Any]) -> Wish:
    """From Prefer and ``options.async_mode``, which need not have been judged."""
    prefer, longest = call.prefer, api.settings.max_wait_seconds
    applied = ["handling=strict"] if prefer.strict else []
    seconds: float | None = None
    if prefer.respond_async:
        applied.append("respond-async")
    if prefer.wait_seconds is not None:
        # With respond-async as well: held for so long, then answered asynchronously (RFC 7240, section 4.3).
        seconds = min(prefer.wait_seconds, longest)
        applied.append(f"wait={seconds:g}")
    elif not (prefer.respond_async or _async_mode(document)):
        seconds = longest
    return Wish(seconds, [(b"preference-applied", ", ".join(applied).encode())] if applied else [])


def _async_mode(document: dict[str, Any]) -> bool:
    options = document.get("options")
    mode = options.get("async_mode") if isinstance(options, dict) else None
    return isinstance(mode, dict) and mode.get("requested") is True


def note(call: Call, submitted: Submitted, wish: Wish) -> None:
    """Keep what the answer is about for those who are told of it, and for the client that it is a replay."""
    call.correlated = submitted.job.correlation_id
    if submitted.replayed:
        wish.applied.append((b"idempotency-replayed", b"true"))
    else:
        call.made = submitted.job


def location(job: Job) -> tuple[bytes, bytes]:
    """The header that says where the job is."""
    return b"location", f"/analyze/jobs/{job.job_id}".encode("ascii")


def accepted_answer(api: Api, call: Call, job: Job, applied: Headers) -> Answer:
    """202 for a job that is kept. Asks the store for typical run times now and then."""
    document = wire.job_object(job, api.rt.clock.now())
    document["eta_seconds"] = eta = api.estimates.eta_seconds(job)
    body = orjson.dumps(
        {
            "ok": True,
            "accepted": True,
            "correlation_id": job.correlation_id,
            "job": document,
            "links": document["links"],
            "request_id": call.request_id,
        }
    )
    headers: Headers = [(b"content-length", b"%d" % len(body)), location(job), *applied]
    if not job.status.terminal:
        headers.append((b"retry-after", b"%d" % pause_seconds(eta)))
    return Answer(202, headers, (body,), block=_BLOCK)
