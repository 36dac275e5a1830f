"""Why a job failed, in terms a tenant can act on. Not exceptions of the service: see ``domain.errors``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from async_delivery.domain.text import storable

MESSAGE_LIMIT = 2000


class FailureCode(StrEnum):
    """The ``error_code`` values the service itself gives; an analysis may add its own lower-case words."""

    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    WORKER_CRASHED = "worker_crashed"
    EXITED_WITHOUT_RESULT = "exited_without_result"
    OUT_OF_MEMORY = "out_of_memory"
    INVALID_INPUT = "invalid_input"
    INPUT_NOT_FOUND = "input_not_found"
    RESULT_TOO_LARGE = "result_too_large"
    RESULT_NOT_SERIALIZABLE = "result_not_serializable"
    ANALYSIS_ERROR = "analysis_error"
    ANALYSIS_UNAVAILABLE = "analysis_unavailable"


class RetryHint(StrEnum):
    """What the tenant should do next."""

    RETRY_WITH_BACKOFF = "retry_with_backoff"
    CHECK_INPUT_AND_RETRY = "check_input_and_retry"


@dataclass(frozen=True, slots=True)
class Failure:
    """The outcome of an attempt that did not complete.

    code            a FailureCode, or the analysis's own word
    message         one or two sentences, at most MESSAGE_LIMIT characters, no traceback
    retryable       the same request may succeed later without being changed
    """

    code: str
    message: str
    retryable: bool

    @property
    def retry_hint(self) -> RetryHint:
        """``retry_with_backoff`` when the same request may succeed, else ``check_input_and_retry``."""
        return RetryHint.RETRY_WITH_BACKOFF if self.retryable else RetryHint.CHECK_INPUT_AND_RETRY


def failure(code: str, message: str, *, retryable: bool = False) -> Failure:
    """A Failure with its message cut to MESSAGE_LIMIT, as text that every store can keep."""
    message = storable(message)
    if len(message) > MESSAGE_LIMIT:
        message = message[: MESSAGE_LIMIT - 1] + "…"
    # A plain str also where a FailureCode came in: events carry the code as JSON, which knows no enum.
    return Failure(storable(str(code)), message, retryable)


def is_failure_code(text: str) -> bool:
    """True if ``text`` may stand as an ``error_code``: 1..64 of lower-case letters, digits and ``_``."""
    return (
        0 < len(text) <= 64 and text.isascii() and text.replace("_", "a").isalnum() and text == text.lower()
    )
