"""The record of a job in a document as values; what belongs to the job is in ``document_records``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.duration import MAX_SECONDS
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.failure import Failure
from async_delivery.domain.found import UNKNOWN, FoundJob
from async_delivery.domain.job import (
    Attempt,
    AttemptOutcome,
    Job,
    JobId,
    JobRequest,
    JobStatus,
    Priority,
    ResultId,
)
from async_delivery.domain.tenant import DEFAULT_ORG, OrgId, parse_org_id
from async_delivery.domain.transfer import KeyBinding
from async_delivery.storage.cells import canonical_of_parsed
from async_delivery.storage.document_fields import ID_FORM, Fields, RefusedRecord, is_id, storable

DEFAULT_TIMEOUT_SECONDS = 3600.0
DEFAULT_MAX_ATTEMPTS = 3
_LONGEST_TIMEOUT_SECONDS = 31_536_000.0
_MAX_ATTEMPTS = 1000
_MAX_LABELS = 16
STATES = {**{str(each): str(each) for each in JobStatus}, "cancelled": "canceled"}
OUTCOMES = {**{str(each): str(each) for each in AttemptOutcome}, "cancelled": "canceled"}
PRIORITIES = {each.name.lower(): each.name.lower() for each in Priority}
TENANT_FIELDS = ("org_id", "tenant_id", "owner_org_id")


# Each with its meaning in docs/reference/store-document.md.
JOB_FIELDS = frozenset(
    {
        *("job_id", "correlation_id", *TENANT_FIELDS, "analysis", "analysis_version", "status", "query"),
        *("request_payload_json", "request_payload_hash", "request_payload_ref", "input_id", "priority"),
        *("labels", "timeout_seconds", "results_ttl_seconds", "ttl_requested", "max_attempts", "retry_of"),
        *("traceparent", "held", "legal_hold", "progress_percent", "stage", "message", "partial_count"),
        *("error_count", "attempt", "attempts", "result_id", "event_seq", "result_seq", "error_code"),
        *("error_message", "retryable", "retry_hint", "submitted_at", "queued_at", "due_at", "started_at"),
        *("finished_at", "updated_at", "cancel_requested_at", "canceled_at", "canceled_by", "cancel_reason"),
        *("idempotency_keys",),
    }
)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a record means that does not say it: the server's own settings."""

    analysis: str
    results_ttl_seconds: int


def read_fields(fields: Fields, job_id: str, defaults: Defaults) -> FoundJob:
    """The job that ``fields`` tell of, without what lies elsewhere in the document. Raises RefusedRecord."""
    if not is_id(job_id):
        raise RefusedRecord("its id is empty" if not job_id else f"its id is not {ID_FORM}")
    if fields.get("job_id") not in (None, job_id):
        fields.note("job_id", f"stands under {job_id}, and that is its id")
    org_id = tenant_of(fields)
    payload = fields.object("request_payload_json")
    known = isinstance(fields.record.get("status"), str) and fields.record["status"].strip().lower() in STATES
    status = JobStatus(fields.one_of("status", STATES, "failed"))
    if not known:
        # Said once, in words that fit: the state is not taken as this one because it is the usual one.
        fields.notes = [note for note in fields.notes if note.field != "status"]
        fields.note("status", "its state is not known here: failed, with error_code unknown_state")
    queued_at = fields.needed_instant("queued_at")
    submitted_at = fields.needed_instant("submitted_at") if "submitted_at" in fields.record else queued_at
    finished_at = fields.instant("finished_at")
    if status.terminal and known and fields.record.get("finished_at") is None:
        fields.needed_instant("finished_at")
    if finished_at is not None and not (status.terminal and known):
        fields.note("finished_at", "finished_at belongs to a job that has ended: left out")
    due_at = fields.instant("due_at")
    if due_at is not None and status is not JobStatus.QUEUED:
        fields.note("due_at", "due_at belongs to a queued job: left out")
        due_at = None
    job = Job(
        job_id=JobId(job_id),
        org_id=org_id,
        correlation_id=fields.text("correlation_id") or job_id,
        analysis=fields.text("analysis") or _text_of(payload.get("analysis")) or defaults.analysis,
        analysis_version=fields.text("analysis_version") or "unknown",
        status=status,
        priority=Priority[fields.one_of("priority", PRIORITIES, "default").upper()],
        labels=_labels(fields),
        timeout_seconds=fields.number(
            "timeout_seconds", DEFAULT_TIMEOUT_SECONDS, 0.001, _LONGEST_TIMEOUT_SECONDS
        ),
        results_ttl_seconds=fields.whole(
            "results_ttl_seconds", defaults.results_ttl_seconds, high=MAX_SECONDS
        ),
        ttl_requested=fields.flag("ttl_requested"),
        max_attempts=fields.whole("max_attempts", DEFAULT_MAX_ATTEMPTS, 1, _MAX_ATTEMPTS),
        submitted_at=submitted_at,
        queued_at=queued_at,
        updated_at=fields.needed_instant("updated_at"),
        retry_of=_retry_of(fields),
        traceparent=fields.text("traceparent"),
        progress_percent=fields.number("progress_percent", 0.0, 0.0, 100.0),
        stage=fields.text("stage"),
        message=fields.text("message"),
        partial_count=fields.whole("partial_count", -1),
        error_count=fields.whole("error_count", 0),
        attempt=fields.whole("attempt", 0, high=_MAX_ATTEMPTS),
        result_id=_named_result(fields),
        error=_error(fields),
        due_at=due_at,
        started_at=fields.instant("started_at"),
        finished_at=finished_at if status.terminal and known else None,
        cancel_requested_at=fields.instant("cancel_requested_at"),
        canceled_at=fields.instant("canceled_at"),
        canceled_by=fields.text("canceled_by"),
        cancel_reason=fields.text("cancel_reason"),
        held=fields.flag("held") or fields.flag("legal_hold"),
    )
    attempts, logs = _attempts(fields, job)
    return FoundJob(
        job=job,
        request=_request(fields, payload),
        state_known=known,
        attempts=attempts,
        logs=logs,
        keys=_keys(fields),
        event_seq=fields.whole("event_seq", 0) or None,
        notes=fields.notes,
    )


