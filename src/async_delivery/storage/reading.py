"""The Reader of both dialects: each question is one statement, run as text on the driver's connection.

Counting for cleanup and the checks of the whole store have files of their own. Knows no dialect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import Select
from sqlalchemy.sql.expression import ClauseElement

from async_delivery.domain.cleanup import CleanupRun, Pause
from async_delivery.domain.errors import NotFoundError, ResultCorruptError
from async_delivery.domain.event import Event
from async_delivery.domain.job import Attempt, Job, JobId, JobRequest, JobStatus, ResultId
from async_delivery.domain.notification import Channel, Notification
from async_delivery.domain.result import Result
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.transfer import JobBundle
from async_delivery.storage import cells, checks, cleanup_runs, job_rows, retention, rows, stock, transfer
from async_delivery.storage import statements as sql
from async_delivery.storage.contract import (
    FoundResult,
    IdempotencyRecord,
    InputFile,
    JobFilter,
    RetentionCount,
    Section,
    SeenJob,
    SeenResult,
    Stock,
    StoreFacts,
)
from async_delivery.storage.dialects import Texts

MAX_LABELS = 16
LAST_SEQ = 2**31 - 1  # of the columns that count a job's events
STREAMED_ROWS = 64
_KEPT_ROWS = 1_024
_TERMINAL = frozenset({"completed", "failed", "canceled"})
Params = Mapping[str, Any]


class Cursor(Protocol):
    """What the drivers' cursors have in common."""

    @property
    def rowcount(self) -> int:
        """Rows the statement wrote."""

    def fetchone(self) -> Any:
        """The next row or None."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def fetchmany(self, size: int = ..., /) -> list[Any]:
        """The next rows, none at the end."""


class Connection(Protocol):
    """What the drivers' connections have in common."""

    def execute(self, text: str, parameters: Any = ..., /) -> Cursor:
        """Run one statement."""


def _require_question(statement: ClauseElement, exc: UnicodeError) -> None:
    """Who asks for a text that no store can keep finds nothing; who writes one hears of it, and so does everybody
    of a database that says what is no text."""
    if not isinstance(statement, Select) or isinstance(exc, UnicodeDecodeError):
        raise  # noqa: PLE0704  called while the driver's error is handled


# What is read again and again has not changed in between: a row is kept with what it became. Some 2 KiB each.
@lru_cache(_KEPT_ROWS)
def _to_found(row: tuple[Any, ...]) -> FoundResult:
    return FoundResult(rows.to_result(row), row[-2] in _TERMINAL, row[-1])


@lru_cache(_KEPT_ROWS)
def _to_seen_job(row: tuple[Any, ...]) -> SeenJob:
    return SeenJob(job_rows.to_job(row[:-1]), row[-1] or 0)


def _as_asked(found: FoundResult, org_id: OrgId, result_id: ResultId) -> FoundResult:
    result = found.result
    if result.result_id != result_id or result.org_id != org_id:
        raise ResultCorruptError(result_id)  # an index that is damaged leads to another row
    return found


