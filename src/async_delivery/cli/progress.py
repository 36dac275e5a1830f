"""How a job is watched: a bar on a terminal, plain lines elsewhere; on stderr, as results go to stdout."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from async_delivery.cli.output import clean

if TYPE_CHECKING:
    from async_delivery.client import Job


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
        print(line, file=self._stream, flush=True)


class _Bar(_Silent):
    """One bar that first fills with the upload and then with the job."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        # Stages and messages come from plug-ins: never markup.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            console=Console(file=stream),
        )
        self._task: Any = None

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("", total=100.0, stage="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def uploading(self, sent_bytes: int, total_bytes: int) -> None:
        percent = 100.0 * sent_bytes / max(1, total_bytes)
        self._progress.update(self._task, completed=percent, description="uploading")

    def show(self, job: Job) -> None:
        self._progress.update(
            self._task, completed=job.progress_percent, description=str(job.status), stage=stage_of(job)
        )

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)


def stage_of(job: Job) -> str:
    """``stage: message`` as far as there is any."""
    return clean(": ".join(text for text in (job.stage, job.message) if text))


def describe(job: Job) -> str:
    """One line on where the job stands."""
    return f"{job.status:<9} {job.progress_percent:5.1f} %  {stage_of(job)}".rstrip()
