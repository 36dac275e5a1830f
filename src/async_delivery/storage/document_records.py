"""The records of a document as values: what each field means, in every version of the form.

Tolerant: a field that is missing or not right gets a value that harms nothing, and a note. A record that cannot be
kept at all is refused, and named with the whole of itself. docs/reference/store-document.md is this file in prose.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from async_delivery.domain.account import Entry, Kind, Note, Tallies, Verdict, tallied
from async_delivery.domain.adoption import adopt
from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import NotSerializableError
from async_delivery.domain.event import ActorType, Event, EventType
from async_delivery.domain.found import UNKNOWN, FoundEvent, FoundJob, FoundNotification, FoundResult
from async_delivery.domain.job import (
    Job,
    ResultId,
)
from async_delivery.domain.notification import Channel, DeliveryStatus, Notification
from async_delivery.domain.result import Result, ResultKind, SealedBody, seal_bytes
from async_delivery.domain.transfer import JobBundle
from async_delivery.storage.cells import FAR_FUTURE, canonical_of_parsed
from async_delivery.storage.document import Document, load_exactly
from async_delivery.storage.document_fields import ID_FORM, Fields, RefusedRecord, is_id
from async_delivery.storage.document_index import Place
from async_delivery.storage.document_jobs import JOB_FIELDS, TENANT_FIELDS, Defaults, read_fields

KINDS = {str(each): str(each) for each in ResultKind}
_TYPE_OF = {str(each): each for each in EventType}
_ACTOR_OF = {str(each): each for each in ActorType}
EVENT_TYPES = {**{str(each): str(each) for each in EventType}, "job.cancelled": "job.canceled"}
# The older form says "user" where the tenant acts.
ACTORS = {**{str(each): str(each) for each in ActorType}, "user": "tenant"}
CHANNELS = {str(each): str(each) for each in Channel}
DELIVERIES = {str(each): str(each) for each in DeliveryStatus}
_LONG_NUMBER = re.compile(rb"[0-9]{20}")
BODY_FIELDS = ("result_payload", "payload", "result")
# Each with its meaning in docs/reference/store-document.md.
RESULT_FIELDS = frozenset(
    {
        *("result_id", "job_id", *TENANT_FIELDS, "result_kind", "result_seq", "attempt", *BODY_FIELDS),
        *("created_at", "expires_at", "deleted_at", "size_bytes", "sha256"),
    }
)
EVENT_FIELDS = frozenset(
    {
        *("event_id", "job_id", *TENANT_FIELDS, "event_type", "event_seq", "occurred_at", "actor_type"),
        *("payload_json", "payload"),
    }
)
NOTIFICATION_FIELDS = frozenset(
    {
        *("notification_id", "job_id", *TENANT_FIELDS, "channel", "template_key", "delivery_status"),
        *("attempt_count", "last_error", "dedupe_key", "scheduled_at", "sent_at", "created_at"),
        *("payload_json", "payload"),
    }
)
_KNOWN = {
    Kind.JOBS: JOB_FIELDS,
    Kind.RESULTS: RESULT_FIELDS,
    Kind.EVENTS: EVENT_FIELDS,
    Kind.NOTIFICATIONS: NOTIFICATION_FIELDS,
}


@dataclass(slots=True)
class Adopted:
    """What became of a job of the document and of all that names it. ``bundle`` is None where the job is refused."""

    job_id: str
    bundle: JobBundle | None
    entries: tuple[Entry, ...]
    tallies: Tallies
    left: dict[Kind, Counter[str]]


def read_job(document: Document, job_id: str, defaults: Defaults) -> Adopted:
    """A job of the document with all that belongs to it."""
    return _Reading(document, job_id, defaults).adopted()


def refused(
    document: Document, kind: Kind, record_id: str, place: Place, why: str, job_id: str = ""
) -> Entry:
    """The entry of a record that is not taken over."""
    return Entry(kind, record_id, Verdict.REFUSED, (Note(why),), job_id or None, document.raw(place))


def refuse_job(document: Document, job_id: str, why: str) -> tuple[list[Entry], Tallies]:
    """A job of the document and everything that belongs to it, refused."""
    reading = _Reading(document, job_id, Defaults("", 0))
    reading.read[Kind.JOBS] += 1
    reading.entries.append(refused(document, Kind.JOBS, job_id, document.job(job_id), why, job_id))
    reading.refuse_all("its job is refused")
    return reading.entries, tallied(reading.read, tuple(reading.entries))


def read_strays(document: Document) -> tuple[list[Entry], Tallies]:
    """Everything in the document that no job of it owns, each refused."""
    entries = [
        refused(document, stray.kind, stray.record_id, stray.place, stray.why) for stray in document.strays()
    ]
    return entries, tallied(Counter(entry.kind for entry in entries), tuple(entries))


@dataclass(slots=True)
class _Reading:
    document: Document
    job_id: str
    defaults: Defaults
    read: Counter[Kind] = field(default_factory=Counter)
    entries: list[Entry] = field(default_factory=list)
    left: dict[Kind, Counter[str]] = field(default_factory=dict)

    def adopted(self) -> Adopted:
        place = self.document.job(self.job_id)
        self.read[Kind.JOBS] += 1
        try:
            fields = self._fields(Kind.JOBS, place)
            found = read_fields(fields, self.job_id, self.defaults)
        except RefusedRecord as exc:
            self._refuse(Kind.JOBS, self.job_id, place, str(exc))
            self.refuse_all("its job is refused")
            return self._done(None)
        found.result_free = self.document.is_free(found.job.result_id)
        tenants = {found.job.org_id, str(fields.record.get("owner_org_id"))}
        for result_id, each in self.document.results_of(self.job_id):
            if (result := self._one(Kind.RESULTS, result_id, each)) is not None:
                self._keep(Kind.RESULTS, result_id, each, result, found, tenants)
        self._keep_events(found)
        for told_id, each in self.document.notifications_of(self.job_id):
            if (told := self._one(Kind.NOTIFICATIONS, told_id, each)) is not None:
                self._keep(Kind.NOTIFICATIONS, told_id, each, told, found, tenants)
        self._leave(Kind.JOBS, fields)
        bundle, entries = adopt(found)
        self.entries += entries
        return self._done(bundle)

    def _done(self, bundle: JobBundle | None) -> Adopted:
        entries = tuple(self.entries)
        return Adopted(self.job_id, bundle, entries, tallied(self.read, entries), self.left)

    def _event_places(self) -> list[tuple[str, Place]]:
        place = self.document.events_of(self.job_id)
        return [] if place is None else self.document.event_places(self.job_id, place)

    def _fields(self, kind: Kind, place: Place) -> Fields:
        try:
            record, data, plain = self.document.parsed(place)
        except RecursionError:
            raise RefusedRecord("nested too deeply to be read") from None
        if not isinstance(record, dict):
            raise RefusedRecord("not an object")
        return Fields(record, _KNOWN[kind], plain=plain, data=data)

    def _one(self, kind: Kind, record_id: str, place: Place) -> Fields | None:
        self.read[kind] += 1
        try:
            return self._fields(kind, place)
        except RefusedRecord as exc:
            self._refuse(kind, record_id, place, str(exc))
            return None

    def _keep(
        self, kind: Kind, record_id: str, place: Place, fields: Fields, found: FoundJob, tenants: set[str]
    ) -> None:
        try:
            _require_owner(fields, tenants)
            if kind is Kind.RESULTS:
                found.results.append(_result(fields, record_id, found))
            else:
                found.notifications.append(_notification(fields, record_id, found.job))
        except RefusedRecord as exc:
            self._refuse(kind, record_id, place, str(exc))
        else:
            self._leave(kind, fields)

    def _keep_events(self, found: FoundJob) -> None:
        place = self.document.events_of(self.job_id)
        if place is None:
            return
        given, plain = None, False
        with suppress(RecursionError):
            given, _, plain = self.document.parsed(place)
        if not isinstance(given, list):
            self.read[Kind.EVENTS] += 1
            self._refuse(Kind.EVENTS, self.job_id, place, "not a list of events that can be read")
            return
        self.read[Kind.EVENTS] += len(given)
        for number, record in enumerate(given, start=1):
            try:
                if not isinstance(record, dict):
                    raise RefusedRecord("not an object")
                fields = Fields(record, EVENT_FIELDS, plain=plain)
                found.events.append(_event(fields, number, f"{self.job_id}#{number}", found.job))
                self._leave(Kind.EVENTS, fields)
            except RefusedRecord as exc:
                record_id, its_place = self._event_places()[number - 1]
                self._refuse(Kind.EVENTS, record_id, its_place, str(exc))

    def _refuse(self, kind: Kind, record_id: str, place: Place, why: str) -> None:
        self.entries.append(refused(self.document, kind, record_id, place, why, self.job_id))

    def refuse_all(self, why: str) -> None:
        """Refuse what belongs to the job."""
        rows = [(Kind.RESULTS, *each) for each in self.document.results_of(self.job_id)]
        rows += [(Kind.EVENTS, *each) for each in self._event_places()]
        rows += [(Kind.NOTIFICATIONS, *each) for each in self.document.notifications_of(self.job_id)]
        for kind, record_id, place in rows:
            self.read[kind] += 1
            self._refuse(kind, record_id, place, why)

    def _leave(self, kind: Kind, fields: Fields) -> None:
        if names := fields.left():
            left = self.left.setdefault(kind, Counter())
            for name in names:
                left[name] += 1


# ---------------------------------------------------------------- what belongs to one
def _result(fields: Fields, result_id: str, found: FoundJob) -> FoundResult:
    _require_id(fields, "result_id", result_id)
    job = found.job
    created_at = fields.needed_instant("created_at")
    deleted_at = fields.instant("deleted_at")
    sha256 = fields.text("sha256")
    size = fields.whole("size_bytes", 0, high=2**62)
    if deleted_at is None:
        body = _body(fields)
        if sha256 is not None and sha256 != body.sha256:
            raise RefusedRecord(f"its body is not the one that was sealed: its SHA-256 is {body.sha256}")
        data, size, sha256 = body.data, len(body.data), body.sha256
    else:
        data = None
    result = Result(
        result_id=ResultId(result_id),
        org_id=job.org_id,
        job_id=job.job_id,
        result_kind=ResultKind(fields.one_of("result_kind", KINDS, _usual_kind(fields))),
        result_seq=fields.whole("result_seq", 0),
        attempt=fields.whole("attempt", max(1, job.attempt)),
        created_at=created_at,
        expires_at=_expires_at(fields, created_at, job.results_ttl_seconds),
        size_bytes=size,
        sha256=sha256 or "",
        deleted_at=deleted_at,
    )
    return FoundResult(result, data, fields.notes)


def _usual_kind(fields: Fields) -> str:
    # The first version had final results only and did not say so; a kind that is unknown claims less.
    return "final" if fields.record.get("result_kind") is None else "partial"


def _body(fields: Fields) -> SealedBody:
    name = next((name for name in BODY_FIELDS if name in fields.record), None)
    if name is None:
        fields.note("result_payload", "it has no body: null")
        return seal_bytes(b"null")
    value = fields.get(name)
    try:
        data = canonical_of_parsed(value) if fields.plain else canonical_json(value)
    except (NotSerializableError, RecursionError):
        return seal_bytes(canonical_json(fields.mend(name, value)))
    # A whole number beyond 64 bits has become a float: it is to be told, not bent.
    if b"e+" in data and _LONG_NUMBER.search(fields.data):
        fields.plain = False
        data = canonical_json(fields.mend(name, load_exactly(fields.data)[name]))
    return seal_bytes(data)


def _expires_at(fields: Fields, created_at: datetime, ttl_seconds: int) -> datetime:
    if "expires_at" in fields.record:
        return fields.instant("expires_at") or FAR_FUTURE
    if created_at == UNKNOWN:
        return FAR_FUTURE
    try:
        return created_at + timedelta(seconds=ttl_seconds)
    except OverflowError:
        return FAR_FUTURE


def _event(fields: Fields, number: int, record_id: str, job: Job) -> FoundEvent:
    word = fields.record.get("event_type")
    if not isinstance(word, str) or (word not in _TYPE_OF and word.strip().lower() not in EVENT_TYPES):
        raise RefusedRecord(f"event_type {word!r:.80} is none that is known here")
    event_id = fields.text("event_id")
    if not event_id:
        digest = hashlib.sha256(f"event {number} of {job.job_id}".encode()).hexdigest()
        event_id = f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-b{digest[17:20]}-{digest[20:32]}"
        fields.note("event_id", f"it had no id: {event_id}")
    payload = fields.object("payload_json") if "payload_json" in fields.record else fields.object("payload")
    event = Event(
        event_id=event_id,
        org_id=job.org_id,
        job_id=job.job_id,
        event_seq=fields.whole("event_seq", 0),
        event_type=_TYPE_OF.get(word) or _TYPE_OF[fields.one_of("event_type", EVENT_TYPES, "")],
        occurred_at=fields.needed_instant("occurred_at"),
        actor_type=_ACTOR_OF[fields.one_of("actor_type", ACTORS, "system", quiet=True)],
        payload=payload,
    )
    return FoundEvent(event, record_id, fields.notes)


def _notification(fields: Fields, notification_id: str, job: Job) -> FoundNotification:
    _require_id(fields, "notification_id", notification_id)
    word = fields.record.get("channel")
    if word is not None and (not isinstance(word, str) or word.strip().lower() not in CHANNELS):
        raise RefusedRecord(f"channel {word!r:.80} is none that is known here")
    template_key = fields.text("template_key") or f"async.job.{job.status}"
    if template_key == "async.job.cancelled":
        template_key = "async.job.canceled"
        fields.note("template_key", "template_key is async.job.canceled here")
    payload = fields.object("payload_json") if "payload_json" in fields.record else fields.object("payload")
    told = Notification(
        notification_id=notification_id,
        org_id=job.org_id,
        job_id=job.job_id,
        channel=Channel(fields.one_of("channel", CHANNELS, "in_app")),
        template_key=template_key,
        delivery_status=DeliveryStatus(fields.one_of("delivery_status", DELIVERIES, "pending")),
        attempt_count=fields.whole("attempt_count", 0),
        last_error=fields.text("last_error"),
        dedupe_key=fields.text("dedupe_key") or "",
        scheduled_at=fields.needed_instant("scheduled_at"),
        sent_at=fields.instant("sent_at"),
        created_at=fields.needed_instant("created_at"),
        payload=payload,
    )
    return FoundNotification(told, fields.data, fields.notes)


def _require_id(fields: Fields, name: str, record_id: str) -> None:
    if not is_id(record_id):
        raise RefusedRecord("its id is empty" if not record_id else f"its id is not {ID_FORM}")
    if fields.get(name) not in (None, record_id):
        fields.note(name, f"stands under {record_id}, and that is its id")


def _require_owner(fields: Fields, tenants: set[str]) -> None:
    for name in TENANT_FIELDS:
        value = fields.record.get(name)
        if value not in (None, "") and not (isinstance(value, str) and value in tenants):
            raise RefusedRecord(f"{name} names another tenant than its job's")
