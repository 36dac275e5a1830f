"""Analyses that only the benchmarks run: more partial results, larger results and more work than ``selftest`` has."""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field

from async_delivery.plugins import CancelRequested, Context, analysis

MIB = 2**20
MODULE = __name__


@analysis("bench-payload", title="A large result", max_result_bytes=96 * MIB, memory_bytes=1024 * MIB)
def payload(*, size_bytes: Annotated[int, Field(ge=0, le=80 * MIB)]) -> dict[str, Any]:
    """A result of about so many bytes."""
    return {"payload": "x" * size_bytes}


@analysis("bench-partials", title="Many partial results")
def partials(*, count: Annotated[int, Field(ge=1, le=10_000)], context: Context) -> dict[str, Any]:
    """Publish as many as asked for, one after another."""
    for number in range(1, count + 1):
        context.partial({"number": number}, percent=100 * number / (count + 1))
    return {"count": count}


@analysis("bench-busy", title="A busy processor")
def busy(*, seconds: Annotated[float, Field(gt=0, le=600)], context: Context) -> dict[str, Any]:
    """Keep one core busy for so long, or until canceled."""
    until = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < until:
        if context.canceled:
            raise CancelRequested
        turns += sum(number * number % 7 for number in range(20_000))
    return {"turns": turns}


def options(*names: str) -> list[str]:
    """What offers them in ``async-delivery serve``."""
    return [part for name in names for part in ("--analysis", f"{MODULE}:{name}")]
