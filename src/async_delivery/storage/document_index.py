"""Where the records of a document lie, and which job each belongs to; filled while the document is read once.

Of a record it keeps the place only, so it is small beside the document. Whose it is turns out at the end, as records
may come before the job they name.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from async_delivery.domain.account import Kind
from async_delivery.storage.document_scan import Member


class Place(NamedTuple):
    """Where a value lies in the file: [start, end)."""

    start: int
    end: int


class Stray(NamedTuple):
    """A record that belongs to no job of the document, or comes second under its id."""

    kind: Kind
    record_id: str
    place: Place
    why: str


class Listing:
    """The members of a section as they lie in the file; some 30 bytes for each, beside its key."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._places = array("Q")

    def add(self, member: Member) -> None:
        """The one behind those that are in it."""
        self._keys.append(member.key)
        self._places.extend(member[1:])

    def __iter__(self) -> Iterator[Member]:
        places = iter(self._places)
        return map(Member, self._keys, places, places, places)


_AGAIN = "its id comes again later in the document, and the last one counts"


class Index:
    """Where the records lie, by the job they belong to."""

    def __init__(self) -> None:
        self.jobs: dict[str, Place] = {}
        self.events: dict[str, Place] = {}
        self.results: dict[str, list[tuple[str, Place]]] = {}
        self.notifications: dict[str, list[tuple[str, Place]]] = {}
        self.inputs: dict[str, Place] = {}
        self.chunks: dict[str, list[tuple[int, Place]]] = {}
        self.strays: list[Stray] = []
        # Ids of results, by the jobs that name one and by the results themselves.
        self.named: set[str] = set()
        self.named_twice: set[str] = set()
        self.result_ids: set[str] = set()
        # Lists of events that come again later under the same job.
        self.twice: list[tuple[str, Place]] = []
        # Records by their ids, with the job each names, until all jobs are known.
        self._named: dict[Kind, dict[str, tuple[str, Place]]] = {Kind.RESULTS: {}, Kind.NOTIFICATIONS: {}}
        self._chunks: dict[str, Place] = {}

    def enter(self, section: str) -> Callable[[Member, Any], None]:
        """What takes the members of a section."""
        match section:
            case "jobs":
                return self._job
            case "inputs":
                return lambda member, _: self._once(Kind.INPUTS, self.inputs, member)
            case "events":
                return self._events
            case "results":
                return lambda member, value: self._record(Kind.RESULTS, member, value)
            case "notifications":
                return lambda member, value: self._record(Kind.NOTIFICATIONS, member, value)
        return lambda member, _: self._once(Kind.INPUTS, self._chunks, member)

    def _job(self, member: Member, value: Any) -> None:
        self._once(Kind.JOBS, self.jobs, member)
        name = value.get("result_id") if isinstance(value, dict) else None
        if isinstance(name, str):
            (self.named_twice if name in self.named else self.named).add(name)

    def _once(self, kind: Kind, places: dict[str, Place], member: Member) -> None:
        if member.key in places:
            self.strays.append(Stray(kind, member.key, places[member.key], _AGAIN))
        places[member.key] = Place(member.start, member.end)

    def _events(self, member: Member, value: Any) -> None:
        if member.key in self.events:
            self.twice.append((member.key, self.events[member.key]))
        self.events[member.key] = Place(member.start, member.end)

    def _record(self, kind: Kind, member: Member, value: Any) -> None:
        named = self._named[kind]
        if member.key in named:
            self.strays.append(Stray(kind, member.key, named[member.key][1], _AGAIN))
        job_id = value.get("job_id") if isinstance(value, dict) else None
        named[member.key] = (job_id if isinstance(job_id, str) else "", Place(member.start, member.end))

    def settle(self) -> None:
        """Give every record to its job; those without one are strays."""
        self.result_ids.update(self._named[Kind.RESULTS])
        self.named.clear()
        for kind, of_jobs in ((Kind.RESULTS, self.results), (Kind.NOTIFICATIONS, self.notifications)):
            for record_id, (job_id, place) in self._named.pop(kind).items():
                if job_id in self.jobs and job_id:
                    of_jobs.setdefault(job_id, []).append((record_id, place))
                else:
                    why = "its job is not in the document" if job_id else "names no job"
                    self.strays.append(Stray(kind, record_id, place, why))
        for key, place in self._chunks.items():
            name, _, number = key.rpartition("/")
            if name in self.inputs and number.isascii() and number.isdigit():
                self.chunks.setdefault(name, []).append((int(number), place))
            else:
                self.strays.append(
                    Stray(Kind.INPUTS, key, place, "a part of a file that is not in the document")
                )
        self._chunks.clear()
