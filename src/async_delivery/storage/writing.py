"""The Transaction of both dialects: a Change written whole, and everything else that writes.

Fair dispatch and the deletes of cleanup have files of their own. Knows no dialect but through ``integrity_error``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.cleanup import CleanupRun, Pause
from async_delivery.domain.errors import AsyncDeliveryError, ConflictError, LeaseLostError, NotFoundError
from async_delivery.domain.job import Fence, Job, JobId, JobStatus
from async_delivery.domain.lifecycle import Change
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.transfer import JobBundle
from async_delivery.storage import (
    cells,
    cleanup_runs,
    dispatch,
    job_rows,
    retention,
    retention_jobs,
    rows,
    transfer,
)
from async_delivery.storage import statements as sql
from async_delivery.storage.contract import (
    FROM_THE_START,
    IDEMPOTENCY_TTL_SECONDS,
    UNNAMED_INPUT_TTL_SECONDS,
    Deleted,
    IdempotencyRecord,
    InputFile,
    Reached,
    Renewal,
    Section,
    Signal,
)
from async_delivery.storage.dialects import Texts
from async_delivery.storage.reading import Connection, Params, SqlReader

Write: TypeAlias = tuple[ClauseElement, Params]


class SqlTransaction(SqlReader):
    """Reads and writes that are kept or lost together; see ``contract.Transaction``.

    signals             what subscribers hear after the commit
    places_are_shared   other transactions write at the same time, so two jobs may get one place
    """

    integrity_error: type[Exception]
    places_are_shared = False

    def __init__(self, connection: Connection, texts: Texts) -> None:
        super().__init__(connection, texts)
        self.signals: list[Signal] = []

    def is_duplicate(self, exc: Exception) -> bool:
        """True if ``exc`` says that a unique value is there already."""
        raise NotImplementedError

    def serialize_claims(self) -> None:
        """Wait until no other transaction claims, where several may at once: they would count past a cap."""

    def lock_job(self, org_id: OrgId, job_id: JobId) -> Job:
        row = self._one(sql.LOCK_JOB, {"the_job_id": job_id, "the_org_id": org_id})
        if row is None:
            raise NotFoundError("job")
        return job_rows.to_job(row)

    # ------------------------------------------------------------ a Change
    def save(self, change: Change) -> None:
        job, before = change.job, change.before
        try:
            writes = self._entering(change) if before is None else [self._moving(change, before)]
            written = self.write_together([*writes, *_following(change)])
        except self.integrity_error as exc:
            if self.is_duplicate(exc):
                raise ConflictError(
                    f"job {job.job_id}: an id or dedupe key of this change is there already"
                ) from exc
            raise AsyncDeliveryError(f"job {job.job_id}: the store refuses this change: {exc}") from exc
        if before is not None and written != 1:
            raise LeaseLostError(job.job_id, before.attempt)
        cancel = job.cancel_requested_at is not None
        self.signals.append(Signal(job.org_id, job.job_id, job.status, job.event_seq, cancel))

    def write_together(self, writes: Sequence[Write]) -> int:
        """Run the writes of one change in their order; how many rows the first has written. If none, the others are
        left out. An INSERT_BODY gets the key of the INSERT_RESULT before it."""
        (first, first_params), *others = writes
        written = self.run(first, first_params).rowcount
        key: Any = None
        for statement, params in others if written else ():
            if statement is sql.INSERT_RESULT:
                key = self.enter_result(params)
            else:
                self.run(statement, {**params, "result_key": key} if statement is sql.INSERT_BODY else params)
        return written

    def enter_result(self, columns: Params) -> int:
        """Run INSERT_RESULT; the key of the row."""
        (key,) = self.run(sql.INSERT_RESULT, columns).fetchone()
        return int(key)

    def _entering(self, change: Change) -> list[Write]:
        job, request = change.job, change.request
        if request is None:
            raise ValueError("a new job needs its request")
        if request.input_id is not None:
            named = {"the_input_id": request.input_id, "the_org_id": job.org_id}
            if not self.run(sql.NAME_INPUT, named).rowcount:
                raise NotFoundError("input")
        place = self.next_place(job.org_id) if job.due_at is None else None
        columns = {
            "job_id": job.job_id,
            "org_id": job.org_id,
            "query": request.query,
            "params_json": request.params_json,
            "fingerprint": request.fingerprint,
            "input_id": request.input_id,
        }
        return [
            (sql.INSERT_JOB, job_rows.new_job_columns(job, place, events_kept=int(bool(change.events)))),
            (sql.INSERT_REQUEST, columns),
        ]

    def _moving(self, change: Change, before: Job) -> Write:
        job = change.job
        columns = job_rows.moved_columns(job, before)
        columns["event_seq"] = job.event_seq
        queued = job.status is JobStatus.QUEUED
        if queued or before.status is JobStatus.QUEUED:
            columns["place"] = self.next_place(job.org_id) if queued and job.due_at is None else None
        if job.result_seq > before.result_seq == 0:
            columns["results_kept"] = 1
        statement = sql.move_job(tuple(columns))
        columns["the_job_id"] = job.job_id
        columns["the_org_id"] = job.org_id
        columns["was_event_seq"] = before.event_seq
        columns["was_attempt"] = before.attempt
        columns["was_lease_token"] = before.lease.token if before.lease else None
        columns["was_status"] = before.status.value
        return statement, columns

    # ------------------------------------------------------------ for workers
    def next_place(self, org_id: OrgId) -> int:
        """The place of a job that joins its tenant's line now."""
        row = self._one(sql.PLACES, {"the_org_id": org_id})
        lowest, last = row or (None, None)
        return max(lowest or 0, 0 if last is None else last + 1)

    def to_job(self, row: cells.Row) -> Job:
        """The job of a row that dispatch has found."""
        return job_rows.to_job(row)

    def claimable(
        self, limit: int, analyses: Sequence[str] | None, max_running_per_tenant: int | None, now: datetime
    ) -> list[Job]:
        dispatch.promote_due(self, now)
        return dispatch.claimable(self, limit, analyses, max_running_per_tenant)

    def renew_leases(
        self, worker_id: str, fences: Mapping[JobId, Fence], expires_at: datetime
    ) -> list[Renewal]:
        until = cells.to_micros(expires_at)
        renewals = []
        for job_id, fence in fences.items():
            row = self._one(
                sql.RENEW_LEASE,
                {
                    "the_job_id": job_id,
                    "was_attempt": fence.attempt,
                    "was_lease_token": fence.lease_token,
                    "the_worker_id": worker_id,
                    "lease_expires_at": until,
                },
            )
            renewals.append(Renewal(job_id, fence, row is not None, row is not None and row[0] is not None))
        return renewals

    def lost_jobs(
        self, now: datetime, alive: Sequence[str], limit: int, lease_seconds: float = 0.0
    ) -> list[Job]:
        # One process serves this store at a time (see the lock of sqlite), so no clock is needed.
        leased = job_rows.to_jobs(self._all(sql.LIST_LEASED, {}))
        lost = [job for job in leased if job.lease is not None and job.lease.worker_id not in alive]
        return lost[:limit]

    def put_log(self, org_id: OrgId, job_id: JobId, attempt: int, text: str) -> None:
        params: dict[str, Any] = {
            "the_job_id": job_id,
            "the_org_id": org_id,
            "the_attempt": attempt,
            "text": text,
        }
        if self.run(sql.UPDATE_LOG, params).rowcount:
            return
        if self.find_job(org_id, job_id) is None:
            raise NotFoundError("job")
        self.run(sql.INSERT_LOG, {"job_id": job_id, "attempt": attempt, "org_id": org_id, "text": text})

    # ------------------------------------------------------------ idempotency keys and uploaded files
    def put_idempotency(
        self, org_id: OrgId, record: IdempotencyRecord, ttl_seconds: int = IDEMPOTENCY_TTL_SECONDS
    ) -> None:
        expired_before = cells.to_micros(record.created_at - timedelta(seconds=ttl_seconds))
        params = {"the_org_id": org_id, "the_key": record.key, "expired_before": expired_before}
        self.run(sql.DELETE_EXPIRED_KEY, params)
        try:
            self.run(
                sql.INSERT_KEY,
                {
                    "org_id": org_id,
                    "key": record.key,
                    "fingerprint": record.fingerprint,
                    "job_id": record.job_id,
                    "created_at": cells.to_micros(record.created_at),
                },
            )
        except self.integrity_error as exc:
            if self.is_duplicate(exc):
                raise ConflictError("this Idempotency-Key is in use") from exc
            raise NotFoundError("job") from exc

    def add_input(self, file: InputFile) -> None:
        try:
            self.run(sql.INSERT_INPUT, rows.input_columns(file))
        except self.integrity_error as exc:
            raise ConflictError(f"input {file.input_id} is there already") from exc
        self.run(sql.DELETE_UPLOAD, {"the_input_id": file.input_id, "the_org_id": file.org_id})

    def add_input_chunk(self, org_id: OrgId, input_id: str, seq: int, data: bytes, now: datetime) -> None:
        try:
            if seq == 0:
                self.run(
                    sql.INSERT_UPLOAD,
                    {"input_id": input_id, "org_id": org_id, "started_at": cells.to_micros(now)},
                )
            self.run(sql.INSERT_CHUNK, {"input_id": input_id, "seq": seq, "org_id": org_id, "data": data})
        except self.integrity_error as exc:
            raise ConflictError(f"chunk {seq} of input {input_id} is there already") from exc

    def drop_input(self, org_id: OrgId, input_id: str) -> None:
        params = {"the_input_id": input_id, "the_org_id": org_id}
        # Locked, so that a job that names it meanwhile is seen by the statement after this one.
        entered = self._one(sql.LOCK_INPUT, params) is not None
        if entered and not self.run(sql.DELETE_UNNAMED_INPUT, params).rowcount:
            return  # a job names it
        self.run(sql.DELETE_UPLOAD, params)
        self.run(sql.DELETE_CHUNKS, params)

    # ------------------------------------------------------------ erasing and cleaning
    def erase_job(self, org_id: OrgId, job_id: JobId) -> None:
        request = self.find_request(org_id, job_id)
        # Everything else that belongs to the job goes with its row, by the foreign keys.
        self.run(sql.DELETE_JOB, {"the_job_id": job_id, "the_org_id": org_id})
        if request is not None and request.input_id is not None:
            self.drop_input(org_id, request.input_id)

    def set_hold(self, org_id: OrgId, job_id: JobId, held: bool) -> None:
        if not self.run(
            sql.HOLD_JOB, {"the_job_id": job_id, "the_org_id": org_id, "held": int(held)}
        ).rowcount:
            raise NotFoundError("job")

    def delete_old(
        self,
        section: Section,
        policy: RetentionPolicy,
        now: datetime,
        limit: int,
        since: Reached = FROM_THE_START,
    ) -> Deleted:
        if section is Section.RESULTS:
            return retention.delete_results(self, policy, now, limit, since)
        if section is Section.EVENTS:
            return retention.delete_events(self, policy, now, limit, since)
        return retention_jobs.delete_jobs(self, policy, now, limit, since)

    def record_cleanup(self, run: CleanupRun) -> None:
        cleanup_runs.record(self, run)

    def set_cleanup_pause(self, pause: Pause | None) -> None:
        cleanup_runs.set_pause(self, pause)

    # ------------------------------------------------------------ for moving between stores
    def put_jobs(self, bundles: Sequence[JobBundle]) -> None:
        transfer.put(self, bundles)

    def run_many(self, statement: ClauseElement, rows_: Sequence[Params]) -> None:
        """Run ``statement`` once for each of ``rows_``."""
        # Of no other use is more of a connection than ``execute``, so it is not asked of every one.
        connection: Any = self._connection
        if rows_:
            connection.executemany(self._texts[statement], rows_)

    def probe(self, now: datetime) -> None:
        cleanup_runs.probe(self, now)

    def prune(self, now: datetime, limit: int) -> Mapping[str, int]:
        keys_before = cells.to_micros(now - timedelta(seconds=IDEMPOTENCY_TTL_SECONDS))
        files_before = cells.to_micros(now - timedelta(seconds=UNNAMED_INPUT_TTL_SECONDS))
        old_keys = self._all(sql.LIST_OLD_KEYS, {"expired_before": keys_before, "at_most": limit})
        for org_id, key in old_keys:
            self.run(
                sql.DELETE_EXPIRED_KEY, {"the_org_id": org_id, "the_key": key, "expired_before": keys_before}
            )
        counts = {"idempotency_keys": len(old_keys), "inputs": 0, "uploads": 0}
        for kind, statement in (("inputs", sql.LIST_STALE_INPUTS), ("uploads", sql.LIST_STALE_UPLOADS)):
            stale = self._all(statement, {"expired_before": files_before, "at_most": limit})
            for org_id, input_id in stale:
                self.drop_input(org_id, input_id)
            counts[kind] = len(stale)
        return counts


def _following(change: Change) -> Iterator[Write]:
    for event in change.events:
        yield sql.INSERT_EVENT, rows.event_columns(event)
    for new in change.results:
        yield sql.INSERT_RESULT, rows.result_columns(new.result)
        yield sql.INSERT_BODY, {"data": new.body.data}
    if change.attempt is not None:
        columns = rows.attempt_columns(change.attempt, change.job.analysis)
        if change.attempt.ended_at is None:
            yield sql.INSERT_ATTEMPT, columns
        else:
            columns["the_job_id"], columns["the_org_id"] = change.job.job_id, change.job.org_id
            columns["the_attempt"] = change.attempt.attempt
            yield sql.END_ATTEMPT, columns
    for told in change.notifications:
        yield sql.INSERT_NOTIFICATION, rows.notification_columns(told)
