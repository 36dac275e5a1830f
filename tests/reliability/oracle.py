"""The oracle: compares what clients were told with what the store holds, by the promises alone.

It takes a journal and an image and names every breach. It knows nothing of the product's code and imports none, so
that a mistake there cannot hide itself here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.reliability.image import AttemptRow, EventRow, Image, JobRow, NotificationRow, ResultRow
from tests.reliability.journal import Operation, Outcome

ENDS = {"job.completed": "completed", "job.failed": "failed", "job.canceled": "canceled"}
TERMINAL = frozenset(ENDS.values())


class Rule(StrEnum):
    """The promises."""

    LOST = "what was acknowledged is there"
    INVENTED = "nothing is there that nobody asked for"
    TWICE = "one request leads to one job"
    UNENDED = "every accepted job ends"
    ENDS = "a job ends once, and its last event says how"
    CHANGED = "what has ended never changes"
    GONE = "what was erased or cleaned up does not come back"
    EVENTS = "the events of a job are numbered 1, 2, 3 without a gap"
    ATTEMPTS = "the attempts of a job are numbered 1, 2, 3 without a gap, and each has an end"
    TOLD = "a job that has ended is told of once on each channel, and no other is"
    RESULTS = "results rise in number, and a completed job has exactly one that is final"
    BYTES = "a result's bytes are the ones that were sealed, and the ones that were read"
    STALE = "an attempt writes nothing once a later one has started"
    TENANT = "nothing crosses tenants"
    DAMAGE = "the database is whole"


LOSSES = frozenset({Rule.LOST, Rule.UNENDED, Rule.DAMAGE, Rule.BYTES})
DUPLICATES = frozenset({Rule.TWICE, Rule.ENDS, Rule.TOLD})


@dataclass(frozen=True, slots=True)
class Breach:
    """One promise that was not kept, and where."""

    rule: Rule
    where: str

    def __str__(self) -> str:
        return f"{self.where} ({self.rule})"


@dataclass(slots=True)
class Dossier:
    """A job with the rows that belong to it, each kind in its order."""

    job: JobRow
    events: list[EventRow] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    told: list[NotificationRow] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.job.status in TERMINAL


def judge(
    history: Sequence[Operation], image: Image, *, drained: bool = True, cleaned: bool = False
) -> list[Breach]:
    """Every breach.

    drained   every job was given the time to end
    cleaned   cleanups have run: the events of ended jobs may be gone from the front, and the bodies of results
    """
    return list(_breaches(history, image, drained=drained, cleaned=cleaned))


def _breaches(
    history: Sequence[Operation], image: Image, *, drained: bool, cleaned: bool
) -> Iterator[Breach]:
    for line in image.damage:
        yield Breach(Rule.DAMAGE, line)
    yield from _acknowledged(history, image)
    yield from _asked_for(history, image)
    yield from _seen(history, image)
    dossiers = {job_id: Dossier(job) for job_id, job in image.jobs.items()}
    yield from _sort_in(dossiers, image)
    for one in dossiers.values():
        if drained and not one.ended:
            yield Breach(Rule.UNENDED, f"job {one.job.job_id} is {one.job.status}")
        yield from _events(one, cleaned)
        yield from _ends(one, cleaned)
        yield from _attempts(one)
        yield from _results(one, cleaned)
        yield from _told(one)
        yield from _stale(one)


# ---------------------------------------------------------------- what clients know
def _acknowledged(history: Sequence[Operation], image: Image) -> Iterator[Breach]:
    """What clients were promised is there, with its tenant; what they erased is not."""
    erased = {op.facts["job_id"]: op.outcome for op in history if op.kind == "erase"}
    for op in history:
        if op.outcome is not Outcome.ACKNOWLEDGED or op.kind not in ("submit", "retry", "erase"):
            continue
        job = image.jobs.get(op.facts["job_id"])
        if op.kind == "erase":
            if job is not None:
                yield Breach(Rule.GONE, f"job {job.job_id} was erased")
        elif job is None:
            # An erase without an answer may have been carried out, one that was refused may not.
            if erased.get(op.facts["job_id"], Outcome.REFUSED) is Outcome.REFUSED:
                yield Breach(
                    Rule.LOST, f"job {op.facts['job_id']} of {op.org_id}, operation {op.number}, is not there"
                )
        elif job.org_id != op.org_id:
            yield Breach(Rule.TENANT, f"job {job.job_id} of {op.org_id} belongs to {job.org_id}")


def _asked_for(history: Sequence[Operation], image: Image) -> Iterator[Breach]:
    """Every job was asked for, and a request without an answer led to one job at most."""
    submits = {str(op.number): op for op in history if op.kind == "submit"}
    retries = Counter(op.facts["of"] for op in history if op.kind == "retry")
    made: Counter[str] = Counter()
    again: Counter[str] = Counter()
    for job in image.jobs.values():
        op = submits.get(job.operation or "")
        if op is None or op.org_id != job.org_id:
            yield Breach(Rule.INVENTED, f"job {job.job_id} of {job.org_id} names operation {job.operation}")
        elif job.retry_of is not None:
            again[job.retry_of] += 1
        else:
            made[str(op.number)] += 1
            if op.outcome is Outcome.REFUSED:
                yield Breach(Rule.INVENTED, f"job {job.job_id} was refused, operation {op.number}")
            elif op.outcome is Outcome.ACKNOWLEDGED and op.facts["job_id"] != job.job_id:
                yield Breach(Rule.TWICE, f"operation {op.number} was answered with {op.facts['job_id']}")
    for number, count in made.items():
        if count > 1:
            yield Breach(Rule.TWICE, f"operation {number} led to {count} jobs")
    for job_id, count in again.items():
        if count > retries[job_id]:
            yield Breach(Rule.TWICE, f"job {job_id} was retried {retries[job_id]} times, has {count} jobs")


def _seen(history: Sequence[Operation], image: Image) -> Iterator[Breach]:
    """What was read once holds for ever: an end, a result's bytes, and that it is gone."""
    results = {one.result_id: one for one in image.results}
    for op in history:
        if op.kind == "saw_end":
            job = image.jobs.get(op.facts["job_id"])
            if job is not None and job.status != op.facts["status"]:
                yield Breach(Rule.CHANGED, f"job {job.job_id} was {op.facts['status']} and is {job.status}")
        elif op.kind == "saw_result":
            found = results.get(op.facts["result_id"])
            if found is None:
                continue  # its job was erased, which is judged elsewhere
            if found.sha256 != op.facts["sha256"]:
                yield Breach(Rule.BYTES, f"result {found.result_id} was read with other bytes")
            if found.org_id != op.org_id:
                yield Breach(Rule.TENANT, f"result {found.result_id} was read by {op.org_id}")
        elif op.kind == "saw_gone":
            found = results.get(op.facts["result_id"])
            if found is not None and not found.deleted:
                yield Breach(Rule.GONE, f"result {found.result_id} had been deleted")
        elif op.kind == "saw_foreign":
            yield Breach(Rule.TENANT, f"{op.org_id} was answered with {op.facts['what']}")


