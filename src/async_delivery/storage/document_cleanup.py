"""Cleanup of a document in place: what is old is cut out of the file, and every other byte of it stays.

The rules are those of ``storage.retention``: only ended jobs, told by the job's end and the row's own instant, both of
which must be valid; nothing of a held job. A job goes, with all that belongs to it, once nothing of it stays but
receipts of results. Where the document is not clear, rows are kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from async_delivery.domain.account import Kind
from async_delivery.domain.errors import StoreFileError
from async_delivery.domain.job import TERMINAL, JobStatus
from async_delivery.domain.retention import RetentionPolicy, SectionCount
from async_delivery.domain.tenant import DEFAULT_ORG
from async_delivery.storage.contract import RetentionCount
from async_delivery.storage.conversion import require_unchanged
from async_delivery.storage.document import Document
from async_delivery.storage.document_fields import Fields, RefusedRecord, instant_of
from async_delivery.storage.document_going import cuts_of, cuts_with_jobs
from async_delivery.storage.document_index import Place
from async_delivery.storage.document_jobs import STATES, tenant_of
from async_delivery.storage.document_scan import Member, elements
from async_delivery.storage.replacing import Replacement

Stop = Callable[[], bool]
_COPIED = 1 << 20


class StoppedError(Exception):
    """The cleanup was asked to stop before it had changed anything."""


@dataclass(frozen=True, slots=True)
class _Owner:
    """What matters of an ended job. What is old is None where its end is not known."""

    org_id: str
    held: bool
    old_results: bool | None
    old_events: bool | None
    old_itself: bool | None


@dataclass(slots=True)
class _Sums:
    """The counts of one section, and the spans of the file that go."""

    total: int = 0
    eligible: int = 0
    going: int = 0
    undated: int = 0
    held: int = 0
    cuts: list[Place] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(end - start for start, end in self.cuts)

    def section(self, size: int | None = None) -> SectionCount:
        return SectionCount(
            total=self.total,
            eligible_terminal=self.eligible,
            delete_count=self.going,
            skipped_missing_timestamp=self.undated,
            held_count=self.held,
            bytes=self.size if size is None else size,
        )


class DocumentCleanup:
    """One cleanup of an open document: looked at once, then carried out or not."""

    def __init__(self, document: Document, policy: RetentionPolicy, now: datetime, stop: Stop) -> None:
        """Raises StoppedError."""
        self._document, self._stop = document, stop
        self._policy, self._now = policy, now
        self._tenants: dict[str, Counter[str]] = defaultdict(Counter)
        self._ended: dict[str, _Owner] = {}
        self._active = 0
        # Jobs of which something stays, or something is not clear, so that they stay themselves.
        self._staying: set[str] = set()
        self._input_of: dict[str, str] = {}
        # Result -> the ended jobs that name it.
        self._namers: dict[str, list[str]] = defaultdict(list)
        self._events_of: dict[str, list[Place]] = {}
        self._sort_jobs()
        self._results = self._of_results()
        self._events = self._of_events()
        self._jobs = self._of_jobs()

    def count(self) -> RetentionCount:
        """What goes and what stays."""
        return RetentionCount(
            terminal_job_count=len(self._ended),
            active_job_count=self._active,
            results=self._results.section(),
            events=self._events.section(),
            jobs=self._jobs.section(size=self._jobs.size - self._results.size - self._events.size),
            per_tenant={
                org: {name: it[name] for name in ("results", "events", "jobs")}
                for org, it in self._tenants.items()
            },
        )

    def carry_out(self) -> None:
        """Put a document without what goes in the place of this one; nothing happens if nothing goes.

        Raises StoppedError, StoreFileError; the document is as it was then."""
        cuts = sorted(self._jobs.cuts)
        if not cuts:
            return
        with Replacement(self._document.path) as new:
            self._copy(cuts, new.out)
            self._go_on()
            new.commit(lambda: require_unchanged(self._document))

    # ------------------------------------------------------------ what goes
    def _sort_jobs(self) -> None:
        document = self._document
        unclear = {stray.record_id for stray in document.strays() if stray.kind is Kind.JOBS}
        cutoff = self._policy.events_cutoff(self._now)
        jobs_cutoff = self._policy.jobs_cutoff(self._now)
        for job_id in document.job_ids():
            self._go_on()
            record = _value(document, document.job(job_id))
            if isinstance(record, dict) and isinstance(input_id := record.get("input_id"), str):
                self._input_of[job_id] = input_id
            if job_id in unclear or not isinstance(record, dict) or not _ended(record):
                self._active += 1
                continue
            if isinstance(result_id := record.get("result_id"), str):
                self._namers[result_id].append(job_id)
            ended_at = instant_of(record.get("finished_at"))
            self._ended[job_id] = _Owner(
                org_id=_tenant(record),
                held=record.get("held") is True or record.get("legal_hold") is True,
                old_results=None if ended_at is None else self._results_over(record, ended_at),
                old_events=None if ended_at is None else ended_at <= cutoff,
                old_itself=None if ended_at is None else jobs_cutoff is not None and ended_at <= jobs_cutoff,
            )

    def _results_over(self, record: dict[str, Any], ended_at: datetime) -> bool:
        own = record.get("results_ttl_seconds")
        if record.get("ttl_requested") is True and type(own) is int and own >= 0:
            try:
                return ended_at + timedelta(seconds=own) <= self._now
            except OverflowError:
                return False
        return ended_at <= self._policy.results_cutoff(self._now)

    def _of_results(self) -> _Sums:
        sums = _Sums()
        place = self._document.sections.places.get("results")
        if place is None:
            return sums
        unclear = {each.record_id for each in self._document.strays() if each.kind is Kind.RESULTS}

        def goes(member: Member) -> bool:
            self._go_on()
            record = _value(self._document, Place(member.start, member.end))
            job_id = record.get("job_id") if isinstance(record, dict) else None
            if isinstance(job_id, str) and member.key in unclear:
                self._staying.add(job_id)
            if not isinstance(record, dict):
                # It cannot say whose it is; the job that names it can.
                self._staying.update(self._namers.get(member.key, ()))
            if isinstance(record, dict) and record.get("deleted_at") is not None:
                return False  # the receipt of one that has gone already
            sums.total += 1
            owner = self._ended.get(job_id) if isinstance(job_id, str) else None
            if owner is None or not isinstance(job_id, str) or member.key in unclear:
                return False
            at = instant_of(record.get("created_at")) if isinstance(record, dict) else None
            return self._judge("results", sums, job_id, owner.old_results, at)

        sums.cuts = cuts_of(place, self._document.section("results"), goes)
        return sums

    def _of_events(self) -> _Sums:
        sums = _Sums()
        for member in self._document.section("events"):
            self._go_on()
            place = Place(member.start, member.end)
            given = _value(self._document, place)
            if not isinstance(given, list):
                sums.total += 1
                self._staying.add(member.key)
                continue
            sums.total += len(given)
            owner = self._ended.get(member.key)
            if owner is None or self._document.events_of(member.key) != place:
                self._staying.add(member.key)
                continue
            verdicts = [
                self._judge("events", sums, member.key, owner.old_events, _occurred_at(record))
                for record in given
            ]
            if any(verdicts):
                cuts = self._cuts_in(place, verdicts)
                self._events_of[member.key] = cuts
                sums.cuts += cuts
        return sums

    def _cuts_in(self, place: Place, verdicts: Sequence[bool]) -> list[Place]:
        """What to cut out of the list at ``place``, by what becomes of each of its elements."""
        if all(verdicts):
            return [Place(place.start + 1, place.end - 1)]
        going, data = iter(verdicts), self._document.raw(place)
        cuts = cuts_of(Place(0, len(data)), elements(data, 0), lambda _: next(going))
        return [Place(place.start + start, place.start + end) for start, end in cuts]

    def _of_jobs(self) -> _Sums:
        """The jobs that go, and the spans of all that goes: by itself, or with its job."""
        sums = _Sums(
            total=len(self._ended) + self._active,
            eligible=len(self._ended),
            cuts=[*self._results.cuts, *self._events.cuts],
        )
        for stray in self._document.strays():
            if stray.kind is Kind.NOTIFICATIONS:
                record = _value(self._document, stray.place)
                self._staying.add(str(record.get("job_id")) if isinstance(record, dict) else "")
        going = set()
        for job_id, owner in self._ended.items():
            if owner.old_itself is None:
                sums.undated += 1
            elif owner.old_itself and job_id not in self._staying:
                if owner.held:
                    sums.held += 1
                    continue
                going.add(job_id)
                self._tenants[owner.org_id]["jobs"] += 1
        sums.going = len(going)
        if going:
            self._go_on()
            sums.cuts = cuts_with_jobs(
                self._document, going, self._results.cuts, self._events_of, self._input_of
            )
        return sums

    def _judge(self, name: str, sums: _Sums, job_id: str, old: bool | None, at: datetime | None) -> bool:
        """Whether a row of an ended job goes."""
        owner = self._ended[job_id]
        sums.eligible += 1
        if old is None or at is None:
            sums.undated += 1
        if not old or at is None:
            self._staying.add(job_id)
            return False
        if owner.held:
            sums.held += 1
            return False
        sums.going += 1
        self._tenants[owner.org_id][name] += 1
        return True

    def _go_on(self) -> None:
        if self._stop():
            raise StoppedError

    # ------------------------------------------------------------ the new file
    def _copy(self, cuts: Iterable[Place], out: IO[bytes]) -> None:
        document, position = self._document, 0
        for start, end in (*cuts, Place(document.size, document.size)):
            while position < start:
                self._go_on()
                upto = min(start, position + _COPIED)
                piece = document.raw(Place(position, upto))
                try:
                    out.write(piece)
                except OSError as exc:
                    raise StoreFileError(
                        f"{document.path}: cannot be rewritten: {exc.strerror}; it is as it was"
                    ) from exc
                position = upto
            position = end


def _value(document: Document, place: Place) -> Any:
    try:
        return document.value(place)
    except RecursionError:
        return None


def _ended(record: dict[str, Any]) -> bool:
    status = record.get("status")
    word = STATES.get(status.strip().lower()) if isinstance(status, str) else None
    return word is not None and JobStatus(word) in TERMINAL


def _tenant(record: dict[str, Any]) -> str:
    try:
        return tenant_of(Fields(record))
    except RefusedRecord:
        return DEFAULT_ORG


def _occurred_at(record: Any) -> datetime | None:
    return instant_of(record.get("occurred_at")) if isinstance(record, dict) else None


def real_path(path: Path) -> Path:
    """The file itself, where ``path`` is a symbolic link: that is what is replaced. Raises StoreFileError."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:
        raise StoreFileError(f"{path}: cannot be reached: {exc}") from exc
