"""What a worker allows itself and its children, and how long it waits before it acts.

Limits of one analysis (time, memory, size of a result) are in ``domain.analysis``; those of the whole service in
``engine.runtime.Policy``. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Partial results of one job, over all its attempts. Each is kept under a permalink of its own.
MAX_PARTIALS_PER_JOB = 10_000
TOO_MANY_PARTIALS = "too_many_partials"

# Small frames of the child: what an analysis says of its progress, and why it failed.
MAX_REPORT_BYTES = 16 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_STAGE_CHARS = 200
MAX_MESSAGE_CHARS = 1_000

# A job that reports for days still has fewer than a thousand events of progress: see ``progress_pause_seconds``.
_PROGRESS_SHARE = 0.01

# Output of an analysis is read no faster than this; one that prints in a loop then waits for its own pipe.
OUTPUT_BYTES_PER_SECOND = 64 * 2**20


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one worker process works. Durations in seconds, sizes in bytes.

    slots                       attempts at a time
    drain_grace_seconds         how long a drain lets running attempts go on
    cancel_grace_seconds        from asking an attempt to stop to SIGTERM
    kill_grace_seconds          from SIGTERM to SIGKILL
    data_root                   folder whose files are open to analyses, or None
    work_root                   where each attempt gets a folder of its own
    rss_poll_seconds            how often the memory of a busy child is measured
    max_attempts_per_child      attempts after which a warm child is replaced
    log_bytes                   captured output that is kept of one attempt: its end
    progress_interval_seconds   shortest time between two stored reports of progress of one attempt
    poll_seconds                how often the queue is asked at least when no signal came
    child_nice                  niceness of children, so that the server stays responsive beside busy ones
    takes                       analyses whose jobs it takes where others share the store; None: all available ones
    ray_address                 of a Ray cluster; None: analyses for Ray run on one that the worker starts
    """

    slots: int
    work_root: Path
    drain_grace_seconds: float = 10.0
    cancel_grace_seconds: float = 5.0
    kill_grace_seconds: float = 2.0
    data_root: Path | None = None
    rss_poll_seconds: float = 0.1
    max_attempts_per_child: int = 100
    log_bytes: int = 65_536
    progress_interval_seconds: float = 0.5
    poll_seconds: float = 1.0
    child_nice: int = 10
    takes: tuple[str, ...] | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots must be at least 1, got {self.slots}")


def progress_pause_seconds(shortest: float, running_for: float) -> float:
    """Seconds between two stored reports of an attempt that has been running for so long."""
    return max(shortest, _PROGRESS_SHARE * running_for)