# ---------------------------------------------------------------- what the rows say
def _sort_in(dossiers: dict[str, Dossier], image: Image) -> Iterator[Breach]:
    """Each row to its job; a row of no job, or of another tenant than its job, is a breach."""
    kinds: list[tuple[str, Sequence[EventRow | ResultRow | AttemptRow | NotificationRow]]] = [
        ("event", image.events),
        ("result", image.results),
        ("attempt", image.attempts),
        ("notification", image.notifications),
    ]
    for kind, rows in kinds:
        for row in rows:
            one = dossiers.get(row.job_id)
            if one is None:
                yield Breach(Rule.GONE, f"job {row.job_id} is not there, but a row of its {kind}s")
                continue
            if row.org_id != one.job.org_id:
                yield Breach(Rule.TENANT, f"job {row.job_id}: its {kind} belongs to {row.org_id}")
            match row:
                case EventRow():
                    one.events.append(row)
                case ResultRow():
                    one.results.append(row)
                case AttemptRow():
                    one.attempts.append(row)
                case NotificationRow():
                    one.told.append(row)


def _events(one: Dossier, cleaned: bool) -> Iterator[Breach]:
    numbers = [event.seq for event in one.events]
    whole = list(range(1, one.job.event_seq + 1))
    if cleaned and one.ended:
        whole = whole[len(whole) - len(numbers) :] if len(numbers) <= len(whole) else whole
    if numbers != whole:
        yield Breach(Rule.EVENTS, f"job {one.job.job_id} counts {one.job.event_seq}, has {numbers[:50]}")


