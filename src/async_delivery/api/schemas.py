"""The shapes of bodies and answers, for the OpenAPI file. Answers are built in ``wire`` and never pass through here;
tests hold the two together. Requests are judged by the engine, which names every fault at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from async_delivery.domain.event import ActorType, EventType
from async_delivery.domain.job import JobStatus
from async_delivery.domain.notification import Channel, DeliveryStatus
from async_delivery.domain.result import ResultKind, View

Id = Annotated[str, Field(min_length=1, max_length=128)]
Links = dict[str, str]


class Shape(BaseModel):
    """An object that may grow: clients ignore members they do not know."""

    model_config = ConfigDict(extra="allow")


class Ok(Shape):
    """What every good answer has."""

    ok: Literal[True]
    request_id: str


class FieldIssue(Shape):
    """One fault of a request."""

    field: str
    issue: str


class Error(Shape):
    """What every refusal has: the service's envelope and RFC 9457 problem details in one."""

    ok: Literal[False]
    error: str
    code: str
    message: str
    details: list[FieldIssue]
    request_id: str
    type: str
    title: str
    status: int
    instance: str


class Health(Ok):
    """The process is up."""

    service: Literal["async-delivery"]
    version: str
    ts: datetime
    durability: str


class ReadyCheck(Shape):
    """One thing that must be well, or is only told (``required`` false)."""

    name: str
    ok: bool
    detail: str
    required: bool


class Ready(Shape):
    """Whether the process can do its work: every check that is required is ``ok``."""

    ok: bool
    role: Literal["server", "api", "worker"]
    checks: list[ReadyCheck]
    request_id: str


class OpsSignal(Shape):
    """One signal of the runbook, as it stands."""

    name: str
    value: float | None
    unit: str
    window_seconds: int | None
    level: Literal["ok", "warning", "critical", "no_data"]
    warning: float | None
    critical: float | None
    hint: str
    measured_at: datetime


class CleanupPause(Shape):
    """Cleanups are paused."""

    paused_at: datetime
    why: str
    by: str


class OpsSignals(Ok):
    """The five signals, one of which has two names."""

    signals: list[OpsSignal]
    cleanup_pause: CleanupPause | None


class Limits(Shape):
    """What one attempt may use."""

    timeout_seconds: float
    memory_bytes: int | None
    max_result_bytes: int
    max_attempts: int
    retry_base_seconds: float
    retry_cap_seconds: float
    executor: Literal["child", "ray"] = Field(description="Who runs the attempts.")
    resources: dict[str, float] = Field(description="With ray, what one attempt is given of the cluster.")
    runs_on: dict[str, str] = Field(description="Labels that a worker must have to take its jobs.")


class Analysis(Shape):
    """An entry of the catalogue."""

    name: str
    version: str
    title: str
    description: str
    params_schema: dict[str, Any] = Field(description="JSON Schema, draft 2020-12.")
    limits: Limits
    input: Literal["none", "optional", "required"]
    isolation: Literal["warm", "fresh"]
    available: bool
    unavailable_reason: str | None
    links: Links


class AnalysisList(Ok):
    """The catalogue."""

    analyses: list[Analysis]
    default_analysis: str


class AnalysisAnswer(Ok):
    """One analysis."""

    analysis: Analysis


class AsyncMode(Shape):
    """Whether to answer before the job has ended."""

    requested: bool = False


class Options(Shape):
    """How to carry a request out."""

    async_mode: AsyncMode | None = None
    priority: Literal["default", "expedite"] | None = None
    results_ttl_seconds: int | None = Field(None, ge=0, description="How long results are kept.")


class SubmitRequest(Shape):
    """What to run. With `Prefer: handling=strict` members that are not listed here are refused."""

    analysis: str | None = Field(
        None, description="Name from the catalogue; the server's default if left out."
    )
    query: str | None = Field(None, max_length=10_000, description="The subject in one string.")
    params: dict[str, Any] | None = Field(None, description="Valid against the analysis's params_schema.")
    timeout_seconds: float | None = Field(None, gt=0, description="Wall time of one attempt.")
    labels: dict[str, Annotated[str, Field(max_length=256)]] | None = Field(None, max_length=16)
    options: Options | None = None


class SubmitForm(Shape):
    """The same with a file."""

    request: SubmitRequest
    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]


class CancelRequest(Shape):
    """Why; may be left out with the whole body."""

    reason: str | None = Field(None, max_length=500)


class Job(Shape):
    """A job."""

    job_id: Id
    correlation_id: str
    analysis: str
    analysis_version: str
    status: JobStatus
    priority: Literal["default", "expedite"]
    progress_percent: float = Field(ge=0, le=100)
    stage: str | None
    message: str | None
    partial_count: int
    error_count: int
    attempt: int
    max_attempts: int
    result_id: Id | None
    error_code: str | None
    error_message: str | None
    retryable: bool | None
    retry_hint: Literal["retry_with_backoff", "check_input_and_retry"] | None
    created_at: datetime
    queued_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    cancel_requested_at: datetime | None
    canceled_at: datetime | None
    canceled_by: str | None
    cancel_reason: str | None
    retry_of: Id | None
    held: bool
    labels: dict[str, str]
    timeout_seconds: float
    results_ttl_seconds: int
    eta_seconds: float | None
    event_seq: int
    links: Links


class Event(Shape):
    """Something that happened to a job."""

    event_id: Id
    event_seq: int = Field(ge=1)
    event_type: EventType
    occurred_at: datetime
    actor_type: ActorType
    payload_json: dict[str, Any]


class JobWithEvents(Job):
    """A job with its events, 1,000 at most; `links.more_events` leads to the rest."""

    events: list[Event]


class JobList(Ok):
    """A page of jobs."""

    jobs: list[Job]
    next_cursor: str | None


class JobStatusAnswer(Ok):
    """Where a job stands."""

    correlation_id: str
    job: JobWithEvents


class JobAnswer(Ok):
    """A job after something was done to it."""

    correlation_id: str
    job: Job
    links: Links


class Accepted(JobAnswer):
    """A job that is durable and will be run."""

    accepted: Literal[True]


class EventPage(Ok):
    """A page of events."""

    events: list[Event]
    next_after: int | None


class LogEntry(Shape):
    """What one attempt printed, the last part of it."""

    attempt: int
    text: str


class LogList(Ok):
    """By attempt."""

    logs: list[LogEntry]


class Result(Shape):
    """A snapshot without its body."""

    result_id: Id
    result_kind: ResultKind
    result_seq: int
    attempt: int
    created_at: datetime
    expires_at: datetime
    bytes: int
    sha256: str
    links: Links


class ResultList(Ok):
    """Oldest first."""

    results: list[Result]


class Permalink(Shape):
    """A result. Equal answers are equal bytes, so the request's id is in its header only."""

    ok: Literal[True]
    result_id: Id
    job_id: Id
    correlation_id: str
    result_kind: ResultKind
    result_seq: int
    requested_result_id: Id
    requested_result_kind: ResultKind
    projection_mode: View
    is_final: bool
    created_at: datetime
    expires_at: datetime
    result: Any = Field(description="Exactly as the analysis gave it, as canonical JSON.")


class Notification(Shape):
    """What the tenant was told."""

    notification_id: Id
    job_id: Id
    channel: Channel
    template_key: str
    delivery_status: DeliveryStatus
    attempt_count: int
    last_error: str | None
    dedupe_key: str
    scheduled_at: datetime
    sent_at: datetime | None
    created_at: datetime
    payload_json: dict[str, Any]


class NotificationList(Ok):
    """Newest first."""

    notifications: list[Notification]
