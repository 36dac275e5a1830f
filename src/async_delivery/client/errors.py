"""What the client raises. How a refusal of the server becomes one of these lives in ``http``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_delivery.client.values import Job


class ClientError(Exception):
    """Base of everything this client raises."""


class ConnectionFailed(ClientError):  # noqa: N818  says what happened, as the builtins it stands beside do
    """The server cannot be reached, or the connection broke."""


class WaitTimeout(ClientError):  # noqa: N818  the same
    """The job had not ended when the caller's patience did."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"job {job.job_id} is still {job.status} after {seconds:g} s")
        self.job = job


class ApiError(ClientError):
    """The server refused a request.

    code         stable, such as ``not_found``
    status       of HTTP
    details      (field, issue) for each fault of the request
    request_id   the server's name for this request, for its logs
    retry_after_seconds  when to try again, if the server said so
    """

    def __init__(
        self,
        code: str,
        status: int,
        message: str,
        details: Sequence[tuple[str, str]] = (),
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.message = code, status, message
        self.details = tuple(details)
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        said = [f"{name}: {issue}" for name, issue in self.details]
        # The message of a request with one fault repeats that fault.
        more = "; ".join(text for text in said if text not in self.message)
        return f"{self.code} ({self.status}): {self.message}{f' [{more}]' if more else ''}"


class NotFound(ApiError):  # noqa: N818  named as the codes of the API are
    """Unknown, or another tenant's."""


class ResultExpired(ApiError):  # noqa: N818
    """The result was this tenant's and its time is over; ``expired_at`` says since when."""

    expired_at: str | None = None


class Unavailable(ApiError):  # noqa: N818
    """The server cannot take this now; nothing was accepted."""


KINDS: Mapping[str, type[ApiError]] = {
    "not_found": NotFound,
    "result_expired": ResultExpired,
    "unavailable": Unavailable,
}
