"""Documents of the older form for tests: as the service that wrote them did, and with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

from async_delivery.domain.account import Account, Entry, Kind, Verdict
from async_delivery.engine.transfer import export_jobs, import_jobs
from async_delivery.storage.contract import Store
from async_delivery.storage.document import Document
from async_delivery.storage.document_jobs import Defaults
from async_delivery.storage.document_source import DocumentSource
from async_delivery.storage.document_writing import DocumentWriter
from tests.domain.support import NOON

Json = dict[str, Any]
DEFAULTS = Defaults("profile", 604_800)


def at(seconds: float) -> str:
    """``seconds`` after noon, as the older service wrote instants."""
    return datetime.fromtimestamp(NOON.timestamp() + seconds, NOON.tzinfo).isoformat()


def job(job_id: str, status: str = "completed", **changes: Any) -> Json:
    ended = status in {"completed", "failed", "canceled"}
    return {
        "job_id": job_id,
        "correlation_id": f"c-{job_id}",
        "org_id": "alpha",
        "owner_user_id": None,
        "owner_org_id": "alpha",
        "status": status,
        "request_payload_hash": "a" * 64,
        "request_payload_ref": f"inline:{job_id}",
        "request_payload_json": {"query": "Bahnhofstrasse 1", "options": {"async_mode": {"requested": True}}},
        "query": "Bahnhofstrasse 1",
        "intelligence_mode": "basic",
        "progress_percent": 100 if status == "completed" else 40,
        "partial_count": 1,
        "error_count": 1 if status == "failed" else 0,
        "result_id": f"{job_id}-final" if status == "completed" else f"{job_id}-partial",
        "error_code": "timeout" if status == "failed" else None,
        "error_message": "took too long" if status == "failed" else None,
        "retryable": True if status == "failed" else None,
        "retry_hint": "retry_with_backoff" if status == "failed" else None,
        "cancel_requested_at": None,
        "canceled_at": at(3) if status == "canceled" else None,
        "canceled_by": "user" if status == "canceled" else None,
        "cancel_reason": None,
        "queued_at": at(0),
        "started_at": None if status == "queued" else at(1),
        "finished_at": at(3) if ended else None,
        "updated_at": at(3),
        **changes,
    }


def result(result_id: str, job_id: str, kind: str, seq: int, payload: Any = None, **changes: Any) -> Json:
    return {
        "result_id": result_id,
        "job_id": job_id,
        "owner_user_id": None,
        "owner_org_id": "alpha",
        "result_kind": kind,
        "result_seq": seq,
        "schema_version": "v1",
        "result_payload": {"of": result_id} if payload is None else payload,
        "summary_json": {"status": "running"},
        "created_at": at(2),
        **changes,
    }


def event(job_id: str, seq: int, event_type: str, **changes: Any) -> Json:
    return {
        "event_id": f"e-{job_id}-{seq}",
        "job_id": job_id,
        "event_type": event_type,
        "event_seq": seq,
        "occurred_at": at(seq - 1),
        "actor_type": "system",
        "payload_json": {"status": event_type, "progress_percent": 10},
        **changes,
    }


def notification(job_id: str, status: str, **changes: Any) -> Json:
    return {
        "notification_id": f"n-{job_id}",
        "job_id": job_id,
        "channel": "in_app",
        "template_key": f"async.job.{status}",
        "delivery_status": "pending",
        "attempt_count": 0,
        "last_error": None,
        "dedupe_key": f"{job_id}:in_app:async.job.{status}",
        "scheduled_at": at(3),
        "sent_at": None,
        "created_at": at(3),
        "payload_json": {"job_id": job_id, "status": status},
        **changes,
    }


def whole(*statuses: str, version: int = 5) -> Json:
    """A document with one job per status, named ``job-0``, ``job-1``, …, each with what the older service wrote."""
    document: Json = {
        "schema_version": version,
        "jobs": {},
        "results": {},
        "events": {},
        "notifications": {},
    }
    for number, status in enumerate(statuses):
        job_id = f"job-{number}"
        document["jobs"][job_id] = job(
            job_id, status, **({"partial_count": 0, "result_id": None} if status == "queued" else {})
        )
        words = ["job.queued"]
        if status != "queued":
            words += ["job.running", "job.partial"]
            name = f"{job_id}-partial"
            document["results"][name] = result(name, job_id, "partial", 1)
        if status == "completed":
            name = f"{job_id}-final"
            document["results"][name] = result(name, job_id, "final", 2)
        if status in {"completed", "failed", "canceled"}:
            words.append(f"job.{status}")
        if status in {"completed", "failed"}:  # the older service told of no cancel
            document["notifications"][f"n-{job_id}"] = notification(job_id, status)
        document["events"][job_id] = [event(job_id, seq, word) for seq, word in enumerate(words, start=1)]
    return document


def changed(document: Json, change: Callable[[Json], object]) -> Json:
    other = deepcopy(document)
    change(other)
    return other


def written(path: Path, document: Json | str, **layout: Any) -> Path:
    """``document`` at ``path``, laid out as the older service did unless said otherwise."""
    text = document
    if not isinstance(text, str):
        text = json.dumps(document, **({"ensure_ascii": False, "sort_keys": True, "indent": 2} | layout))
    path.write_text(text, encoding="utf-8")
    return path


def taken_in(store: Store, path: Path, defaults: Defaults = DEFAULTS) -> tuple[Account, list[Entry]]:
    """Import the document at ``path``."""
    entries: list[Entry] = []
    with Document(path) as document:
        account = import_jobs(store, DocumentSource(document, defaults), entries.append, lambda: NOON)
    assert all(tally.balanced() for tally in account.counts.values())
    return account, entries


def exported(store: Store, path: Path) -> bytes:
    """The bytes of an export, which is also left at ``path``."""
    with path.open("w+b") as out:
        writer = DocumentWriter(out, path.parent)
        export_jobs(store, writer, lambda _: None)
        writer.finish()
        writer.close()
    return path.read_bytes()


def named(entries: list[Entry], verdict: Verdict, kind: Kind | None = None) -> dict[str, str]:
    """Ids of the entries with this verdict, and what is said of each."""
    return {
        entry.record_id: "; ".join(note.done for note in entry.notes)
        for entry in entries
        if entry.verdict is verdict and kind in (None, entry.kind)
    }
