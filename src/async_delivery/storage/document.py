"""The older form of a store, one JSON document with all data in it: opened, checked whole, and read by the record.

The file is not loaded: an index knows where each record lies and whose it is, and a record is read and parsed when it
is asked for, so a document far larger than memory can be read. What the fields of a record mean is in
``document_records``; writing documents and cleaning one up have files of their own.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import orjson

from async_delivery.domain.account import Kind
from async_delivery.domain.canonical import MAX_DEPTH
from async_delivery.domain.errors import StoreFileError
from async_delivery.storage.document_index import Index, Listing, Place, Stray
from async_delivery.storage.document_scan import (
    HELD_BYTES,
    Buffer,
    Ending,
    Member,
    ScanError,
    elements,
    hand_back,
    inside_object,
    more_members,
    next_key,
    nothing_follows,
    open_object,
    value_end,
)

NEWEST_VERSION = 5
SECTIONS = ("jobs", "results", "events", "notifications")
INPUTS, CHUNKS = "inputs", "input_chunks"
_CUT_SHORT = (
    "another program has cut it short meanwhile; stop that program, and restore the document from a backup"
)
_SECTIONS = frozenset({*SECTIONS, INPUTS, CHUNKS})


class Parsed(NamedTuple):
    """A value of the document. ``plain``: it has a canonical form as it is, and need not be checked for one."""

    value: Any
    data: bytes
    plain: bool


class Identity(NamedTuple):
    """What a file is recognised by, and whether it was written since."""

    device: int
    inode: int
    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Sections:
    """Where the parts of the document lie; ``others`` are the names at the top that mean nothing here."""

    places: dict[str, Place]
    others: tuple[str, ...]


def identity(path: Path) -> Identity:
    """Of the file at ``path`` now. Raises OSError."""
    return _identity(path.stat())


def _identity(found: os.stat_result) -> Identity:
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Document:
    """An open document; a context manager. Every record of it has been parsed once by the time it is open."""

    def __init__(self, path: Path) -> None:
        """Open and check it. Raises StoreFileError, saying what is wrong and what to do."""
        self.path = path
        self._file, self.identity = _open(path)
        self.size = self.identity.size
        self._index = Index()
        self._listings: dict[str, Listing] = {}
        self._seen = 0
        try:
            # Mapped for the one walk along it; records in any order are cheaper to read than to map.
            with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                self.sections = self._read_top(buffer)
            self.schema_version = self._version()
            self._settle()
        except ScanError as exc:
            self.close()
            raise self._damaged(exc.position, exc.ended) from exc
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        self._file.close()

    # ------------------------------------------------------------ the records
    def raw(self, place: Place) -> bytes:
        """The bytes of a value. Raises StoreFileError if they cannot be had any more."""
        start, end = place
        try:
            data = os.pread(self._file.fileno(), end - start, start)
            while len(data) < end - start:  # the kernel gives at most 2 GiB at once
                more = os.pread(self._file.fileno(), end - start - len(data), start + len(data))
                if not more:
                    raise StoreFileError(f"{self.path}: {_CUT_SHORT}")
                data += more
        except OSError as exc:
            raise StoreFileError(f"{self.path}: cannot be read: {exc.strerror}") from exc
        return data

    def value(self, place: Place) -> Any:
        """The value there. NaN and lone surrogates come as Python has them.

        Raises RecursionError for one that is nested too deeply for any parser."""
        return self.parsed(place).value

    def parsed(self, place: Place) -> Parsed:
        """The value there, with its bytes. Raises as ``value`` does."""
        data = self.raw(place)
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return Parsed(load_exactly(data), data, plain=False)
        # Each level needs a bracket, so few of them make a shallow value.
        return Parsed(value, data, plain=data.count(b"{") + data.count(b"[") <= MAX_DEPTH)

    def job_ids(self) -> list[str]:
        """Of every job once, in the order of ids."""
        return sorted(self._index.jobs)

    def job(self, job_id: str) -> Place:
        """Where the job lies."""
        return self._index.jobs[job_id]

    def events_of(self, job_id: str) -> Place | None:
        """Where the list of the job's events lies, if there is one."""
        return self._index.events.get(job_id)

    def results_of(self, job_id: str) -> list[tuple[str, Place]]:
        """Ids and places of the job's results."""
        return self._index.results.get(job_id, [])

    def is_free(self, result_id: str | None) -> bool:
        """True if no result has this id, and at most one job names it."""
        return result_id not in self._index.result_ids and result_id not in self._index.named_twice

    def notifications_of(self, job_id: str) -> list[tuple[str, Place]]:
        """Ids and places of the job's notifications."""
        return self._index.notifications.get(job_id, [])

    def inputs(self) -> dict[str, Place]:
        """Uploaded files by their ids."""
        return self._index.inputs

    def chunks_of(self, input_id: str) -> list[Place]:
        """The parts of an uploaded file, in order."""
        return [place for _, place in sorted(self._index.chunks.get(input_id, []))]

    def strays(self) -> list[Stray]:
        """Records that no job of the document owns, and earlier ones under an id that comes again."""
        return self._index.strays

    def section(self, name: str) -> Iterator[Member]:
        """The members of a section as they lie in the file."""
        return iter(self._listings.get(name, ()))

    def unchanged(self) -> bool:
        """True while the path still names the file that was opened, as it was then."""
        try:
            return identity(self.path) == self.identity
        except OSError:
            return False

    # ------------------------------------------------------------ opening
    def _read_top(self, buffer: Buffer) -> Sections:
        """Go once through the whole file: every record is found, parsed and indexed."""
        position, more = inside_object(buffer, open_object(buffer, 0))
        places: dict[str, Place] = {}
        others: list[str] = []
        while more:
            name, _, start = next_key(buffer, position)
            if name in places or name in others:
                raise StoreFileError(
                    f"{self.path}: damaged: {name[:60]!r} is there twice; restore it from a backup"
                )
            if name in _SECTIONS:
                end = self._read_section(buffer, name, start)
                places[name] = Place(start, end)
            else:
                end = value_end(buffer, start)
                self._load(buffer, start, end)
                if name == "schema_version":
                    places[name] = Place(start, end)
                else:
                    others.append(name)
            position, more = more_members(buffer, end)
        if not nothing_follows(buffer, position):
            raise StoreFileError(
                f"{self.path}: damaged: something follows the document; restore it from a backup"
            )
        if "jobs" not in places:
            raise StoreFileError(f"{self.path}: not a store document (it has no 'jobs'); name the right file")
        return Sections(places, tuple(others))

    def _read_section(self, buffer: Buffer, name: str, start: int) -> int:
        if start >= len(buffer):
            raise ScanError(start, ended=True)
        if buffer[start] != ord("{"):
            raise StoreFileError(
                f"{self.path}: damaged or not a store: {name!r} is no object; restore it from a backup, or name the"
                " right file"
            )
        enter, listing, ending = self._index.enter(name), Listing(), Ending()
        self._listings[name] = listing
        position, more = inside_object(buffer, start)
        while more:
            key, at, begin = next_key(buffer, position)
            end, value = self._record(buffer, begin, ending)
            member = Member(key, at, begin, end)
            listing.add(member)
            enter(member, value)
            position, more = more_members(buffer, end)
        return position

    def _record(self, buffer: Buffer, start: int, ending: Ending) -> tuple[int, Any]:
        """The place behind a record, and its value."""
        if end := ending.guess(buffer, start):
            try:
                return end, orjson.loads(self._look(buffer, start, end))
            except orjson.JSONDecodeError:
                ending.wrong()
        end = value_end(buffer, start)
        ending.learn(buffer, start, end)
        return end, self._load(buffer, start, end)

    def _version(self) -> int:
        place = self.sections.places.get("schema_version")
        found = None if place is None else self.value(place)
        if type(found) is not int or found < 1:
            raise StoreFileError(
                f"{self.path}: not a store document (schema_version is {found!r:.60}, not 1 to {NEWEST_VERSION});"
                " name the right file, or restore it from a backup"
            )
        if found > NEWEST_VERSION:
            raise StoreFileError(
                f"{self.path}: written by a newer version of the program (schema_version {found}, this one knows"
                f" {NEWEST_VERSION}); upgrade the program"
            )
        return found

    def _settle(self) -> None:
        """Sort out what belongs to no job, now that all jobs are known."""
        index = self._index
        for job_id, place in index.twice:
            self._stray_events(job_id, place, "its job's list comes again later in the document")
        for job_id in [job_id for job_id in index.events if job_id not in index.jobs]:
            self._stray_events(job_id, index.events.pop(job_id), "its job is not in the document")
        index.settle()

    def _stray_events(self, job_id: str, place: Place, why: str) -> None:
        for record_id, each in self.event_places(job_id, place):
            self._index.strays.append(Stray(Kind.EVENTS, record_id, each, why))

    def event_places(self, job_id: str, place: Place) -> list[tuple[str, Place]]:
        """Ids and places of the events in the list at ``place``; of what is there if it is no list."""
        data = self.raw(place)
        if not data.startswith(b"["):
            return [(job_id, place)]
        at = place.start
        return [
            (f"{job_id}#{number}", Place(at + each.start, at + each.end))
            for number, each in enumerate(elements(data, 0), start=1)
        ]

    def _load(self, buffer: Buffer, start: int, end: int) -> Any:
        try:
            return load(self._look(buffer, start, end))
        except RecursionError:
            return None  # valid or not, nothing can read it: it is refused by itself later
        except ValueError as exc:
            raise self._damaged(start, ended=False) from exc

    def _look(self, buffer: Buffer, start: int, end: int) -> bytes:
        self._seen += end - start
        if self._seen > HELD_BYTES:
            hand_back(buffer)
            self._seen = 0
        return buffer[start:end]

    def _damaged(self, position: int, ended: bool) -> StoreFileError:
        what = "truncated: it ends in the middle" if ended else f"damaged: not JSON at byte {position}"
        return StoreFileError(f"{self.path}: {what}; restore it from a backup. Nothing was changed")


def load(data: bytes) -> Any:
    """The value of some JSON, with the few things more that Python's own writer may have put there: NaN, infinities,
    lone surrogates. A whole number beyond 64 bits may come as a float. Raises ValueError, RecursionError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return load_exactly(data)


def load_exactly(data: bytes) -> Any:
    """The same, slower, and with whole numbers of any length."""
    return json.loads(data.decode("utf-8"))


def _open(path: Path) -> tuple[BinaryIO, Identity]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise StoreFileError(f"{path}: not a regular file; name the document")
        file = path.open("rb")
    except FileNotFoundError as exc:
        raise StoreFileError(f"{path}: there is no such file; name the document") from exc
    except OSError as exc:
        raise StoreFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    found = os.fstat(file.fileno())
    if found.st_size == 0:
        file.close()
        raise StoreFileError(f"{path}: the document is empty; restore it from a backup, or name another file")
    return file, _identity(found)
