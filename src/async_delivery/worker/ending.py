"""How an attempt ended, decided from what is known of its child. Pure: no process is touched here.

The slot carries an Ending out: see ``settle``. Imports domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.failure import Failure, FailureCode, failure, is_failure_code
from async_delivery.domain.job import Job
from async_delivery.domain.result import SealedBody, seal_bytes
from async_delivery.worker.attempt import StopReason
from async_delivery.worker.forkserver import ExitStatus
from async_delivery.worker.limits import MAX_PARTIALS_PER_JOB, TOO_MANY_PARTIALS
from async_delivery.worker.output import clean
from async_delivery.worker.processes import signal_name

_MIB = 2**20
# A child that a signal killed while it used so much of its limit did not die of something else.
_MEMORY_SHARE = 0.9
_MAX_RETRY_AFTER_SECONDS = 86_400.0


class EndKind(StrEnum):
    """What the slot writes."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    RELEASED = "released"
    GONE = "gone"  # the machine that ran it is; the lease is still this worker's
    LOST = "lost"  # the lease is; nothing may be written


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of one attempt.

    body                  the final result, with COMPLETED
    reason                with FAILED
    again, crashed        see ``engine.runs.fail``
    retry_after_seconds   the analysis's own word on when to try again
    """

    kind: EndKind
    body: SealedBody | None = None
    reason: Failure | None = None
    again: bool = False
    crashed: bool = False
    retry_after_seconds: float | None = None


def failed(
    code: str, message: str, *, retryable: bool = False, again: bool = False, crashed: bool = False
) -> Ending:
    """An attempt that ended with a failure. ``again``: the service tries it once more by itself."""
    return Ending(
        EndKind.FAILED, reason=failure(code, message, retryable=retryable), again=again, crashed=crashed
    )


def _crashed(how: str) -> Ending:
    """The child died by itself; the first such death is answered by another attempt at once."""
    return failed(
        FailureCode.WORKER_CRASHED, f"the child process {how}", retryable=True, again=True, crashed=True
    )


def is_json(data: bytes) -> bool:
    """True if ``data`` is one JSON document. What a child sends is believed in nothing, not even in this."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def of_result(data: bytes) -> Ending:
    """The child sent a final result."""
    if not is_json(data):
        return failed(FailureCode.RESULT_NOT_SERIALIZABLE, "the child sent a result that is no JSON")
    return Ending(EndKind.COMPLETED, body=seal_bytes(data))


def of_error(payload: bytes, info: AnalysisInfo) -> Ending:
    """The child says that the analysis failed."""
    try:
        document: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        document = None
    said = document if isinstance(document, dict) else {}
    code, message, after = said.get("code"), said.get("message"), said.get("retry_after_seconds")
    if code == FailureCode.OUT_OF_MEMORY:
        return out_of_memory(info)
    if not isinstance(code, str) or not is_failure_code(code):
        code = FailureCode.ANALYSIS_ERROR.value
    if not isinstance(message, str) or not message:
        message = "the analysis failed and gave no reason"
    message = clean(message.encode())
    again = said.get("again") is True
    if isinstance(after, bool) or not isinstance(after, int | float) or after < 0:
        after = None
    return Ending(
        EndKind.FAILED,
        reason=failure(code, message, retryable=again),
        again=again,
        retry_after_seconds=None if after is None else min(float(after), _MAX_RETRY_AFTER_SECONDS),
    )


def out_of_memory(info: AnalysisInfo) -> Ending:
    """The analysis wanted more than it may have. The same input would want it again: no retry by itself."""
    limit = info.limits.memory_bytes
    text = f"its limit of {limit // _MIB} MiB" if limit else "what this machine has"
    return failed(FailureCode.OUT_OF_MEMORY, f"the analysis needed more memory than {text}")


def of_too_large(what: str, size: int, limit: int) -> Ending:
    """A result or partial was announced that is not taken."""
    return failed(
        FailureCode.RESULT_TOO_LARGE, f"the {what} has {size} bytes of JSON, at most {limit} are kept"
    )


def of_breach() -> Ending:
    """The child sent what is no frame: something wrote into its socket, or its memory is broken."""
    return failed(
        FailureCode.WORKER_CRASHED,
        "the child process sent what cannot be read",
        retryable=True,
        again=True,
        crashed=True,
    )


def of_too_many_partials() -> Ending:
    """The job has as many partial results as any may have."""
    return failed(
        TOO_MANY_PARTIALS, f"the analysis published more than {MAX_PARTIALS_PER_JOB} partial results"
    )


def of_hangup() -> Ending:
    """The child closed its socket and lives on: it can never tell what became of it."""
    return _crashed("closed its connection to the worker")


def of_exit(status: ExitStatus, info: AnalysisInfo) -> Ending:
    """The child ended by itself, without a result."""
    if status.lost:
        return Ending(EndKind.GONE)
    if status.starved:
        return out_of_memory(info)
    code, limit = status.code, info.limits.memory_bytes
    if code == 0:
        # It ended as if all were well. Whatever in the analysis does that will do it again.
        return failed(
            FailureCode.EXITED_WITHOUT_RESULT,
            "the child process ended by itself (exit code 0) and left no result",
        )
    if code is not None and code < 0 and limit and status.max_rss_bytes >= _MEMORY_SHARE * limit:
        return out_of_memory(info)
    if code is None:
        how = "was killed together with the forkserver"
    elif code < 0:
        how = f"was ended by {signal_name(-code)}"
    else:
        how = f"ended with exit code {code} and left no result"
    return failed(
        FailureCode.WORKER_CRASHED, f"the child process {how}", retryable=True, again=True, crashed=True
    )


def of_stop(reason: StopReason, job: Job, info: AnalysisInfo) -> Ending:
    """The attempt was stopped from outside, and no result came before that."""
    match reason:
        case StopReason.LOST:
            return Ending(EndKind.LOST)
        case StopReason.CANCEL:
            return Ending(EndKind.CANCELED)
        case StopReason.DRAIN:
            return Ending(EndKind.RELEASED)
        case StopReason.TIMEOUT:
            return failed(
                FailureCode.TIMEOUT,
                f"stopped after {job.timeout_seconds:g} s, its timeout_seconds",
                retryable=True,
            )
        case StopReason.MEMORY:
            return out_of_memory(info)


def of_vain_wait(job: Job, info: AnalysisInfo) -> Ending:
    """The attempt waited for its resources until its time was over."""
    wanted = ", ".join(f"{name}={amount:g}" for name, amount in info.resources.items()) or "num_cpus=1"
    return failed(
        FailureCode.TIMEOUT,
        f"waited {job.timeout_seconds:g} s, its timeout_seconds, for resources of the Ray cluster: {wanted}",
        retryable=True,
    )


def of_unasked_cancel() -> Ending:
    """The analysis raised CancelRequested although nobody had asked for that."""
    return failed(FailureCode.ANALYSIS_ERROR, "the analysis stopped as canceled, and nobody had canceled it")
