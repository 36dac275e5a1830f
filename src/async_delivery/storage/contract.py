"""What a store promises. The docstrings are the promise; tests/contract holds every store to them.

A store runs functions: ``read`` gives one a Reader over a snapshot, ``write`` gives one a Transaction. On SQLite
all writes of a process run on one writer thread, which commits many of them in one durable transaction (group
commit), in the order they came; on PostgreSQL ``write`` is a transaction of its own on the caller's thread, what
``write_soon`` is given together shares one, and only waiting for one keeps the next behind it. Either way
``write`` returns after the commit, a cancelled future that has not begun is never run, and a function that raises
leaves nothing behind, whatever else was committed with it. Such a function may be run more than once: it must have
no effect but through its Transaction.

Texts are storable (``domain.text``): whoever writes has refused or mended the others.

Every method that reads or writes for a tenant takes ``org_id`` and has it in its WHERE. The few that serve workers
and chores across tenants say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from async_delivery.domain.cleanup import CleanupRun, Pause
from async_delivery.domain.event import Event
from async_delivery.domain.job import Attempt, Fence, Job, JobId, JobRequest, JobStatus, ResultId
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.notification import Channel, Notification
from async_delivery.domain.result import Result
from async_delivery.domain.retention import RetentionPolicy, SectionCount
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.transfer import JobBundle
from async_delivery.storage.cells import MIN_INSTANT

T = TypeVar("T")

IDEMPOTENCY_TTL_SECONDS = 86_400
UNNAMED_INPUT_TTL_SECONDS = 86_400
CLEANUP_RUNS_TTL_SECONDS = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Signal:
    """Told to subscribers after the commit of a Change: where to look, never what is there."""

    org_id: OrgId
    job_id: JobId
    status: JobStatus
    event_seq: int
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which of a tenant's jobs to list; empty means no condition. All conditions hold at once."""

    statuses: tuple[JobStatus, ...] = ()
    analysis: str | None = None
    labels: Mapping[str, str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """Which job a tenant's Idempotency-Key led to."""

    key: str
    fingerprint: str
    job_id: JobId
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a heartbeat brings back for one attempt."""

    job_id: JobId
    fence: Fence
    held: bool
    cancel_requested: bool


class FoundResult(NamedTuple):
    """A snapshot, whether its job has ended, and the correlation id of its job."""

    result: Result
    job_ended: bool
    correlation_id: str


class SeenResult(NamedTuple):
    """A snapshot with its body, which is None if it is gone or longer than was asked for."""

    found: FoundResult
    body: bytes | None


class SeenJob(NamedTuple):
    """A job and the number of the first event that is kept of it, 0 without any."""

    job: Job
    first_seq: int


@dataclass(frozen=True, slots=True)
class InputFile:
    """An uploaded file, as the store keeps it."""

    input_id: str
    org_id: OrgId
    filename: str
    media_type: str | None
    size_bytes: int
    sha256: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RetentionCount:
    """The stock as a cleanup finds it, and each tenant's share: org_id -> {"results": n, "events": n, "jobs": n}."""

    terminal_job_count: int
    active_job_count: int
    results: SectionCount
    events: SectionCount
    jobs: SectionCount
    per_tenant: Mapping[str, Mapping[str, int]]


class Section(StrEnum):
    """What a cleanup deletes from, in this order: a job goes once nothing of the others is kept of it."""

    RESULTS = "results"
    EVENTS = "events"
    JOBS = "jobs"


# How far a cleanup has come through the index of what is old, in microseconds since 1970: among results with the
# TTL of the policy, events and jobs; and among results with a TTL of their own.
Reached: TypeAlias = tuple[int, int]
FROM_THE_START: Reached = (MIN_INSTANT, MIN_INSTANT)


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one batch of a cleanup took away. ``more`` is False when nothing old is left; else the next batch begins
    at ``reached``."""

    count: int
    bytes: int
    per_tenant: Mapping[str, int]
    more: bool
    reached: Reached = FROM_THE_START


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What does not change while a store is served, unless somebody does something to it."""

    store_id: str
    created_at: datetime | None
    schema_revision: str


@dataclass(frozen=True, slots=True)
class Stock:
    """What is in a store at one moment, for metrics and signals. Numbers only, across tenants.

    jobs                     (status, analysis) -> count, only those there are
    oldest_queued_at         since when the job waits that waits longest and may run; None if none does. A job that
                             came back to the queue with a delay waits from the end of the delay
    terminal_without_in_app  ended jobs without their in_app record, of those that ended before ``ended_before``
    store_bytes, wal_bytes   size of the database, and of its write-ahead log (0 where that is not the store's own)
    """

    jobs: Mapping[tuple[JobStatus, str], int]
    oldest_queued_at: datetime | None
    terminal_without_in_app: int
    store_bytes: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What ``store info`` and ``/health`` say of a store. Sizes in bytes."""

    dialect: str
    database: str
    schema_revision: str
    durability: str
    size_bytes: int
    counts: Mapping[str, int]
    warnings: tuple[str, ...] = ()


class Reader(Protocol):
    """Questions to one consistent snapshot."""

    def find_job(self, org_id: OrgId, job_id: JobId) -> Job | None:
        """The tenant's job, or None."""

    def see_job(self, org_id: OrgId, job_id: JobId) -> SeenJob | None:
        """The tenant's job, or None; the same object as the last time if nothing in it has changed, so that what was
        made of it can be used again."""

    def find_request(self, org_id: OrgId, job_id: JobId) -> JobRequest | None:
        """What was asked for with it, or None."""

    def list_jobs(self, org_id: OrgId, where: JobFilter, limit: int, before: JobId | None) -> list[Job]:
        """Newest first (by job_id, which rises with time), those before ``before`` if given."""

    def event_seqs(self, job_ids: Sequence[JobId]) -> Mapping[JobId, int]:
        """How far each of these jobs is, for those who wait for a change; without those that are gone. Across tenants:
        numbers only."""

    def list_events(self, org_id: OrgId, job_id: JobId, after: int, limit: int) -> list[Event]:
        """Events with event_seq > ``after``, ascending."""

    def list_attempts(self, org_id: OrgId, job_id: JobId) -> list[Attempt]:
        """Ascending by number."""

    def find_log(self, org_id: OrgId, job_id: JobId, attempt: int) -> str | None:
        """The captured output of one attempt, or None."""

    def find_result(self, org_id: OrgId, result_id: ResultId) -> FoundResult | None:
        """The tenant's snapshot without its body, with what its job adds to it; or None."""

    def see_result(self, org_id: OrgId, result_id: ResultId, at_most_bytes: int) -> SeenResult | None:
        """``find_result`` and ``find_body`` in one question. ``found`` is the same object as the last time if nothing
        in it has changed, so that what was made of it can be used again."""

    def newest_result(self, org_id: OrgId, job_id: JobId) -> Result | None:
        """The job's final result, else its newest partial; None before the first."""

    def list_results(self, org_id: OrgId, job_id: JobId) -> list[Result]:
        """Ascending by result_seq; those whose body is gone are left out."""

    def find_body(self, org_id: OrgId, result_id: ResultId) -> bytes | None:
        """The bytes as they were sealed, or None if they are gone."""

    def list_notifications(
        self, org_id: OrgId, job_id: JobId, channel: Channel | None, limit: int
    ) -> list[Notification]:
        """Newest first."""

    def find_idempotency(self, org_id: OrgId, key: str) -> IdempotencyRecord | None:
        """The record of a key, however old."""

    def count_queued(self, org_id: OrgId, at_most: int) -> int:
        """Jobs of the tenant that wait, counted no further than ``at_most``."""

    def recent_run_seconds(self, analysis: str, limit: int) -> list[float]:
        """Run times of the analysis's latest completed attempts, newest first. Across tenants: numbers only."""

    def cancel_requests(self, worker_id: str) -> list[JobId]:
        """Of the jobs that a worker runs, those it is asked to stop. For workers: across tenants."""

    def find_input(self, org_id: OrgId, input_id: str) -> InputFile | None:
        """What is known of an uploaded file, or None."""

    def read_input(self, org_id: OrgId, input_id: str) -> Iterator[bytes]:
        """Its bytes in order, in chunks. Raises NotFoundError."""

    def count_retention(
        self, policy: RetentionPolicy, now: datetime, *, going: bool = True
    ) -> RetentionCount:
        """What a cleanup would find and delete in this moment. Across tenants.

        going   False leaves out what would be deleted, and whose it is: all zeros. For a run that deletes it itself
        """

    def stock(self, now: datetime, ended_before: datetime) -> Stock:
        """What there is now. Cheap beside a busy server: counts over small indexes. Across tenants."""

    def backlog(self, policy: RetentionPolicy, now: datetime, at_most: int) -> Mapping[Section, int]:
        """Rows that a cleanup would delete now, counted no further than ``at_most`` each. Across tenants."""

    def cleanup_runs(self, since: datetime | None, limit: int) -> list[CleanupRun]:
        """Live cleanups that ended at ``since`` or later, newest first."""

    def last_cleanup_success_at(self) -> datetime | None:
        """When the last cleanup with exit code 0 ended, however long ago; None before the first."""

    def cleanup_pause(self) -> Pause | None:
        """The pause that is on, or None."""

    def facts(self) -> StoreFacts:
        """What the store says of itself."""

    def violations(self, limit: int) -> list[str]:
        """Breaches of the contract's invariants, one sentence each, at most ``limit``. Across tenants."""

    def export_jobs(self, after: JobId | None, limit: int, max_bytes: int) -> list[JobBundle]:
        """The next jobs by their ids, whole, with at most ``max_bytes`` of bodies together unless one job alone has
        more; none at the end. For moving between stores: across tenants."""

    def find_bundles(self, job_ids: Sequence[JobId]) -> list[JobBundle]:
        """Those of these jobs that are there, by their ids, whole but for the bodies of results. For moving between
        stores: across tenants."""


class Transaction(Reader, Protocol):
    """Reads and writes that are kept or lost together."""

    def lock_job(self, org_id: OrgId, job_id: JobId) -> Job:
        """The tenant's job, locked until the end of the transaction. Raises NotFoundError."""

    def save(self, change: Change) -> None:
        """Write a Change whole, and tell subscribers after the commit. Of the job, what differs from ``change.before``.

        Raises LeaseLostError if the stored job is not the one the change was made from (attempt, lease token and
        event_seq are in the WHERE), ConflictError if a new id or dedupe key is there already,
        NotFoundError if the file that a new job names is not (any more).
        """

    def claimable(
        self, limit: int, analyses: Sequence[str] | None, max_running_per_tenant: int | None, now: datetime
    ) -> list[Job]:
        """The next due queued jobs, locked, in the order of fair dispatch. For workers: across tenants.

        A job whose ``due_at`` lies after ``now`` is not among them; one whose time has come joins its tenant's line.

        Tenants take turns: each waiting job has a place in its tenant's own line, and the lowest places of all
        tenants go first; within a tenant expedite jobs go before default ones, then older ones.
        analyses                 only these; None means all
        max_running_per_tenant   tenants that already run so many are passed over
        """

    def renew_leases(
        self, worker_id: str, fences: Mapping[JobId, Fence], expires_at: datetime
    ) -> list[Renewal]:
        """Prolong the leases of one worker; ``held`` is False for each that it no longer has. For workers."""

    def lost_jobs(
        self, now: datetime, alive: Sequence[str], limit: int, lease_seconds: float = 0.0
    ) -> list[Job]:
        """Running jobs, locked, whose lease is over. For workers.

        On a store that only one process can serve at a time, that is every lease not of a worker in ``alive``:
        no clock is asked. Elsewhere it is every lease that ended before ``now`` by the database's clock;
        and none at all until a lease of ``lease_seconds`` and some more have passed since somebody set that clock.
        """

    def put_log(self, org_id: OrgId, job_id: JobId, attempt: int, text: str) -> None:
        """Keep the captured output of an attempt, replacing what was kept before."""

    def put_idempotency(
        self, org_id: OrgId, record: IdempotencyRecord, ttl_seconds: int = IDEMPOTENCY_TTL_SECONDS
    ) -> None:
        """Bind a key to a job, replacing a record that was ``ttl_seconds`` old by then.

        Raises ConflictError if a live one is there, NotFoundError if the job is not."""

    def add_input(self, file: InputFile) -> None:
        """Enter an uploaded file. Its chunks are written before it, so an input that is entered is whole."""

    def add_input_chunk(self, org_id: OrgId, input_id: str, seq: int, data: bytes, now: datetime) -> None:
        """Keep one chunk (seq from 0)."""

    def drop_input(self, org_id: OrgId, input_id: str) -> None:
        """Forget an uploaded file that no job names."""

    def erase_job(self, org_id: OrgId, job_id: JobId) -> None:
        """Delete a job and all that belongs to it. The caller has locked it and found it terminal and not held."""

    def set_hold(self, org_id: OrgId, job_id: JobId, held: bool) -> None:
        """Put a job under legal hold, or lift it. No event: the log of an ended job stays as it is."""

    def delete_old(
        self,
        section: Section,
        policy: RetentionPolicy,
        now: datetime,
        limit: int,
        since: Reached = FROM_THE_START,
    ) -> Deleted:
        """Delete at most ``limit`` old rows, from ``since``, where the batch before it has left off: behind it are
        only rows that were locked by somebody, which go with the next cleanup. For cleanup: across tenants.

        The terminal and hold conditions are part of the DELETE itself. A deleted result leaves its row without
        the body, as the receipt that answers 410; events are deleted from the front of each job's log. A job goes
        with all that belongs to it, receipts too, and with its uploaded file if no other job names that; never while
        a result or an event of it is kept.
        """

    def record_cleanup(self, run: CleanupRun) -> None:
        """Remember a cleanup, and forget those that ended more than CLEANUP_RUNS_TTL_SECONDS before it."""

    def set_cleanup_pause(self, pause: Pause | None) -> None:
        """Pause all cleanups, replacing a pause that is on; or resume with None."""

    def put_jobs(self, bundles: Sequence[JobBundle]) -> None:
        """Enter jobs from elsewhere, whole and as they are; none of them may hold a lease. Nobody is told. For moving
        between stores: across tenants.

        Raises ConflictError if an id, key or dedupe key of theirs is there already."""

    def probe(self, now: datetime) -> None:
        """Write one small row, to see that writing works. Nothing else reads it."""

    def prune(self, now: datetime, limit: int) -> Mapping[str, int]:
        """Delete what nobody can ask for any more: idempotency keys after 24 h, inputs and chunks that no job
        names after 24 h. Counts by kind. For chores: across tenants."""


class Store(Protocol):
    """One database. Safe to use from any thread; not to be carried over a fork.

    inline_reads   a read is so short that an event loop may do it itself
    exclusive      only one process at a time can serve it, so every lease of another worker is over
    durability     what an acknowledged write has survived, in one sentence for people
    """

    inline_reads: bool
    exclusive: bool

    @property
    def durability(self) -> str:
        """As it is now; a database may be set up anew beside us."""

    def read(self, fn: Callable[[Reader], T]) -> T:
        """Run ``fn`` over one snapshot. Raises UnavailableError if the database cannot be read."""

    def ask(self, fn: Callable[[Reader], T]) -> T:
        """``read`` for a function that asks one question and no more: it needs no snapshot, and where that saves
        something there is none. Raises UnavailableError."""

    def version(self) -> bytes | None:
        """What the content is recognised by: as long as it is the same, nothing has been committed by anybody. To be
        asked for before what is remembered with it. None where only a question tells. Raises UnavailableError."""

    def write(self, fn: Callable[[Transaction], T]) -> T:
        """Run ``fn`` and return what it returned, after the commit.

        Raises what ``fn`` raised, with nothing of it kept; UnavailableError if the database refuses (disk full,
        locked for too long, connection lost), with nothing of it kept or, where a commit's fate is unknown, said so.
        """

    def write_soon(self, fn: Callable[[Transaction], T]) -> Future[T]:
        """``write`` without waiting; the future is done after the commit."""

    def subscribe(self, listener: Callable[[Signal], Any]) -> Callable[[], None]:
        """Hear of every committed Change, on some thread of the store; returns the way to stop. A listener must
        be quick and must not raise. A hint only: a signal may come late, twice or, from elsewhere, not at all."""

    def clock(self) -> datetime:
        """Now (aware UTC) by the clock that this store's leases are judged by: the machine's own, or the database's
        as this process knows it. Asks nobody, so it is cheap and works while the database is away."""

    def is_served(self) -> bool:
        """True while a server of this or another process works on the store, as far as this handle may write."""

    def cleanup_lock(self) -> Any:
        """A context manager that holds the one place for a cleanup over all processes.

        Raises StoreBusyError on entering if another cleanup has it."""

    def info(self) -> StoreInfo:
        """What this store is. Across tenants: numbers only."""

    def close(self) -> None:
        """Finish accepted writes and let go of the database. Idempotent."""
