"""A job while it is being adopted: what its parts are settled on, and the tools for that. See ``domain.adoption``."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from async_delivery.domain.account import Entry, Kind, Note, Verdict
from async_delivery.domain.found import UNKNOWN, FoundEvent, FoundJob, FoundNotification, FoundResult
from async_delivery.domain.job import Attempt, amend, evolve


def known(at: datetime | None) -> datetime | None:
    """``at``, or None where it stands for an instant that is not known."""
    return None if at == UNKNOWN else at


class Adopting:
    """What is known of the job so far, and what came of its records; a part settled may rest on those before it."""

    def __init__(self, found: FoundJob) -> None:
        self.found = found
        # A copy of its own, changed as parts are settled; what was found stays as it was said.
        self.job = evolve(found.job)
        self.results: list[FoundResult] = []
        self.events: list[FoundEvent] = []
        self.attempts: list[Attempt] = []
        self.told: list[FoundNotification] = []
        self.also: list[Entry] = []
        self._numbers = 0

    # ------------------------------------------------------------ tools
    def change(self, **changes: Any) -> None:
        """Settle fields of the job."""
        amend(self.job, changes)

    @property
    def at(self) -> datetime:
        """The latest instant that is known of the job; few jobs need one."""
        job = self.found.job
        known = [job.submitted_at, job.queued_at, job.updated_at, job.started_at, job.finished_at]
        known += [each.event.occurred_at for each in self.found.events]
        known += [each.result.created_at for each in self.found.results]
        return max((at for at in known if at is not None), default=UNKNOWN)

    def new_id(self) -> str:
        """An id made of the job's own: the same whenever this job is read again."""
        self._numbers += 1
        name = f"async-delivery adoption {self._numbers} of {self.job.org_id} {self.job.job_id}"
        text = hashlib.sha256(name.encode()).hexdigest()
        return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-a{text[17:20]}-{text[20:32]}"

    def note(self, done: str, name: str | None = None, was: Any = None) -> None:
        self.found.notes.append(Note(done, name, was))

    def made(self, kind: Kind, record_id: str, done: str) -> None:
        self.also.append(Entry(kind, record_id, Verdict.MADE, (Note(done),), self.job.job_id))