def tenant_of(fields: Fields) -> OrgId:
    """Whose the record is: the first of TENANT_FIELDS that it has, else the default tenant. Raises RefusedRecord."""
    given = [
        (name, fields.record[name]) for name in TENANT_FIELDS if fields.record.get(name) not in (None, "")
    ]
    if not given:
        return DEFAULT_ORG
    name, value = given[0]
    try:
        org_id = parse_org_id(value if isinstance(value, str) else "")
    except ValidationError:
        raise RefusedRecord(f"its tenant {value!r:.80} is none that can be named") from None
    for other, its in given[1:]:
        if its != org_id:
            fields.note(other, f"{other} names another tenant than {name}, which counts")
    return org_id


def _text_of(value: Any) -> str | None:
    return storable(value) if isinstance(value, str) else None


def _labels(fields: Fields) -> Mapping[str, str]:
    given = fields.object("labels")
    labels = {
        storable(key): storable(value)
        for key, value in list(given.items())[:_MAX_LABELS]
        if isinstance(value, str) and key
    }
    if labels != given:
        fields.note("labels", f"labels are at most {_MAX_LABELS} texts: the others are left out")
    return labels


def _retry_of(fields: Fields) -> JobId | None:
    value = fields.get("retry_of")
    if value is None or is_id(value):
        return value if value is None else JobId(value)
    fields.note("retry_of", f"retry_of is not {ID_FORM}: left out")
    return None


def _named_result(fields: Fields) -> ResultId | None:
    value = fields.get("result_id")
    if value is None or is_id(value):
        return value if value is None else ResultId(value)
    fields.note("result_id", f"result_id is not {ID_FORM}: left out")
    return None


def _error(fields: Fields) -> Failure | None:
    code, message = fields.text("error_code"), fields.text("error_message")
    retryable = fields.flag("retryable")
    if not code and not message:
        return None
    return Failure(code or "unknown", message or "", retryable)


def _request(fields: Fields, payload: dict[str, Any]) -> JobRequest:
    params = payload.get("params")
    canonical = canonical_of_parsed if fields.plain else canonical_json
    params_json = canonical(params if isinstance(params, dict) else payload)
    fingerprint = fields.text("request_payload_hash")
    return JobRequest(
        query=fields.text("query"),
        params_json=params_json,
        fingerprint=fingerprint or hashlib.sha256(canonical(payload)).hexdigest(),
        input_id=fields.text("input_id"),
    )


def _attempts(fields: Fields, job: Job) -> tuple[tuple[Attempt, ...] | None, dict[int, str]]:
    given = fields.get("attempts")
    if given is None:
        return None, {}
    if not isinstance(given, list):
        fields.note("attempts", "attempts is no list: left out")
        return None, {}
    attempts: list[Attempt] = []
    logs: dict[int, str] = {}
    for index, record in enumerate(given[:_MAX_ATTEMPTS], start=1):
        each = Fields(record if isinstance(record, dict) else {})
        outcome = None if each.get("outcome") is None else each.one_of("outcome", OUTCOMES, "lost")
        attempt = Attempt(
            job_id=job.job_id,
            org_id=job.org_id,
            attempt=each.whole("attempt", index, 1),
            worker_id=each.text("worker_id") or "unknown",
            started_at=each.instant("started_at") or UNKNOWN,
            ended_at=each.instant("ended_at"),
            outcome=None if outcome is None else AttemptOutcome(outcome),
            error_code=each.text("error_code"),
        )
        if (log := each.text("log")) is not None:
            logs[attempt.attempt] = log
        attempts.append(attempt)
        fields.notes += [replace(note, field=f"attempts[{index}].{note.field}") for note in each.notes]
    return tuple(attempts), logs


def _keys(fields: Fields) -> tuple[KeyBinding, ...]:
    given = fields.get("idempotency_keys")
    keys: dict[str, KeyBinding] = {}
    for record in given if isinstance(given, list) else []:
        each = Fields(record if isinstance(record, dict) else {})
        key, fingerprint, at = each.text("key"), each.text("fingerprint"), each.instant("created_at")
        if not key or not fingerprint or at is None:
            fields.note("idempotency_keys", "a key without its fingerprint or instant: left out")
        else:
            keys[key] = KeyBinding(key, fingerprint, at)
    return tuple(keys.values())
