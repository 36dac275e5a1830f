"""FastAPI in front of Celery: accepts with 202, tells state and result. For uvicorn."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI  # type: ignore[import-not-found,unused-ignore]
from redis import Redis  # type: ignore[import-not-found]

from bench.peers.programs.celery_jobs import RESULTS, completed, work
from bench.peers.programs.celery_jobs import app as celery

app = FastAPI()
_redis = Redis.from_url(RESULTS)


# Plain functions, which FastAPI runs on threads: Celery's client blocks.
def submit(body: dict[str, Any]) -> dict[str, str]:
    """Accepted when Redis has it on its disk."""
    return {"id": work.delay().id}


def status(job_id: str) -> dict[str, Any]:
    """Where the job stands, with its result once there is one."""
    found = celery.AsyncResult(job_id)
    state = found.state
    return {"id": job_id, "state": state, "result": found.result if state == "SUCCESS" else None}


def count() -> dict[str, int]:
    """How many have completed."""
    return {"completed": completed(_redis)}


app.post("/jobs", status_code=202)(submit)
app.get("/jobs/{job_id}")(status)
app.get("/completed")(count)
