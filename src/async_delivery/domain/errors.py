"""The family of errors that callers can meet, each with a stable code.

Raised where the fact is known and mapped to HTTP or an exit code once, at the edge. Facts are attributes; the
message is one sentence for a person. Failures of a *job* are no errors of the service: see ``domain.failure``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FieldIssue:
    """One fault of a request: the field by its path (``params.stages``), and what would be right."""

    field: str
    issue: str


class AsyncDeliveryError(Exception):
    """Base of the family. ``code`` is part of the contract and never changes its meaning."""

    code = "internal"

    def __init__(self, message: str, details: Iterable[FieldIssue] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


class ValidationError(AsyncDeliveryError):
    """The request is malformed or breaks a rule; nothing was accepted."""

    code = "bad_request"

    @classmethod
    def of(cls, field: str, issue: str) -> ValidationError:
        """The common case of one faulty field."""
        return cls.listing([FieldIssue(field, issue)])

    @classmethod
    def listing(cls, issues: Sequence[FieldIssue]) -> ValidationError:
        """All that is wrong with a request, at least one thing; the message names the first and counts the others."""
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        return cls(f"{issues[0].field}: {issues[0].issue}{more}", issues)


class UnauthorizedError(AsyncDeliveryError):
    """No credential, or one that is not valid."""

    code = "unauthorized"


class ForbiddenError(AsyncDeliveryError):
    """The credential is valid but does not allow this."""

    code = "forbidden"


class NotFoundError(AsyncDeliveryError):
    """Unknown, or another tenant's: the two are told apart nowhere."""

    code = "not_found"

    def __init__(self, what: str = "resource") -> None:
        super().__init__(f"{what} not found")


class ConflictError(AsyncDeliveryError):
    """The resource's state does not allow the request."""

    code = "conflict"


class IdempotencyInFlightError(ConflictError):
    """The first request with this Idempotency-Key has not been committed yet."""

    def __init__(self, retry_after_seconds: int = 1) -> None:
        super().__init__(
            "the first request with this Idempotency-Key is still being processed; try again shortly"
        )
        self.retry_after_seconds = retry_after_seconds


class IdempotencyKeyReusedError(AsyncDeliveryError):
    """The Idempotency-Key was used with another body."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used with another request body",
            [FieldIssue("Idempotency-Key", "use a new key for a new request")],
        )


class ResultExpiredError(AsyncDeliveryError):
    """The result was this tenant's and its time is over."""

    code = "result_expired"

    def __init__(self, expired_at: datetime) -> None:
        super().__init__("this result has expired")
        self.expired_at = expired_at


class ResultCorruptError(AsyncDeliveryError):
    """The stored bytes of a result are not those that were stored: their SHA-256 differs."""

    code = "result_corrupt"

    def __init__(self, result_id: str) -> None:
        super().__init__(f"the stored result {result_id} is damaged; restore the store from a backup")
        self.result_id = result_id


class JobCorruptError(AsyncDeliveryError):
    """The row of a job holds something that this service never writes; ``what`` says what."""

    code = "job_corrupt"

    def __init__(self, job_id: str, what: str) -> None:
        super().__init__(
            f"job {job_id} is damaged in the store: {what}; see what else is wrong with: async-delivery store check"
        )
        self.job_id = job_id


class PayloadTooLargeError(AsyncDeliveryError):
    """The body or file is larger than the server takes."""

    code = "payload_too_large"


class LegalHoldError(AsyncDeliveryError):
    """The job is under hold and may not be erased."""

    code = "legal_hold"


class QuotaExceededError(AsyncDeliveryError):
    """A quota of the tenant is used up; the request may be repeated later."""

    code = "rate_limited"

    def __init__(self, quota: str, limit: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"the tenant's quota {quota} of {limit} is used up",
            [FieldIssue(f"quota.{quota}", f"at most {limit}; try again after {retry_after_seconds} s")],
        )
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(AsyncDeliveryError):
    """The service cannot do this now: the store refuses writes, or the server drains. Nothing was accepted."""

    code = "unavailable"

    def __init__(self, message: str, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NoRoomError(UnavailableError):
    """The disk of the store is full. Nothing of this was kept."""


class StoreFileError(AsyncDeliveryError):
    """The store file or its database cannot be used; says what is wrong and what to do. Nothing was changed."""

    code = "store_unusable"


class StoreBusyError(StoreFileError):
    """Another process holds the store (or another cleanup runs) and this one must not go on."""

    code = "store_busy"


class LeaseLostError(AsyncDeliveryError):
    """Another attempt owns the job, or it has ended; this caller's writes are refused."""

    code = "lease_lost"

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of job {job_id} no longer holds the lease")
        self.job_id = job_id
        self.attempt = attempt


class NotSerializableError(AsyncDeliveryError):
    """A value that has no canonical JSON form; ``path`` names the place in it."""

    code = "result_not_serializable"

    def __init__(self, path: str, issue: str) -> None:
        super().__init__(f"{path}: {issue}")
        self.path = path
        self.issue = issue
