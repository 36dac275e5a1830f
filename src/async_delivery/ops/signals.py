"""The five signals as they stand now: from the permalink's last minutes and a look at the store.

Levels and thresholds are decided in ``domain.signal``; here is only where each value comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from async_delivery.domain import signal
from async_delivery.domain.signal import Level, Signal, SignalSpec, judge, judge_deletes
from async_delivery.ops.stock import Look
from async_delivery.ops.windows import LONG_SECONDS, SHORT_SECONDS, Window
from async_delivery.storage.contract import Section


def measure(window: Window, look: Look | None, monotonic_now: float, now: datetime) -> list[Signal]:
    """All of them, in the order of ``domain.signal.SPECS``.

    look            None if the store cannot be read: what is in it is then not known (no_data)
    monotonic_now   by the clock with which answers were added to ``window``
    """
    short = window.look(monotonic_now, SHORT_SECONDS)
    long = window.look(monotonic_now, LONG_SECONDS)
    p95_ms = None if long.p95_seconds is None else round(1000 * long.p95_seconds, 3)
    return [
        _judged(signal.HTTP_5XX_RATE, short.failed_share, now),
        _judged(signal.P95_MS, p95_ms, now),
        *_of_store(look, now),
    ]


def _of_store(look: Look | None, now: datetime) -> Sequence[Signal]:
    if look is None:
        return [
            Signal(spec, None, Level.NO_DATA, now)
            for spec in (
                signal.CLEANUP_EXIT_CODE,
                signal.RESULTS_DELETE_COUNT,
                signal.EVENTS_DELETE_COUNT,
                signal.WITHOUT_IN_APP,
            )
        ]
    return [
        _cleanup_exit_code(look, now),
        judge_deletes(signal.RESULTS_DELETE_COUNT, look.points(Section.RESULTS), look.at),
        judge_deletes(signal.EVENTS_DELETE_COUNT, look.points(Section.EVENTS), look.at),
        _judged(signal.WITHOUT_IN_APP, float(look.stock.terminal_without_in_app), look.at),
    ]


def _cleanup_exit_code(look: Look, now: datetime) -> Signal:
    """Critical by any code but 0. The hint says where there is nothing to mend, because a person paused cleanups."""
    found = _judged(signal.CLEANUP_EXIT_CODE, float(look.runs[0].exit_code) if look.runs else None, now)
    if found.level is not Level.CRITICAL:
        return found
    refused_by = look.runs[0].report.get("paused")
    pause = look.pause.to_json() if look.pause else None
    if pause and refused_by:
        hint = (
            f"Nothing broke: cleanups are paused {_words(pause)}; one that was due has been refused. When that is"
            " settled: async-delivery cleanup resume, then async-delivery cleanup."
        )
    elif pause:
        hint = f"Cleanups are paused {_words(pause)}. Look at the last cleanup's words on stderr and at its report."
    elif isinstance(refused_by, Mapping):
        hint = (
            f"Nothing broke: the last cleanup was refused by a pause {_words(refused_by)}. It is lifted, and the next"
            " cleanup settles this: async-delivery cleanup."
        )
    else:
        return found
    return replace(found, spec=replace(found.spec, hint=hint))


def _words(pause: Mapping[str, str]) -> str:
    return f"since {pause['paused_at']} by {pause['by']} ({pause['why']})"


def _judged(spec: SignalSpec, value: float | None, at: datetime) -> Signal:
    return Signal(spec, value, judge(spec, value), at)
