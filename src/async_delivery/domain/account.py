"""The account of a move between stores: what became of every record, counted by kind and named where it is odd.

Of every record that was read one thing is true: it was taken over as it is, taken over with a change that is named,
refused, or it was there already. What had to be made because it was missing is counted by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What is counted; the words are the sections of a document."""

    JOBS = "jobs"
    RESULTS = "results"
    EVENTS = "events"
    NOTIFICATIONS = "notifications"
    INPUTS = "inputs"


class Verdict(StrEnum):
    """What became of a record that is named."""

    ODD = "odd"
    REFUSED = "refused"
    MADE = "made"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that was odd about a record.

    field   which, or None for the record as a whole
    was     what stood there, as JSON says it; None where nothing did
    done    what is wrong and what was done, in words
    """

    done: str
    field: str | None = None
    was: Any = None

    def to_json(self) -> dict[str, Any]:
        """As the account file has it."""
        if self.field is None:
            return {"done": self.done}
        return {"field": self.field, "was": self.was, "done": self.done}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that is named in the account.

    record_id   its id; for an event ``<job_id>#<its place in the list, from 1>``
    record      the whole original of one that was refused, byte for byte
    """

    kind: Kind
    record_id: str
    verdict: Verdict
    notes: tuple[Note, ...]
    job_id: str | None = None
    record: bytes | None = None

    def sentence(self) -> str:
        """For people."""
        what = "; ".join(note.done for note in self.notes)
        return f"{self.verdict} {self.kind}/{self.record_id}: {what}"

    def to_json(self) -> dict[str, Any]:
        """As the account file has it, without the record."""
        said: dict[str, Any] = {
            "kind": str(self.kind),
            "id": self.record_id,
            "job_id": self.job_id,
            "verdict": str(self.verdict),
            "notes": [note.to_json() for note in self.notes],
        }
        return said


@dataclass(slots=True)
class Tally:
    """Counts of one kind: read = taken + odd + refused + there; made counts what was not read at all."""

    read: int = 0
    taken: int = 0
    odd: int = 0
    refused: int = 0
    there: int = 0
    made: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of ``other``."""
        self.read += other.read
        self.taken += other.taken
        self.odd += other.odd
        self.refused += other.refused
        self.there += other.there
        self.made += other.made

    def balanced(self) -> bool:
        """True if nothing that was read is unaccounted for."""
        return self.read == self.taken + self.odd + self.refused + self.there

    def to_json(self) -> dict[str, int]:
        """As the account file has it."""
        return {
            "read": self.read,
            "taken": self.taken,
            "odd": self.odd,
            "refused": self.refused,
            "there": self.there,
            "made": self.made,
        }


Tallies = dict[Kind, Tally]
MOST_SHOWN = 20


def no_counts() -> Tallies:
    """Zero of every kind."""
    return {kind: Tally() for kind in Kind}


def tallied(read: Mapping[Kind, int], entries: tuple[Entry, ...]) -> Tallies:
    """The counts of records that were read, of which ``entries`` name the odd, the refused and the made; of the kinds
    there are."""
    tallies = {kind: Tally(number) for kind, number in read.items()}
    for entry in entries:
        tally = tallies.setdefault(entry.kind, Tally())
        match entry.verdict:
            case Verdict.ODD:
                tally.odd += 1
            case Verdict.REFUSED:
                tally.refused += 1
            case Verdict.MADE:
                tally.made += 1
    for tally in tallies.values():
        tally.taken = tally.read - tally.odd - tally.refused
    return tallies


@dataclass(slots=True)
class Account:
    """The sums of a move. Entries are told to whoever writes them down, one by one; only the first stay here.

    left       by kind: fields that have no place in a store, and how many records had a value in them
    shown      the first MOST_SHOWN of the odd and refused
    conflicts  jobs that are refused because the store has something else under an id of theirs
    """

    counts: Tallies = field(default_factory=no_counts)
    left: dict[Kind, Counter[str]] = field(default_factory=dict)
    shown: list[Entry] = field(default_factory=list)
    named: Counter[Verdict] = field(default_factory=Counter)
    conflicts: int = 0

    def name(self, entry: Entry) -> None:
        """Count an entry by its verdict, and keep it if it is one of the first."""
        self.named[entry.verdict] += 1
        if entry.verdict is not Verdict.MADE and len(self.shown) < MOST_SHOWN:
            self.shown.append(entry)

    def add(self, tallies: Tallies) -> None:
        """Add counts."""
        for kind, tally in tallies.items():
            self.counts[kind].add(tally)

    def leave(self, kind: Kind, names: Counter[str]) -> None:
        """Add fields without a place."""
        self.left.setdefault(kind, Counter()).update(names)

    def total(self, name: str) -> int:
        """The sum of one count over all kinds."""
        return sum(int(getattr(tally, name)) for tally in self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """Counts and fields, as every form of the account has them."""
        return {
            "counts": {str(kind): tally.to_json() for kind, tally in self.counts.items()},
            "fields_left": {
                str(kind): dict(sorted(names.items())) for kind, names in self.left.items() if names
            },
        }
