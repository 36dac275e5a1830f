"""For the tests of people who write analyses: run one without a server, watch what it says, set the time.

Shipped with the package. Imports ``plugins`` and ``domain``.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import FieldIssue
from async_delivery.plugins import Analysis, CancelRequested, InputFile, InvalidInputError, check_percent


@dataclass(frozen=True, slots=True)
class Progress:
    """One call of ``context.progress``, or of ``context.partial`` with a percentage."""

    percent: float
    stage: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class InlineRun:
    """What an analysis gave, as a tenant would read it: results and partials went through JSON."""

    result: Any
    partials: list[Any]
    progress: list[Progress]


class RecordingContext:
    """A Context that keeps what it is told.

    ``cancel()`` requests cancel; ``cancel_after_partials=n`` does so once the n-th partial is published.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        job_id: str = "job-inline",
        attempt: int = 1,
        query: str | None = None,
        input: InputFile | None = None,
        data_root: Path | None = None,
        fault_injection: bool = False,
        deadline_seconds_left: float = 3600.0,
        cancel_after_partials: int | None = None,
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.query = query
        self.input = input
        self.workdir = workdir
        self.data_root = data_root
        self.fault_injection = fault_injection
        self.deadline_seconds_left = deadline_seconds_left
        self.partials: list[Any] = []
        self.reported: list[Progress] = []
        self._cancel_after_partials = cancel_after_partials
        self._cancel = threading.Event()

    @property
    def canceled(self) -> bool:
        """True once ``cancel`` was called."""
        return self._cancel.is_set()

    def cancel(self) -> None:
        """Request cancel, as the tenant would; from any thread."""
        self._cancel.set()

    def progress(self, percent: float, stage: str | None = None, message: str | None = None) -> None:
        """Keep the report. Raises CancelRequested, or ValueError for a percentage outside 0..100."""
        self.reported.append(Progress(check_percent(percent), stage, message))
        self._stop_if_canceled()

    def partial(self, payload: Any, *, percent: float | None = None, stage: str | None = None) -> None:
        """Keep the payload as it is now. Raises CancelRequested, or NotSerializableError."""
        self._stop_if_canceled()
        self.partials.append(json.loads(canonical_json(payload)))
        if percent is not None:
            self.reported.append(Progress(check_percent(percent), stage, None))
        if self._cancel_after_partials is not None and len(self.partials) >= self._cancel_after_partials:
            self.cancel()

    def _stop_if_canceled(self) -> None:
        if self.canceled:
            raise CancelRequested


def run_inline(
    analysis: Analysis[..., Any],
    params: Mapping[str, Any] | None = None,
    *,
    query: str | None = None,
    input: str | Path | InputFile | None = None,
    data_root: str | Path | None = None,
    attempt: int = 1,
    fault_injection: bool = False,
    cancel_after_partials: int | None = None,
) -> InlineRun:
    """One attempt in this process, under the rules of the server.

    ``params`` are checked against the JSON Schema first, as at submit; ``input`` is a file to send along;
    the workdir is a temporary folder. Limits of time and memory are not applied.
    Raises InvalidInputError listing every fault of the params, NotSerializableError for a result without a
    JSON form, and whatever the analysis raises.
    """
    params = dict(params or {})
    _check_schema(analysis.info().params_schema, params)
    file = input if isinstance(input, InputFile) or input is None else input_file(Path(input))
    with tempfile.TemporaryDirectory(prefix="async-delivery-") as folder:
        context = RecordingContext(
            Path(folder),
            query=query,
            input=file,
            data_root=None if data_root is None else Path(data_root),
            attempt=attempt,
            fault_injection=fault_injection,
            cancel_after_partials=cancel_after_partials,
        )
        payload = analysis.run(params, context)
        return InlineRun(json.loads(canonical_json(payload)), context.partials, context.reported)


def input_file(path: Path, *, filename: str | None = None) -> InputFile:
    """``path`` as an uploaded file; ``filename`` is what the tenant calls it, default: its own name."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    name = filename or path.name
    return InputFile(path, name, mimetypes.guess_type(name)[0], path.stat().st_size, sha256)


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.set(start)

    def now(self) -> datetime:
        """The time it shows, aware, in UTC."""
        return self._now

    def advance(self, *, seconds: float) -> datetime:
        """Move forward and return the new time. Raises ValueError for negative seconds."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back: {seconds} s; use set()")
        self._now += timedelta(seconds=seconds)
        return self._now

    def set(self, to: datetime) -> None:
        """Show ``to``. Raises ValueError if it has no time zone."""
        if to.tzinfo is None:
            raise ValueError(f"{to.isoformat()} has no time zone")
        self._now = to.astimezone(UTC)


def _check_schema(schema: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    issues = []
    for error in jsonschema_rs.Draft202012Validator(dict(schema)).iter_errors(dict(params)):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        issues.append(FieldIssue(f"params{path}", error.message))
    if issues:
        raise InvalidInputError.of(issues)
