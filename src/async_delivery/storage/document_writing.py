"""A document of the newest version, written job by job. What is written is read back to the same values, and the same
jobs are the same bytes.

Results, events and notifications lie in sections of their own while jobs come whole, so each section but the first
is kept in a file without a name until the end.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson

from async_delivery.domain.event import Event
from async_delivery.domain.job import Attempt, Job
from async_delivery.domain.notification import Notification
from async_delivery.domain.transfer import JobBundle, KeptResult
from async_delivery.storage.cells import EPOCH, FAR_FUTURE
from async_delivery.storage.contract import InputFile
from async_delivery.storage.document import CHUNKS, INPUTS, NEWEST_VERSION, SECTIONS

_BUFFER = 1 << 20


class DocumentWriter:
    """Writes one document to ``out``, a file that can be written from the start again; a context manager.

    folder   where the sections are kept meanwhile; they need as much room as the document itself
    """

    def __init__(self, out: IO[bytes], folder: Path) -> None:
        self._out = out
        names = (*SECTIONS, INPUTS, CHUNKS)
        self._parts: dict[str, IO[bytes]] = {
            # Closed with this writer, not at the end of a block.
            name: tempfile.TemporaryFile(dir=folder, buffering=_BUFFER)  # noqa: SIM115
            for name in names
        }
        self._empty = dict.fromkeys(names, True)

    def close(self) -> None:
        """Let go of the sections. Idempotent."""
        for part in self._parts.values():
            part.close()

    def begin(self) -> None:
        """Start, or start over."""
        for name, part in self._parts.items():
            part.seek(0)
            part.truncate()
            self._empty[name] = True

    def add_job(self, bundle: JobBundle) -> None:
        """Write a job with all that belongs to it."""
        job_id = bundle.job.job_id
        self._add("jobs", job_id, _job(bundle))
        for kept in bundle.results:
            self._add("results", kept.result.result_id, _result(kept))
        if bundle.events:
            self._add("events", job_id, [_event(event) for event in bundle.events])
        for told in bundle.notifications:
            self._add("notifications", told.notification_id, _notification(told))

    def add_input(self, file: InputFile, chunks: Iterable[bytes]) -> None:
        """Write an uploaded file, in the parts it comes in."""
        self._add(INPUTS, file.input_id, _input(file))
        for number, chunk in enumerate(chunks):
            self._add(CHUNKS, f"{file.input_id}/{number}", base64.b64encode(chunk).decode())

    def finish(self) -> None:
        """Put the document together."""
        out = self._out
        out.seek(0)
        out.truncate()
        out.write(b'{"schema_version":%d' % NEWEST_VERSION)
        for name, part in self._parts.items():
            if self._empty[name] and name not in SECTIONS:
                continue
            out.write(b',\n"%s":{' % name.encode())
            part.seek(0)
            shutil.copyfileobj(part, out, _BUFFER)
            out.write(b"}" if self._empty[name] else b"\n}")
        out.write(b"}\n")
        out.flush()

    def _add(self, section: str, key: str, value: Any) -> None:
        part = self._parts[section]
        part.write(b"\n" if self._empty[section] else b",\n")
        part.write(orjson.dumps(key) + b":" + orjson.dumps(value))
        self._empty[section] = False


def _instant(at: datetime | None) -> str | None:
    """With microseconds, as stores keep them; None where it is missing."""
    return None if at is None or at == EPOCH else _exact(at)


def _exact(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _job(bundle: JobBundle) -> Mapping[str, Any]:
    job, request = bundle.job, bundle.request
    record: dict[str, Any] = {
        "job_id": job.job_id,
        "correlation_id": job.correlation_id,
        "org_id": job.org_id,
        "analysis": job.analysis,
        "analysis_version": job.analysis_version,
        "status": job.status,
        "query": request.query,
        "request_payload_json": {"params": orjson.Fragment(request.params_json)},
        "request_payload_hash": request.fingerprint,
        "input_id": request.input_id,
        "priority": job.priority.name.lower(),
        "labels": dict(job.labels),
        "timeout_seconds": job.timeout_seconds,
        "results_ttl_seconds": job.results_ttl_seconds,
        "ttl_requested": job.ttl_requested,
        "max_attempts": job.max_attempts,
        "retry_of": job.retry_of,
        "traceparent": job.traceparent,
        "held": job.held,
    }
    record.update(_standing(job))
    record["attempts"] = [_attempt(each, bundle.logs.get(each.attempt)) for each in bundle.attempts]
    if bundle.keys:
        record["idempotency_keys"] = [
            {"key": each.key, "fingerprint": each.fingerprint, "created_at": _instant(each.created_at)}
            for each in bundle.keys
        ]
    return record


def _standing(job: Job) -> Mapping[str, Any]:
    error = job.error
    return {
        "progress_percent": job.progress_percent,
        "stage": job.stage,
        "message": job.message,
        "partial_count": job.partial_count,
        "error_count": job.error_count,
        "attempt": job.attempt,
        "result_id": job.result_id,
        "event_seq": job.event_seq,
        "result_seq": job.result_seq,
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "retryable": error.retryable if error else None,
        "retry_hint": error.retry_hint if error else None,
        "submitted_at": _instant(job.submitted_at),
        "queued_at": _instant(job.queued_at),
        "due_at": _instant(job.due_at),
        "started_at": _instant(job.started_at),
        "finished_at": _instant(job.finished_at),
        "updated_at": _instant(job.updated_at),
        "cancel_requested_at": _instant(job.cancel_requested_at),
        "canceled_at": _instant(job.canceled_at),
        "canceled_by": job.canceled_by,
        "cancel_reason": job.cancel_reason,
    }


def _attempt(attempt: Attempt, log: str | None) -> Mapping[str, Any]:
    record = {
        "attempt": attempt.attempt,
        "worker_id": attempt.worker_id,
        "started_at": _instant(attempt.started_at),
        "ended_at": _instant(attempt.ended_at),
        "outcome": attempt.outcome,
        "error_code": attempt.error_code,
    }
    return record if log is None else {**record, "log": log}


def _result(kept: KeptResult) -> Mapping[str, Any]:
    result = kept.result
    record: dict[str, Any] = {
        "result_id": result.result_id,
        "job_id": result.job_id,
        "result_kind": result.result_kind,
        "result_seq": result.result_seq,
        "attempt": result.attempt,
        "created_at": _instant(result.created_at),
        "expires_at": None if result.expires_at == FAR_FUTURE else _exact(result.expires_at),
        "size_bytes": result.size_bytes,
        "sha256": result.sha256,
    }
    if result.deleted_at is not None:
        record["deleted_at"] = _exact(result.deleted_at)
    if kept.data is not None:
        record["result_payload"] = orjson.Fragment(kept.data)
    return record


def _event(event: Event) -> Mapping[str, Any]:
    return {
        "event_id": event.event_id,
        "job_id": event.job_id,
        "event_type": event.event_type,
        "event_seq": event.event_seq,
        "occurred_at": _instant(event.occurred_at),
        "actor_type": event.actor_type,
        "payload_json": dict(event.payload),
    }


def _notification(told: Notification) -> Mapping[str, Any]:
    return {
        "notification_id": told.notification_id,
        "job_id": told.job_id,
        "channel": told.channel,
        "template_key": told.template_key,
        "delivery_status": told.delivery_status,
        "attempt_count": told.attempt_count,
        "last_error": told.last_error,
        "dedupe_key": told.dedupe_key,
        "scheduled_at": _instant(told.scheduled_at),
        "sent_at": _instant(told.sent_at),
        "created_at": _instant(told.created_at),
        "payload_json": dict(told.payload),
    }


def _input(file: InputFile) -> Mapping[str, Any]:
    return {
        "input_id": file.input_id,
        "org_id": file.org_id,
        "filename": file.filename,
        "media_type": file.media_type,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "created_at": _exact(file.created_at),
    }
