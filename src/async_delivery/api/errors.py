"""From an error of the house to an answer: the only place where a code meets an HTTP status.

One body for everything that goes wrong, which is at the same time the older envelope and RFC 9457 problem details.
What nobody foresaw becomes ``internal`` and goes to the log with its request id; the answer says no more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from async_delivery.api.answer import JSON, NO_STORE, NOSNIFF, PROBLEM, Answer, Headers
from async_delivery.domain.errors import (
    AsyncDeliveryError,
    FieldIssue,
    NotFoundError,
    PayloadTooLargeError,
    ResultExpiredError,
    ValidationError,
)
from async_delivery.domain.instant import format_instant
from async_delivery.domain.job import Job

if TYPE_CHECKING:
    from async_delivery.api.request import Call

log = logging.getLogger("async_delivery.api")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means over HTTP."""

    status: int
    title: str


# A code never changes its meaning or its status; docs/reference/http-api.md lists the same.
KINDS = {
    "bad_request": Kind(400, "The request is malformed or breaks a rule"),
    "unauthorized": Kind(401, "A valid credential is needed"),
    "forbidden": Kind(403, "This is not allowed"),
    "not_found": Kind(404, "There is no such thing here"),
    "method_not_allowed": Kind(405, "The method is not for this route"),
    "not_acceptable": Kind(406, "The asked-for media type is not on offer"),
    "conflict": Kind(409, "The state of things does not allow this"),
    "result_expired": Kind(410, "The result has expired"),
    "payload_too_large": Kind(413, "The body or file is too large"),
    "idempotency_key_reused": Kind(422, "The Idempotency-Key was used with another request"),
    "legal_hold": Kind(423, "The job is under hold"),
    "job_failed": Kind(424, "The job ended without a result"),
    "rate_limited": Kind(429, "A quota is used up"),
    "internal": Kind(500, "Something went wrong here"),
    "unavailable": Kind(503, "Not now"),
}
_BY_STATUS = {kind.status: code for code, kind in KINDS.items()}


class NotAcceptableError(AsyncDeliveryError):
    """The client takes only media types that this route does not have."""

    code = "not_acceptable"


class MethodNotAllowedError(AsyncDeliveryError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this route knows {allowed}")
        self.allowed = allowed


class JobFailedError(AsyncDeliveryError):
    """A request that waited for a result, of a job that ended without one."""

    code = "job_failed"

    def __init__(self, job: Job) -> None:
        why = f": {job.error.message}" if job.error else ""
        details = [FieldIssue("job_id", job.job_id), FieldIssue("status", job.status)]
        if job.error:
            details.append(FieldIssue("error_code", job.error.code))
            details.append(FieldIssue("retry_hint", job.error.retry_hint))
        super().__init__(f"the job ended as {job.status}{why}", details)
        self.job = job


class ClientGoneError(Exception):
    """The client closed the connection: nobody is left to answer."""


def error_answer(exc: Exception, call: Call) -> Answer:
    """The answer that ``exc`` becomes."""
    known = _known(exc)
    if known is None or known.code not in KINDS:
        call.logged = exc
        log.error(
            "request %s: %s %s failed",
            call.request_id,
            call.method,
            call.instance,
            exc_info=exc,
            extra={"request_id": call.request_id},
        )
        known = AsyncDeliveryError(
            f"something went wrong here; the log has it under request id {call.request_id}"
        )
    kind = KINDS[known.code]
    body = orjson.dumps(
        {
            "ok": False,
            "error": known.code,
            "code": known.code,
            "message": known.message,
            "details": [{"field": one.field, "issue": str(one.issue)} for one in known.details],
            "request_id": call.request_id,
            "type": f"urn:async-delivery:error:{known.code}",
            "title": kind.title,
            "status": kind.status,
            "instance": call.instance,
            **_facts(known),
        }
    )
    headers = [
        PROBLEM if call.wants_problem() else JSON,
        (b"content-length", b"%d" % len(body)),
        NO_STORE,
        NOSNIFF,
        *_headers(known),
    ]
    return Answer(kind.status, headers, (body,))


def _known(exc: Exception) -> AsyncDeliveryError | None:
    match exc:
        case AsyncDeliveryError():
            return exc
        case RequestValidationError():
            issues = [FieldIssue(_field(one["loc"]), str(one["msg"])) for one in exc.errors()]
            return ValidationError(f"{issues[0].field}: {issues[0].issue}", issues)
        case HTTPException(status_code=404):
            return NotFoundError("route")
        case HTTPException(status_code=413):
            return PayloadTooLargeError(str(exc.detail))
        case HTTPException() if exc.status_code in _BY_STATUS:
            error = AsyncDeliveryError(str(exc.detail))
            error.code = _BY_STATUS[exc.status_code]
            return error
    return None


def _field(place: Sequence[Any]) -> str:
    # ("query", "limit") or ("query", "status", 0): where it stood is no part of its name.
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place[1:])
    return name.removeprefix(".") or str(place[0])


def _facts(error: AsyncDeliveryError) -> dict[str, Any]:
    """What some codes say beyond the common members."""
    match error:
        case ResultExpiredError():
            return {"expired_at": format_instant(error.expired_at)}
        case JobFailedError(job=job):
            why = job.error
            return {
                "job_id": job.job_id,
                "job_status": str(job.status),
                "error_code": why.code if why else None,
                "error_message": why.message if why else None,
                "retryable": why.retryable if why else None,
                "retry_hint": str(why.retry_hint) if why else None,
            }
    return {}


def _headers(error: AsyncDeliveryError) -> Headers:
    headers: Headers = []
    seconds = getattr(error, "retry_after_seconds", None)
    if seconds is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if isinstance(error, MethodNotAllowedError):
        headers.append((b"allow", error.allowed.encode("ascii")))
    if isinstance(error, JobFailedError):
        headers.append((b"location", f"/analyze/jobs/{error.job.job_id}".encode("latin-1")))
    return headers
