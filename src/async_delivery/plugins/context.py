"""What an analysis is given beside its params. The child process implements it, and ``testing``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class InputFile:
    """The file that came with the job.

    path          where it can be read; its name is the service's own, never the tenant's
    filename      what the tenant called it, for display and for guessing its format only
    media_type    what the tenant said it is, or None
    bytes         its length
    sha256        of its content, in hex
    """

    path: Path
    filename: str
    media_type: str | None
    bytes: int
    sha256: str


class Context(Protocol):
    """The attempt that is running. One object per attempt; use it from any thread of the analysis."""

    @property
    def job_id(self) -> str:
        """The job this attempt belongs to."""

    @property
    def attempt(self) -> int:
        """1 for the first start of the job."""

    @property
    def query(self) -> str | None:
        """The subject in one string, as submitted; what it means is the analysis's business."""

    @property
    def input(self) -> InputFile | None:
        """The uploaded file, or None."""

    @property
    def workdir(self) -> Path:
        """An empty folder of this attempt alone; deleted when the attempt ends, however it ends."""

    @property
    def data_root(self) -> Path | None:
        """The folder whose files the operator opened to jobs, or None. Only read below it."""

    @property
    def fault_injection(self) -> bool:
        """True on servers that allow tests to break things on purpose."""

    @property
    def deadline_seconds_left(self) -> float:
        """Seconds until the attempt is stopped as timed out; 0 when that time is over."""

    @property
    def canceled(self) -> bool:
        """True once cancel was requested. Cheap: ask in every loop, tidy up, then raise CancelRequested."""

    def progress(self, percent: float, stage: str | None = None, message: str | None = None) -> None:
        """Say how far the analysis is, 0..100. What a tenant sees never falls.

        Raises CancelRequested if cancel was requested, ValueError if percent is outside 0..100.
        """

    def partial(self, payload: Any, *, percent: float | None = None, stage: str | None = None) -> None:
        """Publish ``payload`` as an immutable partial result under its own permalink.

        Raises CancelRequested if cancel was requested, NotSerializableError if the payload has no JSON form.
        """


def check_percent(percent: Any) -> float:
    """``percent`` as a float; every Context calls this, so that all refuse the same.

    Raises ValueError if it is not a number from 0 to 100.
    """
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
        raise ValueError(f"percent must be a number from 0 to 100, got {percent!r}")
    return float(percent)
