"""Short words for jobs of a running fleet: submit some, wait for what becomes of them, read their events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from tests.reliability.fleet import Fleet
from tests.reliability.oracle import TERMINAL
from tests.reliability.traffic import ask
from tests.system.live import eventually

ORG = "population"


class Population:
    """Jobs of one tenant on a fleet; any server may be asked."""

    def __init__(self, fleet: Fleet, org_id: str = ORG) -> None:
        self._fleet, self.org_id = fleet, org_id
        self._asked = 0

    @property
    def port(self) -> int:
        """Another server at each call."""
        self._asked += 1
        ports = self._fleet.ports
        return ports[self._asked % len(ports)]

    def get(self, path: str) -> Any:
        answer = ask(self.port, "GET", path, org_id=self.org_id)
        assert answer.status == 200, answer.body
        return answer.json()

    def submit(self, analysis: str, labels: dict[str, str] | None = None, **params: Any) -> str:
        body = {
            "analysis": analysis,
            "params": params,
            "labels": labels or {},
            "options": {"async_mode": {"requested": True}},
        }
        answer = ask(self.port, "POST", "/analyze", org_id=self.org_id, body=body)
        assert answer.status == 202, answer.body
        job_id: str = answer.json()["job"]["job_id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/analyze/jobs/{job_id}")["job"]
        return found

    def events(self, job_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/analyze/jobs/{job_id}/events?limit=1000")["events"]
        return found

    def in_state(self, *statuses: str) -> list[str]:
        """Ids of the tenant's jobs in one of ``statuses``, 200 at most."""
        wanted = "&".join(f"status={status}" for status in statuses)
        return [job["job_id"] for job in self.get(f"/analyze/jobs?limit=200&{wanted}")["jobs"]]

    def cancel(self, job_id: str) -> None:
        answer = ask(self.port, "POST", f"/analyze/jobs/{job_id}/cancel", org_id=self.org_id, body={})
        assert answer.status in (200, 202), answer.body

    def hold(self, job_id: str) -> None:
        answer = ask(self.port, "PUT", f"/analyze/jobs/{job_id}/hold", org_id=self.org_id)
        assert answer.status == 200, answer.body

    def ended(self, job_ids: Sequence[str], seconds: float = 120.0) -> list[dict[str, Any]]:
        """The jobs, once all have ended."""
        return [
            self._until(one, lambda job: job["status"] in TERMINAL, "has not ended", seconds)
            for one in job_ids
        ]

    def holding(self, job_id: str) -> list[int]:
        """The pids of a job of the analysis ``hold``, its own first, once it runs."""
        job = self._until(job_id, lambda job: job["status"] == "partial", "does not run", 60.0)
        answer = self.get(f"/analyze/results/{job['result_id']}")
        pids: list[int] = answer["result"]["pids"]
        return pids

    def _until(
        self, job_id: str, condition: Callable[[dict[str, Any]], bool], what: str, seconds: float
    ) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if condition(job) else None

        found: dict[str, Any] = eventually(look, f"{job_id} {what}", seconds)
        return found


def at(event: dict[str, Any]) -> float:
    """When it occurred, in seconds since 1970, as the store's clock says."""
    return datetime.fromisoformat(event["occurred_at"]).timestamp()


def now() -> float:
    """The same of this moment; servers, stores and tests share one machine's clock."""
    return time.time()


def first(events: Sequence[dict[str, Any]], kind: str, attempt: int | None = None) -> dict[str, Any] | None:
    """The first event of a kind, and of an attempt."""
    for event in events:
        if event["event_type"] == kind and attempt in (None, event["payload_json"].get("attempt")):
            return event
    return None


def p99(values: Sequence[float]) -> float:
    """The smallest value that 99 of 100 do not exceed; of fewer than 100, the largest."""
    ordered = sorted(values)
    return ordered[-(-99 * len(ordered) // 100) - 1]
