"""How a job is watched: a bar on a terminal, plain lines elsewhere; on stderr, as results go to stdout."""

from __future__ import annotations

import sys
from shutil import get_terminal_size
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from async_delivery.cli.output import clean, put

if TYPE_CHECKING:
    from async_delivery.client import Job

_BAR_WIDTH = 30
# Back to the first column, and everything behind it away.
_CLEAR_LINE = "\r\x1b[K"


class Follower(Protocol):
    """Shows one job from upload to end. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def uploading(self, sent_bytes: int, total_bytes: int) -> None:
        """So much of the file is on its way."""

    def show(self, job: Job) -> None:
        """The job as it stands now."""

    def note(self, line: str) -> None:
        """A line that stays; clean of what could steer a terminal."""


def follower(*, quiet: bool = False, stream: TextIO | None = None) -> Follower:
    """What suits ``stream`` (stderr where None): a bar, lines, or nothing."""
    if quiet:
        return _Silent()
    stream = stream or sys.stderr
    return _Bar(stream) if stream.isatty() else _Lines(stream)


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def uploading(self, sent_bytes: int, total_bytes: int) -> None:
        pass

    def show(self, job: Job) -> None:
        pass

    def note(self, line: str) -> None:
        pass


class _Lines(_Silent):
    """A line for each change that a reader of a log would want."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def show(self, job: Job) -> None:
        line = describe(job)
        if line != self._last:
            self.note(line)
            self._last = line

    def note(self, line: str) -> None:
        put(self._stream, f"{line}\n")


class _Bar(_Silent):
    """One bar on the last line of a terminal, that first fills with the upload and then with the job."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = monotonic()
        self._line = ""

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line:
            print(file=self._stream, flush=True)
            self._line = ""

    def uploading(self, sent_bytes: int, total_bytes: int) -> None:
        self._draw("uploading", 100.0 * sent_bytes / max(1, total_bytes), "")

    def show(self, job: Job) -> None:
        self._draw(str(job.status), job.progress_percent, stage_of(job))

    def note(self, line: str) -> None:
        # Above the bar, which is drawn again below it.
        self._stream.write(f"{_CLEAR_LINE}{line}\n{self._line}")
        self._stream.flush()

    def _draw(self, what: str, percent: float, stage: str) -> None:
        full = round(_BAR_WIDTH * min(100.0, percent) / 100)
        bar = (
            "━" * full + "─" * (_BAR_WIDTH - full)
            if self._draws_lines()
            else "#" * full + "-" * (_BAR_WIDTH - full)
        )
        line = f"{what:<9} {bar} {percent:3.0f} %  {monotonic() - self._began:4.0f} s  {stage}".rstrip()
        # A line that wraps could not be drawn over.
        self._line = line[: max(20, get_terminal_size().columns - 1)]
        self._stream.write(_CLEAR_LINE + self._line)
        self._stream.flush()

    def _draws_lines(self) -> bool:
        return (self._stream.encoding or "").lower().replace("-", "") == "utf8"


def stage_of(job: Job) -> str:
    """``stage: message`` as far as there is any."""
    return clean(": ".join(text for text in (job.stage, job.message) if text))


def describe(job: Job) -> str:
    """One line on where the job stands."""
    return f"{job.status:<9} {job.progress_percent:5.1f} %  {stage_of(job)}".rstrip()
