"""What an analysis may raise, and what can be wrong with a plug-in. Imports ``domain`` only."""

from __future__ import annotations

from collections.abc import Iterable

from async_delivery.domain.errors import AsyncDeliveryError, FieldIssue
from async_delivery.domain.failure import Failure, FailureCode, failure, is_failure_code


class PluginError(AsyncDeliveryError):
    """A plug-in cannot be found, imported, or is not an analysis."""

    code = "plugin_error"


class CancelRequested(BaseException):
    """The tenant asked to cancel the job; let it pass, and clean up in ``finally``.

    Not an ``Exception``, so that ``except Exception`` in an analysis does not swallow it.
    """


class AnalysisError(Exception):
    """The job fails with this code and message. Base of everything an analysis raises on purpose.

    message     one or two sentences for the tenant; no path or name of this machine
    code        lower-case word that becomes the job's ``error_code``
    retryable   True: the attempt is made again, up to the analysis's ``max_attempts``
    """

    retry_after_seconds: float | None = None
    details: tuple[FieldIssue, ...] = ()

    def __init__(
        self, message: str, *, code: str = FailureCode.ANALYSIS_ERROR.value, retryable: bool = False
    ) -> None:
        if not is_failure_code(code):
            raise ValueError(f"code must be 1..64 lower-case letters, digits and _, got {code!r}")
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable

    def as_failure(self) -> Failure:
        """The same in the domain's terms."""
        return failure(self.code, self.message, retryable=self.retryable)


class InvalidInputError(AnalysisError):
    """The job's input is wrong and stays wrong: no retry. ``details`` lists every fault that is known."""

    def __init__(self, field: str, issue: str) -> None:
        super().__init__(f"{field}: {issue}", code=FailureCode.INVALID_INPUT.value)
        self.field = field
        self.issue = issue
        self.details = (FieldIssue(field, issue),)

    @classmethod
    def of(cls, issues: Iterable[FieldIssue]) -> InvalidInputError:
        """One error for several faults; ``field`` and ``issue`` are the first one's."""
        details = tuple(issues)
        error = cls(details[0].field, details[0].issue)
        error.message = "; ".join(f"{each.field}: {each.issue}" for each in details)
        error.args = (error.message,)
        error.details = details
        return error


class InputNotFoundError(AnalysisError):
    """What the job points to does not exist. No retry."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was not found", code=FailureCode.INPUT_NOT_FOUND.value)
        self.what = what


class RetryableError(AnalysisError):
    """Something passing is in the way: the attempt is made again by itself, up to ``max_attempts``.

    retry_after_seconds   wait at least so long; None: the analysis's backoff decides
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, retryable=True)
        self.retry_after_seconds = retry_after_seconds
