"""What an analysis says while it runs, on its way to the store: progress thinned out, partial results kept whole.

Imports engine and domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from async_delivery.domain.errors import LeaseLostError, NotFoundError, UnavailableError
from async_delivery.domain.result import seal_bytes
from async_delivery.engine import runs
from async_delivery.engine.runs import Report
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.attempt import Attempt, StopReason
from async_delivery.worker.ending import Ending, failed, is_json, of_too_many_partials
from async_delivery.worker.frames import split
from async_delivery.worker.limits import (
    MAX_MESSAGE_CHARS,
    MAX_PARTIALS_PER_JOB,
    MAX_STAGE_CHARS,
    progress_pause_seconds,
)
from async_delivery.worker.output import clean
from async_delivery.worker.settle import UnsettledError, persist

_NOTHING = Report()
_WORDS = ("percent", "stage", "message")
_UNAVAILABLE_PAUSE_SECONDS = 1.0


class Reports:
    """One attempt's. Of progress the newest value is stored, at most once per interval, and before every end."""

    def __init__(self, rt: Runtime, attempt: Attempt, interval_seconds: float, now: float) -> None:
        self._rt = rt
        self._attempt = attempt
        self._interval = interval_seconds
        self._began = now
        self._next_at = now
        self._heard: dict[str, Any] = {}
        self._told = _NOTHING
        self._partials = attempt.run.job.partial_count

    def progress(self, payload: bytes) -> None:
        """Note a report. What it does not say stays as it was said before."""
        self._heard.update(_document(payload))

    def due_at(self) -> float:
        """When ``tick`` has something to do."""
        return self._next_at if self._heard else math.inf

    def tick(self, now: float) -> None:
        """Store the newest report if its time has come."""
        if self._heard and now >= self._next_at:
            self._next_at = now + progress_pause_seconds(self._interval, now - self._began)
            self.flush(now)

    def flush(self, now: float) -> None:
        """Store the newest report, if it says anything new; one try, for progress may be lost."""
        if not self._heard:
            return
        report = self._take()
        if report in (_NOTHING, self._told) or self._attempt.lost:
            return
        attempt = self._attempt
        try:
            runs.progress(self._rt, attempt.org_id, attempt.job_id, attempt.fence, report)
            self._told = report
        except UnavailableError:
            self._next_at = now + _UNAVAILABLE_PAUSE_SECONDS
        except (LeaseLostError, NotFoundError):
            attempt.ask(StopReason.LOST)

    def partial(self, payload: bytes) -> Ending | None:
        """Store a partial result with the newest report; an Ending if the attempt cannot go on."""
        if self._partials >= MAX_PARTIALS_PER_JOB:
            return of_too_many_partials()
        head, data = split(payload)
        if not is_json(data):
            return failed("result_not_serializable", "the child sent a partial result that is no JSON")
        heard, said = self._take(), _report(_document(head))
        report = replace(
            heard,
            percent=heard.percent if said.percent is None else said.percent,
            stage=heard.stage if said.stage is None else said.stage,
        )
        attempt, body = self._attempt, seal_bytes(data)
        try:
            job = persist(
                attempt,
                lambda: runs.publish_partial(
                    self._rt, attempt.org_id, attempt.job_id, attempt.fence, body, report
                ),
            )
        except (LeaseLostError, NotFoundError, UnsettledError):
            attempt.ask(StopReason.LOST)
            return None
        self._partials = job.partial_count
        return None

    def _take(self) -> Report:
        heard, self._heard = self._heard, {}
        return _report(heard)


def _document(payload: bytes) -> dict[str, Any]:
    """The words a report may have, whatever else is in it; none if it is no report."""
    try:
        document: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return {word: document[word] for word in _WORDS if word in document} if isinstance(document, dict) else {}


def _report(document: Mapping[str, Any]) -> Report:
    """What a child said, made fit to be kept; what makes no sense is left out."""
    percent = document.get("percent")
    if isinstance(percent, bool) or not isinstance(percent, int | float):
        percent = None
    return Report(
        percent=None if percent is None else min(100.0, max(0.0, float(percent))),
        stage=_text(document, "stage", MAX_STAGE_CHARS),
        message=_text(document, "message", MAX_MESSAGE_CHARS),
    )


def _text(document: Mapping[str, Any], name: str, limit: int) -> str | None:
    text = document.get(name)
    if not isinstance(text, str):
        return None
    return clean(text[:limit].encode("utf-8", errors="replace"))[:limit]
