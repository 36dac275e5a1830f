"""Whether a store grows slower as it grows older: what a claim, a submit, a status, a list and a batch of cleanup
take at 1,000, 100,000 and 1,000,000 stored jobs, on SQLite and on PostgreSQL."""

from __future__ import annotations

import gc
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from async_delivery.domain.job import JobId
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.tenant import OrgId
from async_delivery.storage.contract import JobFilter, Reader, Section, Store
from async_delivery.storage.opening import Mode, open_store
from bench import old, stock, targets
from bench.figures import TIMES, Figure, Sense, Target
from bench.lab import Lab, say
from bench.load import LoadError
from bench.pgserver import connected, postgres, why_not
from bench.simulate_costs import BODY, claim, complete, submit

_WAITING = 200
# Tenants of the smallest store have hardly more.
_PAGE = 10
# A batch takes so many results, or the events of so many jobs; the smallest store has enough for all rounds.
_BATCH = 20
_BATCHES = 30
_EVENTS_OF_A_JOB, _LONGEST_LOG = 3, 4
# All that the copies left is older; what the rounds themselves complete is not.
_POLICY = RetentionPolicy(results_ttl_seconds=3_600, events_ttl_seconds=3_600)
_OPERATIONS = ("claim", "submit", "status", "newest 10 jobs", "cleanup, 20 results", "cleanup, 60 events")


@dataclass(slots=True)
class _Subject:
    """One store and what was measured on it: operation -> seconds of each sample of this round."""

    jobs: int
    store: Store
    known: Sequence[tuple[OrgId, JobId]]
    numbers: Iterator[int] = field(default_factory=count)
    took: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rounds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def timed(self, name: str, do: Callable[[], object]) -> None:
        begin = time.perf_counter()
        do()
        self.took[name].append(time.perf_counter() - begin)

    def one_job(self) -> None:
        """Submit, claim and complete one, so that as many wait as before, and look at some."""
        number = next(self.numbers)
        self.timed("submit", lambda: submit(self.store, number))
        begin = time.perf_counter()
        (job,) = claim(self.store)
        self.took["claim"].append(time.perf_counter() - begin)
        complete(self.store, job)
        org_id, job_id = self.known[number % len(self.known)]
        self.timed("status", lambda: self._status(org_id, job_id))
        self.timed("newest 10 jobs", lambda: self._newest(org_id))

    def _status(self, org_id: OrgId, job_id: JobId) -> None:
        def look(reader: Reader) -> bool:
            reader.list_events(org_id, job_id, 0, _PAGE)
            return reader.find_job(org_id, job_id) is not None

        if not self.store.read(look):
            raise LoadError(f"job {job_id} is not there")

    def _newest(self, org_id: OrgId) -> None:
        self.store.read(lambda reader: reader.list_jobs(org_id, JobFilter(), _PAGE, None))

    def clean(self) -> None:
        """One batch of each kind."""
        for section, limit in ((Section.RESULTS, _BATCH), (Section.EVENTS, _BATCH * _EVENTS_OF_A_JOB)):
            now, begin = self.store.clock(), time.perf_counter()
            deleted = self.store.write(
                lambda tx, section=section, limit=limit, now=now: tx.delete_old(section, _POLICY, now, limit)  # type: ignore[misc]
            )
            self.took[f"cleanup, {limit} {section}"].append(time.perf_counter() - begin)
            # Whole logs, as many as fit.
            if not limit - _LONGEST_LOG < deleted.count <= limit:
                raise LoadError(f"a batch of {limit} {section} took {deleted.count}")

    def empty(self) -> None:
        """Complete what waits, so that a server on this store finds nothing to do."""
        while jobs := claim(self.store, _PAGE):
            for job in jobs:
                complete(self.store, job)

    def end_round(self) -> None:
        for name, samples in self.took.items():
            self.rounds[name].append(statistics.median(samples) * 1e3)
        self.took.clear()


def run(lab: Lab) -> list[Figure]:
    """The costs at each size, beside those at the smallest."""
    with ExitStack() as stack:
        files: list[Path] = []
        figures = _dialect(lab, "SQLite", stack, lambda: None, files)
        figures += old.run(lab, files[0], files[-1])
        for file in files:
            shutil.rmtree(file.parent)
        if (reason := why_not()) is not None:
            lab.skip("growth on PostgreSQL", reason)
            return figures
        server = stack.enter_context(postgres())
        return figures + _dialect(
            lab, f"PostgreSQL {server.version}", stack, lambda: stack.enter_context(server.database()), []
        )


