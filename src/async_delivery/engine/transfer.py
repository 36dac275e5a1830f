"""Moving jobs between stores: out of one in a single snapshot, and into one in small committed batches.

What jobs look like outside a store is known by whoever is handed in: a Source gives them, a Sink takes them. Every
record is accounted for, and those that are named are told to ``Tell`` one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import perf_counter
from typing import Protocol

from async_delivery.domain.account import Account, Entry, Kind, Note, Tallies, Verdict, tallied
from async_delivery.domain.errors import AsyncDeliveryError, ConflictError, UnavailableError
from async_delivery.domain.job import JobId
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.transfer import JobBundle, Standing, standing
from async_delivery.storage.contract import InputFile, Reader, Store, Transaction

Tell = Callable[[Entry], None]
_FIRST_BATCH = 20
_BATCH_BYTES = 8 << 20
_PAGE = 200


@dataclass(frozen=True, slots=True)
class Batches:
    """How long a batch may take to be written, and how many jobs it may have."""

    seconds: float
    jobs: int


# A batch holds the one writer of an embedded store, beside a server that is answering.
BESIDE_A_SERVER = Batches(0.1, 500)
# Where nobody waits: each commit writes every page of an index by random ids that it touches, so fewer write less.
ALONE = Batches(1.0, 4_000)


class Arrival(Protocol):
    """A job that came from elsewhere, and what became of it on the way; ``bundle`` is None where it is refused."""

    @property
    def job_id(self) -> str: ...
    @property
    def bundle(self) -> JobBundle | None: ...
    @property
    def entries(self) -> tuple[Entry, ...]: ...
    @property
    def tallies(self) -> Tallies: ...
    @property
    def left(self) -> dict[Kind, Counter[str]]: ...


class Source(Protocol):
    """Where jobs come from."""

    def arrivals(self) -> Iterator[Arrival]:
        """Every job, in the order of ids."""

    def strays(self) -> tuple[Iterable[Entry], Tallies]:
        """What belongs to no job, all of it refused."""

    def refuse(self, job_id: str, why: str) -> tuple[Iterable[Entry], Tallies]:
        """The job and all that belongs to it as refused, with its originals."""

    def inputs(self) -> Collection[str]:
        """The ids of all uploaded files."""

    def input_file(self, input_id: str) -> InputFile | str:
        """What is known of an uploaded file, or why it cannot be taken over."""

    def input_chunks(self, input_id: str) -> Iterator[bytes]:
        """Its bytes, in order."""

    def refused_input(self, input_id: str, why: str) -> Entry:
        """The entry of an uploaded file that is not taken over."""


class Sink(Protocol):
    """Where jobs go."""

    def begin(self) -> None:
        """Start, or start over."""

    def add_job(self, bundle: JobBundle) -> None:
        """Take a job."""

    def add_input(self, file: InputFile, chunks: Iterable[bytes]) -> None:
        """Take an uploaded file."""


# ---------------------------------------------------------------- out
def export_jobs(store: Store, sink: Sink, tell: Tell) -> Account:
    """Give every job of ``store`` to ``sink``, as they are in one snapshot. Raises UnavailableError, OSError."""

    def read(reader: Reader) -> tuple[Account, list[Entry]]:
        # The store may have to begin again, so everything starts here.
        account = Account()
        named: list[Entry] = []
        inputs: dict[str, OrgId] = {}
        sink.begin()
        for bundle in _all_jobs(reader):
            sink.add_job(bundle)
            entries = tuple(_undated(bundle))
            named += entries
            account.add(tallied(_sizes(bundle), entries))
            if bundle.request.input_id is not None:
                inputs[bundle.request.input_id] = bundle.job.org_id
        for input_id, org_id in sorted(inputs.items()):
            if (file := reader.find_input(org_id, input_id)) is not None:
                sink.add_input(file, reader.read_input(org_id, input_id))
                account.add(tallied({Kind.INPUTS: 1}, ()))
        return account, named

    account, named = store.read(read)
    for entry in named:
        _tell(account, tell, entry)
    return account


def _all_jobs(reader: Reader) -> Iterator[JobBundle]:
    after: JobId | None = None
    while page := reader.export_jobs(after, _PAGE, _BATCH_BYTES):
        yield from page
        after = page[-1].job.job_id


def _sizes(bundle: JobBundle) -> dict[Kind, int]:
    return {
        Kind.JOBS: 1,
        Kind.RESULTS: len(bundle.results),
        Kind.EVENTS: len(bundle.events),
        Kind.NOTIFICATIONS: len(bundle.notifications),
    }


def _undated(bundle: JobBundle) -> Iterator[Entry]:
    """The records whose row lacks an instant that it should have."""
    job = bundle.job
    rows: list[tuple[Kind, str, list[datetime | None]]] = [
        (
            Kind.JOBS,
            job.job_id,
            [
                job.submitted_at,
                job.queued_at,
                job.updated_at,
                job.finished_at or (None if job.status.terminal else job.updated_at),
            ],
        )
    ]
    rows += [(Kind.RESULTS, it.result.result_id, [it.result.created_at]) for it in bundle.results]
    rows += [(Kind.EVENTS, f"{job.job_id}#{it.event_seq}", [it.occurred_at]) for it in bundle.events]
    rows += [(Kind.NOTIFICATIONS, it.notification_id, [it.created_at]) for it in bundle.notifications]
    note = (Note("an instant is missing in the store: null"),)
    for kind, record_id, instants in rows:
        if any(at is None or at.timestamp() == 0 for at in instants):
            yield Entry(kind, record_id, Verdict.ODD, note, job.job_id)


# ---------------------------------------------------------------- in
def import_jobs(
    store: Store,
    source: Source,
    tell: Tell,
    now: Callable[[], datetime],
    *,
    ahead: bool = True,
    batches: Batches = BESIDE_A_SERVER,
) -> Account:
    """Enter every job of ``source`` that ``store`` does not have; what is there already stays as it is.

    Committed in batches: after a fault the batches before it stand, and the same import goes on from there.
    Raises UnavailableError.

    ahead   read a batch while the one before is written: right where another process writes. One that writes in this
            process takes turns with the reading, row by row, and both pay for the change
    """
    return _Import(store, source, tell, now, ahead, batches).run()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Jobs that are being written, as they arrived and as they are given to the store."""

    arrivals: Sequence[Arrival]
    given: Sequence[JobBundle]
    written: Future[tuple[dict[str, Standing], float]]


