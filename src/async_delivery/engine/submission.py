"""From what a client asked to what can be accepted: every fault is found and named before anything is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from async_delivery.domain.analysis import AnalysisInfo, InputMode
from async_delivery.domain.canonical import canonical_json
from async_delivery.domain.errors import FieldIssue, NotSerializableError, ValidationError
from async_delivery.domain.job import Job, JobId, JobRequest, JobStatus, Priority
from async_delivery.domain.tenant import OrgId
from async_delivery.domain.text import REFUSAL, is_storable, storable
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import InputFile

MAX_LABELS = 16
MAX_LABEL_KEY = 64
MAX_LABEL_VALUE = 256
MAX_QUERY = 10_000
_PRIORITIES = {"default": Priority.DEFAULT, "expedite": Priority.EXPEDITE}


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it came over the wire, decoded but not yet believed.

    The fields of the body are whatever JSON held there: validation says what is wrong with them.
    input             the uploaded file, already kept in the store
    idempotency_key   1..255 characters, checked by the edge
    faults            what the edge found wrong with the request; it is refused with these and all others at once
    """

    analysis: Any = None
    query: Any = None
    params: Any = None
    timeout_seconds: Any = None
    labels: Any = None
    priority: Any = None
    results_ttl_seconds: Any = None
    input: InputFile | None = None
    idempotency_key: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    faults: tuple[FieldIssue, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a submission becomes when nothing is wrong with it."""

    job: Job
    request: JobRequest


@dataclass(slots=True)
class _Check:
    issues: list[FieldIssue] = field(default_factory=list)

    def fault(self, name: str, issue: str) -> None:
        self.issues.append(FieldIssue(name, issue))

    def storable(self, name: str, text: str | None) -> None:
        if text is not None and not is_storable(text):
            self.fault(name, REFUSAL)

    def number(self, name: str, value: Any, low: float, high: float, *, whole: bool = False) -> Any:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            self.fault(
                name, f"must be a {'whole ' if whole else ''}number of seconds from {low:g} to {high:g}"
            )
            return None
        return value


def accept(rt: Runtime, org_id: OrgId, asked: Submission) -> Accepted:
    """The job and request for ``asked``, not yet stored. Raises ValidationError listing every fault."""
    check = _Check(list(asked.faults))
    info = _analysis(rt, check, asked)
    query = _query(check, asked.query)
    labels = _labels(check, asked.labels)
    priority = _priority(check, asked.priority)
    timeout = _timeout(rt, check, asked.timeout_seconds, info)
    ttl = _ttl(rt, check, asked.results_ttl_seconds)
    params = _params(rt, check, asked.params, info)
    check.storable("Idempotency-Key", asked.idempotency_key)
    check.storable("X-Correlation-Id", asked.correlation_id)
    check.storable("traceparent", asked.traceparent)
    if info is not None:
        _input(check, info, asked.input)
    if check.issues or info is None:
        raise ValidationError.listing(check.issues)
    now = rt.clock.now()
    job_id = JobId(rt.new_id())
    job = Job(
        job_id=job_id,
        org_id=org_id,
        correlation_id=asked.correlation_id or job_id,
        analysis=info.name,
        analysis_version=storable(info.version),
        status=JobStatus.QUEUED,
        priority=priority,
        labels=labels,
        timeout_seconds=timeout,
        results_ttl_seconds=rt.policy.results_ttl_seconds if ttl is None else ttl,
        ttl_requested=ttl is not None,
        max_attempts=info.limits.max_attempts,
        submitted_at=now,
        queued_at=now,
        updated_at=now,
        traceparent=asked.traceparent,
    )
    wish = {
        "analysis": info.name,
        "query": query,
        "timeout_seconds": asked.timeout_seconds,
        "labels": dict(labels),
        "priority": int(priority),
        "results_ttl_seconds": ttl,
        "input": asked.input.sha256 if asked.input else None,
    }
    # The bytes of canonical_json, in a tenth of its time: what stands in here has been checked.
    wanted = orjson.dumps(wish, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(wanted + b"\n" + params).hexdigest()
    input_id = asked.input.input_id if asked.input else None
    return Accepted(job, JobRequest(query, params, digest, input_id))


def _analysis(rt: Runtime, check: _Check, asked: Submission) -> AnalysisInfo | None:
    wanted = rt.policy.default_analysis if asked.analysis is None else asked.analysis
    if not isinstance(wanted, str):
        check.fault("analysis", "must be a string")
        return None
    info = rt.catalogue.find(wanted)
    if info is None:
        check.fault("analysis", f"unknown; there are: {', '.join(rt.catalogue.names())}")
    elif not info.available:
        check.fault("analysis", f"{wanted} is not available here: {info.unavailable_reason}")
        return None
    return info


def _query(check: _Check, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_QUERY:
        check.fault("query", f"must be a string of at most {MAX_QUERY} characters")
        return None
    check.storable("query", value)
    return value


def _labels(check: _Check, value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        check.fault("labels", f"must be an object of at most {MAX_LABELS} strings")
        return {}
    for key, text in value.items():
        if not 0 < len(key) <= MAX_LABEL_KEY or not key.isprintable():
            check.fault("labels", f"a key must have 1 to {MAX_LABEL_KEY} printable characters")
        if not isinstance(text, str) or len(text) > MAX_LABEL_VALUE:
            check.fault(
                f"labels.{key[:MAX_LABEL_KEY]}", f"must be a string of at most {MAX_LABEL_VALUE} characters"
            )
        else:
            check.storable(f"labels.{storable(key[:MAX_LABEL_KEY])}", text)
    return value


def _priority(check: _Check, value: Any) -> Priority:
    if value is None:
        return Priority.DEFAULT
    if not isinstance(value, str) or value not in _PRIORITIES:
        check.fault("options.priority", "must be default or expedite")
        return Priority.DEFAULT
    return _PRIORITIES[value]


def _timeout(rt: Runtime, check: _Check, value: Any, info: AnalysisInfo | None) -> float:
    limit = info.limits.timeout_seconds if info else rt.policy.max_timeout_seconds
    longest = min(limit, rt.policy.max_timeout_seconds)
    if value is None:
        return longest
    return float(check.number("timeout_seconds", value, 0.001, longest) or longest)


def _ttl(rt: Runtime, check: _Check, value: Any) -> int | None:
    if value is None:
        return None
    limit = rt.policy.max_results_ttl_seconds
    kept: int | None = check.number("options.results_ttl_seconds", value, 0, limit, whole=True)
    return kept


def _params(rt: Runtime, check: _Check, value: Any, info: AnalysisInfo | None) -> bytes:
    params = {} if value is None else value
    if not isinstance(params, dict):
        check.fault("params", "must be an object")
        return b"{}"
    try:
        encoded = canonical_json(params)
    except NotSerializableError as exc:
        check.fault(f"params{exc.path[1:]}", exc.issue)
        return b"{}"
    if info is not None:
        check.issues.extend(rt.catalogue.issues(info.name, params))
    return encoded


def _input(check: _Check, info: AnalysisInfo, file: InputFile | None) -> None:
    if file is None and info.input is InputMode.REQUIRED:
        check.fault(
            "file", f"{info.name} needs a file: send multipart/form-data with the parts request and file"
        )
    if file is not None and info.input is InputMode.NONE:
        check.fault("file", f"{info.name} takes no file")