class SqlReader:
    """Questions over one snapshot; see ``contract.Reader``. Lives as long as its transaction."""

    def __init__(self, connection: Connection, texts: Texts) -> None:
        self._connection = connection
        self._texts = texts

    def run(self, statement: ClauseElement, params: Params) -> Cursor:
        """Run ``statement``; for the files beside this one."""
        return self._connection.execute(self._texts[statement], params)

    def stream(self, statement: ClauseElement, params: Params) -> Iterator[Sequence[Any]]:
        """The rows of ``statement``, of which only a few are in memory at a time."""
        cursor = self.run(statement, params)
        while found := cursor.fetchmany(STREAMED_ROWS):
            yield from found

    def list_param(self, values: Sequence[Any]) -> Any:
        """A list as the parameter of ``is_one_of``."""
        raise NotImplementedError

    def damage(self, limit: int) -> list[str]:
        """What the database itself finds wrong with its file and its foreign keys, one sentence each."""
        raise NotImplementedError

    def sizes(self) -> tuple[int, int]:
        """Bytes of the database and of its write-ahead log."""
        raise NotImplementedError

    def _one(self, statement: ClauseElement, params: Params) -> Sequence[Any] | None:
        try:
            row: Sequence[Any] | None = self.run(statement, params).fetchone()
        except UnicodeError as exc:
            _require_question(statement, exc)
            return None
        return row

    def _all(self, statement: ClauseElement, params: Params) -> list[Sequence[Any]]:
        try:
            return self.run(statement, params).fetchall()
        except UnicodeError as exc:
            _require_question(statement, exc)
            return []

    def find_job(self, org_id: OrgId, job_id: JobId) -> Job | None:
        row = self._one(sql.FIND_JOB, {"the_job_id": job_id, "the_org_id": org_id})
        return None if row is None else job_rows.to_job(row)

    def see_job(self, org_id: OrgId, job_id: JobId) -> SeenJob | None:
        row = self._one(sql.SEE_JOB, {"the_job_id": job_id, "the_org_id": org_id})
        return None if row is None else _to_seen_job(tuple(row))

    def find_request(self, org_id: OrgId, job_id: JobId) -> JobRequest | None:
        row = self._one(sql.FIND_REQUEST, {"the_job_id": job_id, "the_org_id": org_id})
        return None if row is None else rows.to_request(row)

    def list_jobs(self, org_id: OrgId, where: JobFilter, limit: int, before: JobId | None) -> list[Job]:
        labels = sorted((where.labels or {}).items())
        if len(labels) > MAX_LABELS:
            return []  # no job has so many, and each number of labels is a statement of its own
        statuses = sorted(set(where.statuses))
        params: dict[str, Any] = {
            "the_org_id": org_id,
            "the_analysis": where.analysis,
            "created_after": cells.optional_micros(where.created_after),
            "created_before": cells.optional_micros(where.created_before),
            "before_job_id": before,
            "at_most": limit,
        }
        params.update({f"status_{n}": str(status) for n, status in enumerate(statuses)})
        for n, (key, value) in enumerate(labels):
            params[f"key_{n}"], params[f"value_{n}"] = key, value
        statement = sql.list_jobs(
            len(statuses),
            len(labels),
            analysis=where.analysis is not None,
            after=where.created_after is not None,
            before=where.created_before is not None,
            page=before is not None,
            completed=JobStatus.COMPLETED in statuses,
        )
        return job_rows.to_jobs(self._all(statement, params))

    def event_seqs(self, job_ids: Sequence[JobId]) -> Mapping[JobId, int]:
        found = self._all(sql.LIST_EVENT_SEQS, {"the_job_ids": self.list_param(list(job_ids))})
        return {JobId(job_id): int(event_seq) for job_id, event_seq in found}

    def list_events(self, org_id: OrgId, job_id: JobId, after: int, limit: int) -> list[Event]:
        # Behind any event there can be, there is none; a number beyond the column's range would be an error.
        after = min(after, LAST_SEQ)
        params = {"the_job_id": job_id, "the_org_id": org_id, "after_seq": after, "at_most": limit}
        return [rows.to_event(row) for row in self._all(sql.LIST_EVENTS, params)]

    def list_attempts(self, org_id: OrgId, job_id: JobId) -> list[Attempt]:
        params = {"the_job_id": job_id, "the_org_id": org_id}
        return [rows.to_attempt(row) for row in self._all(sql.LIST_ATTEMPTS, params)]

    def find_log(self, org_id: OrgId, job_id: JobId, attempt: int) -> str | None:
        params = {"the_job_id": job_id, "the_org_id": org_id, "the_attempt": attempt}
        row = self._one(sql.FIND_LOG, params)
        return None if row is None else row[0]

    def find_result(self, org_id: OrgId, result_id: ResultId) -> FoundResult | None:
        row = self._one(sql.FIND_RESULT, {"the_result_id": result_id, "the_org_id": org_id})
        return None if row is None else _as_asked(_to_found(tuple(row)), org_id, result_id)

    def see_result(self, org_id: OrgId, result_id: ResultId, at_most_bytes: int) -> SeenResult | None:
        row = self._one(
            sql.SEE_RESULT,
            {"the_result_id": result_id, "the_org_id": org_id, "at_most_bytes": at_most_bytes},
        )
        if row is None:
            return None
        body = row[-1]
        found = _as_asked(_to_found(tuple(row[:-1])), org_id, result_id)
        return SeenResult(found, body if body is None else bytes(body))

    def newest_result(self, org_id: OrgId, job_id: JobId) -> Result | None:
        row = self._one(sql.NEWEST_RESULT, {"the_job_id": job_id, "the_org_id": org_id})
        return None if row is None else rows.to_result(row)

    def list_results(self, org_id: OrgId, job_id: JobId) -> list[Result]:
        params = {"the_job_id": job_id, "the_org_id": org_id}
        return [rows.to_result(row) for row in self._all(sql.LIST_RESULTS, params)]

    def find_body(self, org_id: OrgId, result_id: ResultId) -> bytes | None:
        row = self._one(sql.FIND_BODY, {"the_result_id": result_id, "the_org_id": org_id})
        return None if row is None else bytes(row[0])

    def list_notifications(
        self, org_id: OrgId, job_id: JobId, channel: Channel | None, limit: int
    ) -> list[Notification]:
        params: dict[str, Any] = {"the_job_id": job_id, "the_org_id": org_id, "at_most": limit}
        statement = sql.LIST_NOTIFICATIONS
        if channel is not None:
            statement = sql.LIST_NOTIFICATIONS_OF_CHANNEL
            params["the_channel"] = str(channel)
        return [rows.to_notification(row) for row in self._all(statement, params)]

    def find_idempotency(self, org_id: OrgId, key: str) -> IdempotencyRecord | None:
        row = self._one(sql.FIND_KEY, {"the_key": key, "the_org_id": org_id})
        return None if row is None else rows.to_idempotency(row)

    def count_queued(self, org_id: OrgId, at_most: int) -> int:
        row = self._one(sql.COUNT_QUEUED, {"the_org_id": org_id, "at_most": at_most})
        return int(row[0]) if row else 0

    def recent_run_seconds(self, analysis: str, limit: int) -> list[float]:
        found = self._all(sql.RECENT_RUNS, {"the_analysis": analysis, "at_most": limit})
        return [
            max(0.0, (ended_at - started_at) / 1_000_000)
            for started_at, ended_at in found
            if type(started_at) is int and type(ended_at) is int
        ]

    def cancel_requests(self, worker_id: str) -> list[JobId]:
        found = self._all(sql.LIST_CANCEL_REQUESTS, {"the_worker_id": worker_id})
        return [JobId(job_id) for (job_id,) in found]

    def find_input(self, org_id: OrgId, input_id: str) -> InputFile | None:
        row = self._one(sql.FIND_INPUT, {"the_input_id": input_id, "the_org_id": org_id})
        return None if row is None else rows.to_input(row)

    def read_input(self, org_id: OrgId, input_id: str) -> Iterator[bytes]:
        file = self.find_input(org_id, input_id)
        if file is None:
            raise NotFoundError("input")
        return self._chunks(file)

    def _chunks(self, file: InputFile) -> Iterator[bytes]:
        # One chunk at a time: a file may be larger than memory.
        seq, left = 0, file.size_bytes
        while left > 0:
            params = {"the_input_id": file.input_id, "the_org_id": file.org_id, "the_seq": seq}
            row = self._one(sql.READ_CHUNK, params)
            if row is None:
                raise NotFoundError("input")
            data = bytes(row[0])
            seq, left = seq + 1, left - len(data)
            yield data

    def count_retention(
        self, policy: RetentionPolicy, now: datetime, *, going: bool = True
    ) -> RetentionCount:
        return retention.count(self, policy, now, going=going)

    def stock(self, now: datetime, ended_before: datetime) -> Stock:
        return stock.stock(self, now, ended_before)

    def backlog(self, policy: RetentionPolicy, now: datetime, at_most: int) -> Mapping[Section, int]:
        return stock.backlog(self, policy, now, at_most)

    def cleanup_runs(self, since: datetime | None, limit: int) -> list[CleanupRun]:
        return cleanup_runs.runs(self, since, limit)

    def last_cleanup_success_at(self) -> datetime | None:
        return cleanup_runs.last_success_at(self)

    def cleanup_pause(self) -> Pause | None:
        return cleanup_runs.pause(self)

    def facts(self) -> StoreFacts:
        return stock.facts(self)

    def violations(self, limit: int) -> list[str]:
        return checks.violations(self, limit)

    def export_jobs(self, after: JobId | None, limit: int, max_bytes: int) -> list[JobBundle]:
        return transfer.next_jobs(self, after, limit, max_bytes)

    def find_bundles(self, job_ids: Sequence[JobId]) -> list[JobBundle]:
        return transfer.bundles(self, job_ids, bodies=False)