@dataclass(slots=True)
class _Import:
    store: Store
    source: Source
    tell: Tell
    now: Callable[[], datetime]
    ahead: bool
    batches: Batches
    account: Account = field(default_factory=Account)
    # Uploaded files: entered or there, by tenant and id; and those that must be entered with the next batch.
    _settled: set[tuple[OrgId, str]] = field(default_factory=set)
    _whole: dict[tuple[OrgId, str], InputFile] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _limit: int = _FIRST_BATCH
    _pending: _Batch | None = None

    def run(self) -> Account:
        batch: list[Arrival] = []
        size = 0
        for arrival in self.source.arrivals():
            if arrival.bundle is None:
                self._count(arrival.entries, arrival.tallies, arrival)
                continue
            batch.append(arrival)
            size += sum(len(each.data) for each in arrival.bundle.results if each.data is not None)
            if len(batch) >= self._limit or size >= _BATCH_BYTES:
                self._put(batch)
                batch, size = [], 0
        self._put(batch)
        self._await()
        self._count(*self.source.strays())
        for input_id in self.source.inputs():
            if input_id not in self._used:
                entry = self.source.refused_input(input_id, "no job that was taken over names it")
                self._count([entry], tallied({Kind.INPUTS: 1}, (entry,)))
        return self.account

    # ------------------------------------------------------------ a batch
    def _put(self, arrivals: Sequence[Arrival]) -> None:
        """Have a batch written; the one before it is settled first."""
        given = [bundle for bundle in (self._with_input(each) for each in arrivals) if bundle is not None]
        if not given:
            return
        files = {key: self._whole[key] for key in map(_input_key, given) if key in self._whole}

        def write(tx: Transaction) -> tuple[dict[str, Standing], float]:
            began = perf_counter()
            there = {bundle.job.job_id: bundle for bundle in tx.find_bundles([it.job.job_id for it in given])}
            found: dict[str, Standing] = {
                bundle.job.job_id: standing(there[bundle.job.job_id], bundle)
                for bundle in given
                if bundle.job.job_id in there
            }
            fresh = [bundle for bundle in given if bundle.job.job_id not in there]
            wanted = {_input_key(bundle) for bundle in fresh}
            for (org_id, input_id), file in files.items():
                if (org_id, input_id) in wanted and tx.find_input(org_id, input_id) is None:
                    tx.add_input(file)
            tx.put_jobs(fresh)
            return found, perf_counter() - began

        written = self.store.write_soon(write)
        self._await()
        self._pending = _Batch(arrivals, given, written)
        if not self.ahead:
            self._await()

    def _await(self) -> None:
        """Settle the batch that is being written."""
        batch, self._pending = self._pending, None
        if batch is None:
            return
        try:
            found, seconds = batch.written.result()
        except UnavailableError:
            raise
        except AsyncDeliveryError as exc:
            self._one_by_one(batch, exc)
            return
        self._limit = _next_limit(self.batches, self._limit, seconds)
        by_id = {bundle.job.job_id: bundle for bundle in batch.given}
        for arrival in batch.arrivals:
            if (bundle := by_id.get(JobId(arrival.job_id))) is not None:
                self._settle(arrival, bundle, found.get(arrival.job_id))

    def _one_by_one(self, batch: _Batch, exc: AsyncDeliveryError) -> None:
        """Nothing of a batch was entered: find the job that is to blame."""
        if len(batch.arrivals) == 1:
            self._refuse(batch.arrivals[0], _why(exc))
            return
        for arrival in batch.arrivals:
            self._put([arrival])
        self._await()

    def _settle(self, arrival: Arrival, bundle: JobBundle, its: Standing | None) -> None:
        match its:
            case None:
                entries, tallies = arrival.entries, arrival.tallies
                if bundle is not arrival.bundle:
                    entries, tallies = _also_odd(arrival)
                self._count(entries, tallies, arrival)
            case Standing.OTHER:
                self._refuse(arrival, "the store has another job, or another state of it, under this id")
            case Standing.SAME | Standing.MOVED_ON:
                refused = tuple(each for each in arrival.entries if each.verdict is Verdict.REFUSED)
                tallies = tallied({kind: tally.read for kind, tally in arrival.tallies.items()}, refused)
                for tally in tallies.values():
                    tally.there, tally.taken = tally.taken, 0
                self._count(refused, tallies, arrival)

    def _refuse(self, arrival: Arrival, why: str) -> None:
        self.account.conflicts += 1
        self._count(*self.source.refuse(arrival.job_id, why))

    def _count(self, entries: Iterable[Entry], tallies: Tallies, arrival: Arrival | None = None) -> None:
        self.account.add(tallies)
        for entry in entries:
            _tell(self.account, self.tell, entry)
        for kind, names in (arrival.left if arrival else {}).items():
            self.account.leave(kind, names)

    # ------------------------------------------------------------ uploaded files
    def _with_input(self, arrival: Arrival) -> JobBundle | None:
        """The job, with its uploaded file ready to be entered with it; without, if there is none to be had."""
        bundle = arrival.bundle
        if bundle is None or bundle.request.input_id is None:
            return bundle
        org_id, input_id = _input_key(bundle)
        if (org_id, input_id) in self._settled or self._ready(org_id, input_id):
            return bundle
        return replace(bundle, request=replace(bundle.request, input_id=None))

    def _ready(self, org_id: OrgId, input_id: str) -> bool:
        file = self.source.input_file(input_id) if input_id in self.source.inputs() else "not there"
        stored = self.store.read(lambda reader: reader.find_input(org_id, input_id))
        if stored is not None:
            same = isinstance(file, str) or (stored.size_bytes, stored.sha256) == (
                file.size_bytes,
                file.sha256,
            )
            if same:
                self._note_input(org_id, input_id, there=not isinstance(file, str))
            return same
        if isinstance(file, str) or file.org_id != org_id:
            return False
        self._copy(file)
        self._note_input(org_id, input_id, there=False)
        self._whole[org_id, input_id] = file
        return True

    def _note_input(self, org_id: OrgId, input_id: str, *, there: bool) -> None:
        self._settled.add((org_id, input_id))
        if input_id in self._used or input_id not in self.source.inputs():
            return
        self._used.add(input_id)
        tallies = tallied({Kind.INPUTS: 1}, ())
        if there:
            tallies[Kind.INPUTS].there, tallies[Kind.INPUTS].taken = 1, 0
        self.account.add(tallies)

    def _copy(self, file: InputFile) -> None:
        """Keep the bytes of an uploaded file; it is entered with its first job, or nobody would name it."""

        def write(seq: int, data: bytes) -> None:
            self.store.write(lambda tx: tx.add_input_chunk(file.org_id, file.input_id, seq, data, self.now()))

        # A try before this one may have been cut short.
        self.store.write(lambda tx: tx.drop_input(file.org_id, file.input_id))
        for seq, data in enumerate(self.source.input_chunks(file.input_id)):
            write(seq, data)


