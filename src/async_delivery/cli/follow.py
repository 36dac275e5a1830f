"""To the end of a job: following it, and what is printed then. Used by every command that waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from async_delivery.cli.output import Failed, emit_json, emit_pairs, say
from async_delivery.cli.progress import Follower
from async_delivery.domain.job import JobStatus

if TYPE_CHECKING:
    from async_delivery.client import Client, Job


def finish(
    client: Client,
    job_id: str,
    show: Follower,
    *,
    timeout_seconds: float | None = None,
    changed: Callable[[Job], None] | None = None,
) -> Job:
    """The job at its end; ``changed`` (``show`` where None) is told of each change.

    Raises Failed when patience ends first.
    """
    from async_delivery.client import WaitTimeout

    try:
        return client.wait(job_id, timeout_seconds=timeout_seconds, changed=changed or show.show)
    except WaitTimeout as exc:
        raise Failed(f"{exc}; it goes on") from exc
    except KeyboardInterrupt:
        say(f"no longer following; the job goes on: async-delivery watch {job_id}")
        raise


def report_end(client: Client, job: Job, *, as_json: bool) -> int:
    """Print how the job ended; 0 if it completed, else 1."""
    if as_json:
        emit_json(job.raw)
    else:
        link = f"{client.base_url}/analyze/results/{job.result_id}" if job.result_id else None
        emit_pairs(
            [
                ("job", job.job_id),
                ("status", job.status),
                ("error", f"{job.error_code}: {job.error_message}" if job.error_code else None),
                ("hint", job.retry_hint),
                ("result", job.result_id),
                ("link", link),
            ]
        )
        if job.result_id:
            say(f"show it with: async-delivery result {job.result_id}")
    return 0 if job.status is JobStatus.COMPLETED else 1
