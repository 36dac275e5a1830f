"""Values for tests: a fresh job, ids in order, an instant to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from async_delivery.domain.job import Fence, Job, JobId, JobRequest, JobStatus, Priority
from async_delivery.domain.lifecycle import RetryRule, claim
from async_delivery.domain.tenant import OrgId

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RULE = RetryRule(jitter=0.5)
REQUEST = JobRequest(query=None, params_json=b"{}", fingerprint="f" * 64)


def ids(prefix: str = "id") -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"{prefix}-{next(numbers):06d}"


def fresh_job(**changes: Any) -> Job:
    job = Job(
        job_id=JobId("job-1"),
        org_id=OrgId("alpha"),
        correlation_id="c-1",
        analysis="selftest",
        analysis_version="1",
        status=JobStatus.QUEUED,
        priority=Priority.DEFAULT,
        labels={},
        timeout_seconds=60.0,
        results_ttl_seconds=3600,
        ttl_requested=False,
        max_attempts=3,
        submitted_at=NOON,
        queued_at=NOON,
        updated_at=NOON,
    )
    return replace(job, **changes)


def running_job(**changes: Any) -> tuple[Job, Fence]:
    job = claim(fresh_job(**changes), "worker-a", "token-1", 30.0, NOON, ids()).job
    assert job.fence is not None
    return job, job.fence
