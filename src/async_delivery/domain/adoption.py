"""How a job from elsewhere becomes one that keeps the invariants of this house.

What was read of a job, its results, events and notifications goes in; one whole job comes out, with a note for
everything that had to be changed. The same job read twice comes out the same: ids that are made are made of the
job's own, and instants that are made are the last ones known of it. Nothing here reads a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

from async_delivery.domain import lifecycle
from async_delivery.domain import notification as notifications
from async_delivery.domain.account import Entry, Kind, Note, Verdict
from async_delivery.domain.adopted_results import settle_results
from async_delivery.domain.adopting import Adopting, known
from async_delivery.domain.event import ActorType, Event, EventType
from async_delivery.domain.failure import failure
from async_delivery.domain.found import UNKNOWN, FoundEvent, FoundJob, FoundNotification
from async_delivery.domain.job import (
    ACTIVE,
    Attempt,
    AttemptOutcome,
    Job,
    JobStatus,
    Lease,
    evolve,
)
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.notification import Channel, Notification
from async_delivery.domain.transfer import JobBundle, KeptResult

UNKNOWN_STATE = "unknown_state"
UNKNOWN_WORKER = "unknown"
_OUTCOMES = {
    JobStatus.COMPLETED: AttemptOutcome.COMPLETED,
    JobStatus.FAILED: AttemptOutcome.FAILED,
    JobStatus.CANCELED: AttemptOutcome.CANCELED,
}


def adopt(found: FoundJob) -> tuple[JobBundle, tuple[Entry, ...]]:
    """The job as a store may keep it, and what is to be named of it."""
    work = _Adoption(found)
    settle_results(work)
    work.settle_attempts()
    work.settle_events()
    work.settle_state()
    work.settle_notifications()
    return work.bundle(), tuple(work.entries())


class _Adoption(Adopting):
    # ------------------------------------------------------------ attempts
    def settle_attempts(self) -> None:
        given = self.found.attempts
        if given is None or (not given and self.job.status in ACTIVE):
            self.attempts = self._attempts_made()
        else:
            self.attempts = [
                replace(attempt, attempt=number)
                for number, attempt in enumerate(sorted(given, key=lambda it: it.attempt), start=1)
            ]
            if [it.attempt for it in self.attempts] != sorted(it.attempt for it in given):
                self.note("its attempts were not numbered 1, 2, …; they are now", "attempts")
        started = len(self.attempts)
        if given and self.job.attempt != started:
            self.note(f"attempt is {started}, the attempts there are", "attempt", self.job.attempt)
        running = self.job.status in ACTIVE and self.found.state_known
        for index, attempt in enumerate(self.attempts):
            open_now = running and index == started - 1
            if attempt.outcome is None and not open_now:
                self.attempts[index] = self._ended(attempt, index == started - 1)
            elif attempt.outcome is not None and open_now:
                self.attempts[index] = replace(attempt, outcome=None, ended_at=None, error_code=None)
        self.change(attempt=started)
        for each in self.results:
            if not 1 <= each.result.attempt <= max(1, started):
                each.notes.append(Note(f"of attempt {max(1, started)}", "attempt", each.result.attempt))
                each.result = replace(each.result, attempt=max(1, started))

    def _attempts_made(self) -> list[Attempt]:
        """The older form knows no attempts: one for a job that has begun."""
        job = self.job
        began = (
            job.started_at is not None or bool(self.results) or job.status in (*ACTIVE, JobStatus.COMPLETED)
        )
        count = max(job.attempt, 1 if began and self.found.state_known else 0)
        open_now = job.status in ACTIVE and self.found.state_known
        attempts = []
        for number in range(1, count + 1):
            outcome, code = (None, None) if open_now else self._how_ended(number == count)
            attempts.append(
                Attempt(
                    job_id=job.job_id,
                    org_id=job.org_id,
                    attempt=number,
                    worker_id=UNKNOWN_WORKER,
                    started_at=job.started_at or UNKNOWN,
                    ended_at=None if open_now else job.finished_at,
                    outcome=outcome,
                    error_code=code,
                )
            )
        return attempts

    def _ended(self, attempt: Attempt, last: bool) -> Attempt:
        outcome, code = self._how_ended(last)
        return replace(attempt, outcome=outcome, ended_at=self.job.finished_at, error_code=code)

    def _how_ended(self, last: bool) -> tuple[AttemptOutcome, str | None]:
        """The outcome and the error code of an attempt that has ended."""
        outcome = _OUTCOMES.get(self.job.status, AttemptOutcome.LOST) if last else AttemptOutcome.LOST
        return outcome, self.job.error.code if outcome is AttemptOutcome.FAILED and self.job.error else None

    # ------------------------------------------------------------ events
    def settle_events(self) -> None:
        self.events = self.found.events
        said = self.found.event_seq or 0
        ended = self.found.job.status.terminal and self.found.state_known
        numbers = [each.event.event_seq for each in self.events]
        if not self.events and not ended:
            queued_at = self.job.submitted_at if self.job.submitted_at != UNKNOWN else self.job.queued_at
            self._say(EventType.QUEUED, ActorType.SYSTEM, queued_at)
            return
        if not self.events:
            least = 3 if self.job.started_at is not None or self.job.status is not JobStatus.CANCELED else 2
            self.change(event_seq=max(said, 1) if self.found.event_seq else least)
            return
        if _numbered(self.events, said, ended):
            valid = any(each.event.occurred_at != UNKNOWN for each in self.events)
            self.change(event_seq=numbers[-1] if valid or not ended else max(said, numbers[-1]))
            return
        for number, each in enumerate(self.events, start=1):
            if each.event.event_seq != number:
                each.notes.append(
                    Note(f"numbered {number} by its place", "event_seq", each.event.event_seq or None)
                )
                each.event = replace(each.event, event_seq=number)
        self.change(event_seq=len(self.events))

    def _say(self, event_type: EventType, actor: ActorType, at: datetime, **payload: Any) -> None:
        """Add an event that the job lacks."""
        seq = self.job.event_seq + 1
        event = Event(
            event_id=self.new_id(),
            org_id=self.job.org_id,
            job_id=self.job.job_id,
            event_seq=seq,
            event_type=event_type,
            occurred_at=at,
            actor_type=actor,
            payload=payload,
        )
        self._add([event], "the job had no events" if seq == 1 else "what became of the job")
        self.change(event_seq=seq)

    def _add(self, events: Sequence[Event], why: str) -> None:
        self.events = [*self.events]
        for event in events:
            self.events.append(FoundEvent(event, f"{self.job.job_id}#{event.event_seq}"))
            self.made(Kind.EVENTS, f"{self.job.job_id}#{event.event_seq}", f"{event.event_type}: {why}")

    # ------------------------------------------------------------ state
    def settle_state(self) -> None:
        """Bring a job that somebody was at, or that is in no state of ours, into one in which it may rest."""
        job = self.job
        if not self.found.state_known:
            reason = failure(
                UNKNOWN_STATE,
                "the store it came from had it in a state that is not known here",
                retryable=True,
            )
            self.change(status=JobStatus.FAILED, error=reason, finished_at=known(self.at))
            self.attempts = [self._ended(each, each.attempt == self.job.attempt) for each in self.attempts]
            self._say(EventType.FAILED, ActorType.SYSTEM, self.at, error_code=reason.code)
        elif self.found.job.status in ACTIVE and job.status is JobStatus.COMPLETED:
            ended = job.finished_at or UNKNOWN
            self._say(
                EventType.COMPLETED, ActorType.SYSTEM, ended, result_id=job.result_id, attempt=job.attempt
            )
        elif job.status in ACTIVE:
            was = str(job.status)
            held = evolve(job, lease=Lease(self.attempts[-1].worker_id, "", self.at))
            self._take(lifecycle.rescue(held, self.at, self.new_id))
            self.note(f"its worker is not of this store: {self.job.status} again", "status", was)
        elif job.status is JobStatus.QUEUED and job.cancel_requested_at is not None:
            at, by = job.cancel_requested_at, job.canceled_by or "unknown"
            asked = evolve(job, cancel_requested_at=None)
            change = lifecycle.request_cancel(asked, by, job.cancel_reason, at, self.new_id)
            if change is not None:
                self._take(change)
            self.note("it waited although a cancel had been asked for: canceled", "status", "queued")

    def _take(self, change: Change) -> None:
        job = change.job
        self.job = evolve(job, finished_at=known(job.finished_at), canceled_at=known(job.canceled_at))
        if change.attempt is not None:
            self.attempts[-1] = replace(change.attempt, started_at=self.attempts[-1].started_at)
            if change.attempt.ended_at == UNKNOWN:
                self.attempts[-1] = replace(self.attempts[-1], ended_at=None)
        self._add(change.events, "its worker is lost" if self.found.job.status in ACTIVE else "its cancel")

    # ------------------------------------------------------------ notifications
    def settle_notifications(self) -> None:
        job = self.job
        template = f"async.job.{job.status}"
        keys: set[str] = set()
        has_in_app = False
        for each in self.found.notifications:
            told = each.notification
            if told.channel is Channel.IN_APP:
                why = _why_not_in_app(job, told, template, has_in_app)
                if why is not None:
                    self._refuse(each, why)
                    continue
                has_in_app = True
            wanted = notifications.dedupe_key(job.job_id, told.channel, told.template_key)
            own = told.channel is not Channel.IN_APP and told.dedupe_key.startswith(f"{job.job_id}:")
            if told.dedupe_key != wanted and not own:
                each.notes.append(Note(f"its dedupe key is {wanted}", "dedupe_key", told.dedupe_key or None))
                told = replace(told, dedupe_key=wanted)
            if told.dedupe_key in keys:
                self._refuse(each, "a second one with the same dedupe key")
                continue
            keys.add(told.dedupe_key)
            each.notification = told
            self.told.append(each)
        if job.status.terminal and not has_in_app:
            self._tell()

    def _tell(self) -> None:
        ended = self.job.finished_at or self.at
        made = notifications.in_app(self.job, ended, self.new_id)
        made = replace(made, sent_at=known(made.sent_at))
        self.told.append(FoundNotification(made, b""))
        self.made(Kind.NOTIFICATIONS, made.notification_id, "the job has ended and had no in_app record")

    def _refuse(self, each: FoundNotification, why: str) -> None:
        self.also.append(
            Entry(
                Kind.NOTIFICATIONS,
                each.notification.notification_id,
                Verdict.REFUSED,
                (Note(why), *each.notes),
                self.job.job_id,
                each.record,
            )
        )

    # ------------------------------------------------------------ what comes out
    def bundle(self) -> JobBundle:
        job = self.job
        return JobBundle(
            job=job,
            request=self.found.request,
            attempts=tuple(self.attempts),
            logs={number: text for number, text in self.found.logs.items() if 1 <= number <= job.attempt},
            events=tuple(each.event for each in self.events),
            results=tuple(KeptResult(each.result, each.data) for each in self.results),
            notifications=tuple(
                sorted((each.notification for each in self.told), key=lambda it: it.notification_id)
            ),
            keys=tuple(sorted(self.found.keys, key=lambda it: it.key)),
        )

    def entries(self) -> list[Entry]:
        job_id = self.job.job_id
        named: list[tuple[Kind, str, list[Note]]] = [(Kind.JOBS, job_id, self.found.notes)]
        named += [(Kind.RESULTS, each.result.result_id, each.notes) for each in self.results]
        named += [(Kind.EVENTS, each.record_id, each.notes) for each in self.events]
        named += [(Kind.NOTIFICATIONS, each.notification.notification_id, each.notes) for each in self.told]
        odd = [
            Entry(kind, record_id, Verdict.ODD, tuple(notes), job_id)
            for kind, record_id, notes in named
            if notes
        ]
        return odd + self.also


def _numbered(events: Sequence[FoundEvent], said: int, ended: bool) -> bool:
    """True if the numbers of a log may stay. An ended job may have lost the front of its log to a cleanup, which
    leaves events without an instant where they are."""
    numbers = [each.event.event_seq for each in events]
    if numbers[0] < 1 or any(one >= other for one, other in pairwise(numbers)):
        return False
    if not ended:
        return numbers[0] == 1 and numbers[-1] == len(numbers)
    valid = [index for index, each in enumerate(events) if each.event.occurred_at != UNKNOWN]
    if not valid:
        return True
    rest = numbers[valid[0] :]
    return rest[-1] - rest[0] + 1 == len(rest) and (said in (0, rest[-1]))


def _why_not_in_app(job: Job, told: Notification, template: str, has_in_app: bool) -> str | None:
    if not job.status.terminal:
        return f"tells of an end, but the job is {job.status}"
    if told.template_key != template:
        return f"tells of {told.template_key}, but the job is {job.status}"
    return "a second one for the same end" if has_in_app else None