def _ends(one: Dossier, cleaned: bool) -> Iterator[Breach]:
    ends = [event.kind for event in one.events if event.kind in ENDS]
    if cleaned and one.ended and not one.events:
        return
    wanted = [kind for kind, status in ENDS.items() if status == one.job.status]
    if ends != wanted or (one.ended and one.events[-1].kind != wanted[0]):
        yield Breach(Rule.ENDS, f"job {one.job.job_id} is {one.job.status}, its events end it as {ends}")


def _attempts(one: Dossier) -> Iterator[Breach]:
    job, numbers = one.job, [attempt.number for attempt in one.attempts]
    if numbers != list(range(1, job.attempt + 1)):
        yield Breach(Rule.ATTEMPTS, f"job {job.job_id} counts {job.attempt} attempts, has {numbers}")
    unended = [attempt.number for attempt in one.attempts if attempt.outcome is None]
    if unended != ([job.attempt] if job.status in ("running", "partial") else []):
        yield Breach(Rule.ATTEMPTS, f"job {job.job_id} is {job.status}, attempts {unended} have no end")


def _results(one: Dossier, cleaned: bool) -> Iterator[Breach]:
    job, numbers = one.job, [result.seq for result in one.results]
    if numbers != list(range(1, job.result_seq + 1)):
        yield Breach(Rule.RESULTS, f"job {job.job_id} counts {job.result_seq} results, has {numbers}")
    finals = [result.result_id for result in one.results if result.kind == "final"]
    if finals != ([job.result_id] if job.status == "completed" else []):
        yield Breach(Rule.RESULTS, f"job {job.job_id} is {job.status}, its final results are {finals}")
    for result in one.results:
        if result.deleted and not cleaned:
            yield Breach(Rule.BYTES, f"result {result.result_id} was deleted, and nothing cleaned up")
        if result.deleted is not (result.body_sha256 is None):
            yield Breach(
                Rule.BYTES, f"result {result.result_id}: deleted {result.deleted}, body {result.body_sha256}"
            )
        elif not result.deleted and result.body_sha256 != result.sha256:
            yield Breach(Rule.BYTES, f"result {result.result_id} has other bytes than were sealed")


def _told(one: Dossier) -> Iterator[Breach]:
    said = Counter((told.channel, told.template) for told in one.told)
    right = f"async.job.{one.job.status}"
    channels = {channel for channel, _ in said}
    wanted = Counter({(channel, right): 1 for channel in channels | {"in_app"}}) if one.ended else Counter()
    if said != wanted:
        yield Breach(Rule.TOLD, f"job {one.job.job_id} is {one.job.status}, told of as {dict(said)}")


def _stale(one: Dossier) -> Iterator[Breach]:
    """The attempts that wrote events and results never go back in number."""
    series: list[tuple[str, Callable[[], list[int]]]] = [
        ("events", lambda: [event.attempt for event in one.events if event.attempt is not None]),
        ("results", lambda: [result.attempt for result in one.results]),
    ]
    for what, numbers_of in series:
        numbers = numbers_of()
        if numbers != sorted(numbers):
            yield Breach(Rule.STALE, f"job {one.job.job_id}: its {what} are of attempts {numbers[:50]}")
