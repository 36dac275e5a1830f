"""The ``selftest`` analysis: does what its params say, so that people and tests can watch a job go any way.

Imports ``plugins``. With ``stages`` 0 it does nothing at all and serves as the benchmark's job.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from enum import StrEnum
from typing import Annotated, Any, NoReturn, assert_never

from pydantic import Field

from async_delivery.plugins import (
    AnalysisError,
    CancelRequested,
    Context,
    InvalidInputError,
    RetryableError,
    analysis,
)

MIB = 2**20
_SLICE_SECONDS = 0.05
_FLOOD_LINES = 65_536
_MEMORY_CEILING_BYTES = 8 * 2**30


class Outcome(StrEnum):
    """What happens after the stages. The last four only on servers with fault injection."""

    COMPLETE = "complete"
    FAIL = "fail"
    RETRY_THEN_COMPLETE = "retry_then_complete"
    CRASH = "crash"
    HANG = "hang"
    MEMORY = "memory"
    FLOOD = "flood"


_FAULTS = frozenset({Outcome.CRASH, Outcome.HANG, Outcome.MEMORY, Outcome.FLOOD})


@analysis(
    "selftest",
    title="Self-test",
    input="optional",
    memory_bytes=512 * MIB,
    retry_base_seconds=0.1,
)
def selftest(
    *,
    stages: Annotated[int, Field(ge=0, le=1000, description="Stages, one partial result each")] = 3,
    stage_seconds: Annotated[float, Field(ge=0, le=3600, description="Length of one stage in seconds")] = 0.1,
    payload_bytes: Annotated[int, Field(ge=0, le=64 * MIB, description="Filler in the final result")] = 0,
    outcome: Annotated[Outcome, Field(description="What happens after the stages")] = Outcome.COMPLETE,
    context: Context,
) -> dict[str, Any]:
    """Go through stages of a given length and end in a given way.

    Any query is accepted and returned. ``crash``, ``hang``, ``memory`` and ``flood`` need fault injection.
    """
    if outcome in _FAULTS and not context.fault_injection:
        raise InvalidInputError("params.outcome", f"{outcome} needs a server with fault injection on")
    for stage in range(1, stages + 1):
        name = f"stage {stage} of {stages}"
        _wait(stage_seconds, context)
        context.partial(
            {"selftest": True, "stage": stage, "stages": stages},
            percent=100 * stage / (stages + 1),
            stage=name,
        )
    _end(outcome, context)
    result: dict[str, Any] = {
        "selftest": True,
        "query": context.query,
        "stages": stages,
        "outcome": str(outcome),
        "attempt": context.attempt,
    }
    if context.input is not None:
        result["input"] = {"filename": context.input.filename, "bytes": context.input.bytes}
    if payload_bytes:
        result["payload"] = "x" * payload_bytes
    return result


def _wait(seconds: float, context: Context) -> None:
    """Sleep in slices, so that a cancel request is heard within one of them."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if context.canceled:
            raise CancelRequested
        time.sleep(min(_SLICE_SECONDS, left))
    if context.canceled:
        raise CancelRequested


def _end(outcome: Outcome, context: Context) -> None:
    match outcome:
        case Outcome.COMPLETE:
            return
        case Outcome.FAIL:
            raise AnalysisError("the self-test was asked to fail")
        case Outcome.RETRY_THEN_COMPLETE:
            if context.attempt == 1:
                raise RetryableError("the self-test was asked to fail on its first attempt")
        case Outcome.CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        case Outcome.HANG:
            _hang()
        case Outcome.MEMORY:
            _eat_memory()
        case Outcome.FLOOD:
            _flood(context)
        case _:
            assert_never(outcome)


def _hang() -> NoReturn:
    # Only SIGKILL ends this. Handlers can be set from the main thread alone; elsewhere the loop must do.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(_SLICE_SECONDS)


def _eat_memory() -> NoReturn:
    chunks: list[bytearray] = []
    while len(chunks) * 16 * MIB < _MEMORY_CEILING_BYTES:
        # Every page is written: untouched memory would count for nobody's limit.
        chunks.append(bytearray(b"\x01") * (16 * MIB))
    chunks.clear()
    raise AnalysisError(f"no memory limit below {_MEMORY_CEILING_BYTES >> 30} GiB stopped the self-test")


def _flood(context: Context) -> None:
    """64 MiB on each of stdout and stderr, in lines of 1 KiB."""
    line = "flood " * 170 + "eof"
    for number in range(_FLOOD_LINES):
        sys.stdout.write(f"{line}\n")
        sys.stderr.write(f"{line}\n")
        if number % 1024 == 0 and context.canceled:
            raise CancelRequested
