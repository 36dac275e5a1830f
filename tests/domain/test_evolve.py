from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime

import pytest

from async_delivery.domain.job import Job, JobId, JobStatus, Lease, Priority, evolve
from async_delivery.domain.tenant import OrgId

NOW = datetime(2026, 1, 2, tzinfo=UTC)
JOB = Job(
    job_id=JobId("j"),
    org_id=OrgId("alpha"),
    correlation_id="c",
    analysis="count",
    analysis_version="1",
    status=JobStatus.QUEUED,
    priority=Priority.DEFAULT,
    labels={"a": "b"},
    timeout_seconds=1.0,
    results_ttl_seconds=5,
    ttl_requested=False,
    max_attempts=3,
    submitted_at=NOW,
    queued_at=NOW,
    updated_at=NOW,
    traceparent="00-x",
)


def test_a_job_that_moved_on_has_the_changes_and_all_else_as_before() -> None:
    lease = Lease("w", "t", NOW)

    moved = evolve(JOB, status=JobStatus.RUNNING, attempt=1, lease=lease)

    assert moved == replace(JOB, status=JobStatus.RUNNING, attempt=1, lease=lease)
    assert JOB.status is JobStatus.QUEUED
    assert evolve(JOB) == JOB


@pytest.mark.parametrize("name", [field.name for field in fields(Job)])
def test_every_field_can_be_changed(name: str) -> None:
    marked = object()

    moved = evolve(JOB, **{name: marked})

    assert getattr(moved, name) is marked
    assert evolve(moved, **{name: getattr(JOB, name)}) == JOB


def test_a_job_that_moved_on_is_as_frozen_as_any_and_takes_no_unknown_field() -> None:
    with pytest.raises(FrozenInstanceError):
        evolve(JOB, attempt=1).attempt = 2  # type: ignore[misc]
    with pytest.raises(KeyError):
        evolve(JOB, attempts=1)