def _dialect(
    lab: Lab, name: str, stack: ExitStack, database: Callable[[], str | None], files: list[Path]
) -> list[Figure]:
    """``files`` gets the store files, in the order of their sizes."""
    with ExitStack() as opened:
        subjects = []
        for size in lab.stored:
            began = time.perf_counter()
            url = database()
            file = stock.build(lab.folder("growth"), url, size, BODY)
            files.append(file)
            subjects.append(opened.enter_context(_subject(file, size, url)))
            say(f"growth: {name}: {size:,} jobs made in {time.perf_counter() - began:.0f} s")
        batches = max(1, min(6, _BATCHES // lab.rounds))
        for number in range(lab.rounds):
            say(f"growth: {name}: round {number + 1} of {lab.rounds}")
            _round(subjects, lab.samples, batches)
        for subject in subjects:
            subject.empty()
    return _figures(name, subjects, lab, batches)


@contextmanager
def _subject(file: Path, size: int, url: str | None) -> Generator[_Subject]:
    store = open_store(file, Mode.SERVE)
    try:
        if (found := stock.stored(store)) != size:
            raise LoadError(f"{found} jobs were made, not {size}")
        for number in range(_WAITING):
            submit(store, number)
        if url is not None:
            with connected(url) as connection:
                connection.execute(b"ANALYZE")
        yield _Subject(size, store, _known(store))
    finally:
        store.close()


def _known(store: Store) -> list[tuple[OrgId, JobId]]:
    """Ended jobs of all tenants from all of the past: as many as the smallest store has."""
    found = []
    for number in range(stock.TENANTS):
        org_id = OrgId(f"tenant-{number:03d}")
        cursor = None
        for _ in range(3):
            page = store.read(
                lambda reader, org_id=org_id, cursor=cursor: reader.list_jobs(org_id, JobFilter(), 4, cursor)  # type: ignore[misc]
            )
            found += [(org_id, job.job_id) for job in page if job.status.terminal]
            cursor = page[-1].job_id if page else None
    return found


def _round(subjects: Sequence[_Subject], samples: int, batches: int) -> None:
    """Every sample is taken on each store before the next one, in another order each time, so that a slow moment of
    the machine hits all alike."""
    gc.collect()
    for number in range(samples):
        for subject in _turned(subjects, number):
            subject.one_job()
    for number in range(batches):
        for subject in _turned(subjects, number):
            subject.clean()
    for subject in subjects:
        subject.end_round()


def _turned(subjects: Sequence[_Subject], number: int) -> list[_Subject]:
    at = number % len(subjects)
    turned = [*subjects[at:], *subjects[:at]]
    return turned if number % 2 == 0 else turned[::-1]


def _figures(dialect: str, subjects: Sequence[_Subject], lab: Lab, batches: int) -> list[Figure]:
    smallest = subjects[0]
    settings = (
        f"the median of {lab.samples} ({batches} for cleanup) in this process, without HTTP, each taken in turn on all "
        f"stores; {_WAITING} jobs wait in each, of {stock.TENANTS} tenants, the others have ended in the last "
        f"{stock.SPAN_SECONDS // 86_400} days; submit and claim with their durable commit. The past was copied from "
        f"{stock.SAMPLED} jobs that went their real way, then vacuumed and analysed as autovacuum does (PostgreSQL). "
        f"Limit: the same at {smallest.jobs:,} jobs"
    )
    return [
        Figure(
            name,
            "ms",
            Sense.COST,
            tuple(subject.rounds[operation]),
            settings if subject is subjects[1] and operation == _OPERATIONS[0] else f"As {_OPERATIONS[0]}",
            tuple(smallest.rounds[operation]),
            f"at {smallest.jobs:,}",
            targets.of(name) or Target(f"≤ 1.2 {TIMES} at {smallest.jobs:,}", bound=1.2),
        )
        for operation in _OPERATIONS
        for subject in subjects[1:]
        for name in [f"{operation} at {subject.jobs:,} jobs, {dialect}"]
    ]
