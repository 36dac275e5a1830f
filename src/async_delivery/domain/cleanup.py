"""Cleanup runs as values: who ran one, how it ended, and the pause that an operator puts on all of them.

What a cleanup deletes is decided in ``domain.retention``; here is what is remembered of it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from async_delivery.domain.errors import StoreBusyError, ValidationError
from async_delivery.domain.instant import format_instant

MAX_WHY = 500
MAX_BY = 128


class Runner(StrEnum):
    """Who carried out a cleanup: the server's chore, the script, the command, or a program of somebody's own."""

    SERVER = "server"
    SCRIPT = "script"
    COMMAND = "command"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class CleanupRun:
    """One live cleanup as its store remembers it. Dry runs change no byte of a store, so none is remembered.

    exit_code                   0 done, 1 refused, 2 stopped half-way, 3 busy or paused
    results_deleted/_kept       rows; 0 in a run that was refused. The same for events and jobs
    skipped_missing_timestamp   rows of all kinds kept because an instant is missing or not valid
    bytes                       size of what was deleted
    results_ttl_seconds, events_ttl_seconds   None where the run was refused because of them
    jobs_ttl_seconds            None there too, and where jobs are kept for ever
    report                      the artefact without its share by tenant; for a refused run {"errors": [...]}
    """

    run_id: str
    runner: Runner
    started_at: datetime
    finished_at: datetime
    exit_code: int
    results_deleted: int = 0
    results_kept: int = 0
    events_deleted: int = 0
    events_kept: int = 0
    jobs_deleted: int = 0
    jobs_kept: int = 0
    skipped_missing_timestamp: int = 0
    bytes: int = 0
    results_ttl_seconds: int | None = None
    events_ttl_seconds: int | None = None
    jobs_ttl_seconds: int | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """True if it looked at the stock, so that its counts mean something: exit code 0 or 2."""
        return self.exit_code in (0, 2)


@dataclass(frozen=True, slots=True)
class Pause:
    """Cleanups are paused: since when, why, and by whom (a name for people, not a credential)."""

    paused_at: datetime
    why: str
    by: str

    def __post_init__(self) -> None:
        for name, text, longest in (("why", self.why, MAX_WHY), ("by", self.by, MAX_BY)):
            if not text.strip() or len(text) > longest or not text.isprintable():
                raise ValidationError.of(name, f"must be one line of 1 to {longest} printable characters")

    def to_json(self) -> dict[str, str]:
        """As signals, readiness and the command show it."""
        return {"paused_at": format_instant(self.paused_at), "why": self.why, "by": self.by}


class CleanupPausedError(StoreBusyError):
    """An operator has paused the cleanups of this store; nothing was touched."""

    code = "cleanup_paused"

    def __init__(self, pause: Pause) -> None:
        super().__init__(
            f"cleanups are paused since {format_instant(pause.paused_at)} by {pause.by}: {pause.why}"
            " (`async-delivery cleanup resume` lifts it, --force goes ahead once)"
        )
        self.pause = pause


class CleanupDoneError(StoreBusyError):
    """Another server has carried out this scheduled cleanup; nothing was touched."""

    code = "cleanup_done"

    def __init__(self) -> None:
        super().__init__("another server has cleaned up since the last time that was scheduled")