def _input_key(bundle: JobBundle) -> tuple[OrgId, str]:
    return bundle.job.org_id, bundle.request.input_id or ""


def _also_odd(arrival: Arrival) -> tuple[tuple[Entry, ...], Tallies]:
    """The entries of a job that had to be entered without its uploaded file."""
    note = Note("its uploaded file is not to be had: it would not find it", "input_id")
    named = next((it for it in arrival.entries if it.kind is Kind.JOBS and it.verdict is Verdict.ODD), None)
    if named is not None:
        entries = tuple(replace(it, notes=(*it.notes, note)) if it is named else it for it in arrival.entries)
    else:
        entry = Entry(Kind.JOBS, arrival.job_id, Verdict.ODD, (note,), arrival.job_id)
        entries = (entry, *arrival.entries)
    return entries, tallied({kind: tally.read for kind, tally in arrival.tallies.items()}, entries)


def _why(exc: AsyncDeliveryError) -> str:
    if isinstance(exc, ConflictError):
        return "an id, an Idempotency-Key or a dedupe key of it belongs to something else in the store"
    return exc.message


def _next_limit(batches: Batches, limit: int, seconds: float) -> int:
    factor = batches.seconds / max(seconds, 1e-6)
    return max(1, min(batches.jobs, int(limit * min(2.0, max(0.5, factor)))))


def _tell(account: Account, tell: Tell, entry: Entry) -> None:
    account.name(entry)
    tell(entry)
