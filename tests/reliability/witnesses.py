"""Two jobs of which no cleanup may take anything: one that runs all the while, and one that has ended and is held."""

from __future__ import annotations

from typing import Any

from tests.reliability.fleet import Fleet
from tests.reliability.journal import Journal, Outcome
from tests.reliability.population import Population

# The most that a job may publish, and longer than any of these tests.
_STAGES, _STAGE_SECONDS = 1_000, 0.3


class Witnesses:
    """Looked at between cleanups. They occupy one slot."""

    def __init__(self, fleet: Fleet, journal: Journal, org_id: str) -> None:
        self._people, self._journal = Population(fleet, org_id), journal
        self._running = self._submit(stages=_STAGES, stage_seconds=_STAGE_SECONDS)
        self._held = self._submit(stages=2, stage_seconds=0)
        self._people.ended([self._held])
        self._people.hold(self._held)
        self._kept = self._rows(self._held)

    def _submit(self, **params: Any) -> str:
        number = self._journal.sending("submit", self._people.org_id, params=params)
        job_id = self._people.submit("selftest", {"op": str(number)}, **params)
        self._journal.answered(number, Outcome.ACKNOWLEDGED, job_id=job_id)
        return job_id

    def _rows(self, job_id: str) -> tuple[list[int], list[int]]:
        """The numbers of its results and of its events, as its tenant can read them."""
        results = self._people.get(f"/analyze/jobs/{job_id}/results")["results"]
        events = self._people.events(job_id)
        return [one["result_seq"] for one in results], [one["event_seq"] for one in events]

    def taken(self) -> list[str]:
        """What is missing by now, one line for each kind of row."""
        wrong = []
        for kind, numbers in zip(("results", "events"), self._rows(self._running), strict=True):
            if numbers != list(range(1, len(numbers) + 1)):
                wrong.append(f"of the running job {self._running} only the {kind} {numbers[:20]} are left")
        if (left := self._rows(self._held)) != self._kept:
            wrong.append(f"of the held job {self._held} only {left} are left of {self._kept}")
        return wrong

    def close(self) -> None:
        """Let the one that runs end."""
        self._people.cancel(self._running)
        self._people.ended([self._running])
