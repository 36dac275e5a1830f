"""A runtime on a real SQLite store, with a clock and chance that the test sets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from async_delivery.domain.analysis import AnalysisInfo, AnalysisLimits, InputMode, Isolation
from async_delivery.domain.job import Job
from async_delivery.domain.result import seal
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import jobs, runs
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.quota import QueueQuota
from async_delivery.engine.runs import Report, Run
from async_delivery.engine.runtime import Policy, Runtime, new_id
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import Store
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import create_store, open_store
from async_delivery.testing import FakeClock

ALPHA, BETA = OrgId("alpha"), OrgId("beta")

LIMITS = AnalysisLimits(
    timeout_seconds=600.0,
    memory_bytes=None,
    max_result_bytes=1 << 20,
    max_attempts=3,
    retry_base_seconds=2.0,
    retry_cap_seconds=60.0,
)
COUNT = AnalysisInfo(
    name="count",
    version="1",
    title="Count",
    description="",
    params_schema={
        "type": "object",
        "properties": {
            "upto": {"type": "integer", "minimum": 0},
            "step": {"type": "integer", "minimum": 1},
            "unit": {"enum": ["rows", "bytes"]},
        },
        "additionalProperties": False,
    },
    limits=LIMITS,
    input=InputMode.OPTIONAL,
    isolation=Isolation.WARM,
    available=True,
    unavailable_reason=None,
    source="tests:count",
)
FILELESS = replace(COUNT, name="fileless", input=InputMode.NONE)
FILE_ONLY = replace(COUNT, name="file-only", input=InputMode.REQUIRED)
BROKEN = replace(COUNT, name="broken", available=False, unavailable_reason="No module named 'absent'")


def runtime(store: Store, clock: FakeClock, **policy: Any) -> Runtime:
    return Runtime(
        store=store,
        catalogue=Catalogue([COUNT, FILELESS, FILE_ONLY, BROKEN]),
        policy=Policy(default_analysis="count", **policy),
        clock=clock,
        jitter=lambda: 0.5,
    )


@contextmanager
def lent_runtime(folder: Path, clock: FakeClock) -> Iterator[Runtime]:
    """A runtime on a new store in ``folder``, until the end of the block."""
    path = folder / "store.v1.json"
    create_store(path, store_id=new_id(), now=clock.now())
    store = open_store(path, Mode.SERVE)
    try:
        yield runtime(store, clock)
    finally:
        store.close()


def quota(rt: Runtime) -> QueueQuota:
    return QueueQuota(rt.policy.max_queued_per_tenant)


def submitted(rt: Runtime, org_id: OrgId = ALPHA, **asked: Any) -> Job:
    return settled(jobs.submit(rt, quota(rt), org_id, Submission(**asked))).job


T = TypeVar("T")


def settled(future: Future[T]) -> T:
    return future.result(timeout=30)


def claimed(rt: Runtime, worker: str = "worker-a") -> Run:
    (run,) = runs.claim(rt, worker, 1)
    return run


def completed(rt: Runtime, run: Run, payload: Any = None) -> Job:
    job = run.job
    assert job.fence is not None
    return runs.complete(rt, job.org_id, job.job_id, job.fence, seal(payload))


def published(rt: Runtime, run: Run, payload: Any, **report: Any) -> Job:
    job = run.job
    assert job.fence is not None
    return runs.publish_partial(rt, job.org_id, job.job_id, job.fence, seal(payload), Report(**report))
