"""What all routes share: the runtime, the settings, the quotas, the threads; and one request's view of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.responses import Response

from async_delivery.api.access import Peers
from async_delivery.api.answer import JSON, NO_STORE, NOSNIFF, Answer, Headers
from async_delivery.api.memo import Memo
from async_delivery.api.quotas import HeldAnswers, RequestRate
from async_delivery.api.request import Call, Receive
from async_delivery.api.waits import Waits
from async_delivery.domain.errors import (
    FieldIssue,
    NotFoundError,
    UnavailableError,
    ValidationError,
)
from async_delivery.domain.job import JobId, ResultId
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.estimates import Estimates
from async_delivery.engine.quota import QueueQuota
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.observer import Observer

if TYPE_CHECKING:
    from async_delivery.api.results import Head, Page, PageKey, Sending
    from async_delivery.api.status import Known, Written

T = TypeVar("T")

_THREADS = 16
_UPLOAD_THREADS = 32
_DRAIN_RETRY_SECONDS = 10
_MEMO_SIZE = 2_000
_MEMO_BYTES = 16_777_216
# Wider than the ids made here, as an older store that was converted kept its own.
IDENT = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What the operator decides about the edge. Sizes in bytes, spans in seconds.

    max_body_bytes        of a JSON body
    max_upload_bytes      of an uploaded file
    max_wait_seconds      longest time an answer is held for a job
    max_waits_per_tenant  answers of one tenant held at a time
    requests_per_second   per tenant; None means no limit
    trusted_proxies       networks whose tenant headers are believed; empty: any peer's (on loopback)
    version               what /health says
    role                  what /health/ready says: server, or api without workers
    """

    version: str
    role: str = "server"
    max_body_bytes: int = 1_048_576
    max_upload_bytes: int = 1_073_741_824
    max_wait_seconds: float = 60
    max_waits_per_tenant: int = 100
    requests_per_second: float | None = None
    trusted_proxies: tuple[str, ...] = ()


class Api:
    """Built once with the app."""

    def __init__(
        self,
        rt: Runtime,
        settings: ApiSettings,
        observer: Observer,
        draining: Callable[[], bool],
    ) -> None:
        """Raises ValueError for settings that make no sense."""
        self.rt = rt
        self.observer = observer
        self.settings = settings
        self.draining = draining
        self.peers = Peers(settings.trusted_proxies)
        self.rate = RequestRate(settings.requests_per_second) if settings.requests_per_second else None
        self.held = HeldAnswers(settings.max_waits_per_tenant)
        self.queue = QueueQuota(rt.policy.max_queued_per_tenant)
        self.estimates = Estimates(rt)
        self.waits = Waits(rt.store, draining, self.run)
        self.heads: Memo[tuple[ResultId, ResultId, bool], Head] = Memo(_MEMO_SIZE)
        self.pages: Memo[PageKey, Page] = Memo(_MEMO_SIZE, _MEMO_BYTES)
        self.known_jobs: Memo[tuple[OrgId, JobId], Known] = Memo(_MEMO_SIZE)
        self.written: Memo[JobId, Written] = Memo(_MEMO_SIZE, _MEMO_BYTES)
        # Long bodies that are being sent, by tenant and result: many who read one slowly share one copy.
        self.sending: WeakValueDictionary[tuple[OrgId, ResultId], Sending] = WeakValueDictionary()
        self._long_reads: WeakValueDictionary[tuple[OrgId, ResultId], asyncio.Lock] = WeakValueDictionary()
        # Idempotency keys whose first request is not yet committed.
        self.in_flight: set[tuple[str, str]] = set()
        self._threads = ThreadPoolExecutor(_THREADS, "api")
        self._uploads = ThreadPoolExecutor(_UPLOAD_THREADS, "api-upload")

    async def read(self, question: Callable[[], T]) -> T:
        """Ask the store: on the event loop where reads are that short, else on a thread."""
        if self.rt.store.inline_reads:
            return question()
        return await self.run(question)

    async def run(self, work: Callable[[], T]) -> T:
        """Do what blocks, on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def long_read(self, org_id: OrgId, result_id: ResultId) -> asyncio.Lock:
        """Held by the one who reads a long body. To be asked for on the event loop."""
        key = (org_id, result_id)
        lock = self._long_reads.get(key)
        if lock is None:
            lock = self._long_reads[key] = asyncio.Lock()
        return lock

    def upload(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Start what takes as long as a client takes to send a file."""
        return asyncio.get_running_loop().run_in_executor(self._uploads, work)

    def refuse_while_draining(self) -> None:
        """Raises UnavailableError once the server is about to stop: what is accepted now would only wait."""
        if self.draining():
            raise UnavailableError("the server is stopping and takes no new jobs", _DRAIN_RETRY_SECONDS)

    def close(self) -> None:
        """Let go of the store's signals and of the threads."""
        self.waits.close()
        self._threads.shutdown(wait=False)
        self._uploads.shutdown(wait=False)


def job_ident(text: str) -> JobId:
    """Raises NotFoundError for what cannot be an id: to a client there is no difference."""
    if not IDENT.match(text):
        raise NotFoundError("job")
    return JobId(text)


def result_ident(text: str) -> ResultId:
    """The same for results."""
    if not IDENT.match(text):
        raise NotFoundError("result")
    return ResultId(text)


def json_answer(status: int, content: dict[str, Any], headers: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """``content`` as compact JSON. Not to be stored by caches unless ``headers`` say otherwise."""
    body = orjson.dumps(content)
    found: Headers = [JSON, (b"content-length", b"%d" % len(body)), NOSNIFF, *headers]
    if not any(name == b"cache-control" for name, _ in found):
        found.append(NO_STORE)
    return Answer(status, found, (body,))


def refuse_unknown(names: Iterable[str], known: Iterable[str], free: str | None = None) -> None:
    """Raises ValidationError for query parameters that are not ``known`` and do not begin with ``free``."""
    unknown = sorted(set(names) - set(known))
    faults = [name for name in unknown if free is None or not name.startswith(free)]
    if faults:
        issue = "unknown query parameter"
        raise ValidationError(f"{faults[0][:64]}: {issue}", [FieldIssue(name[:64], issue) for name in faults])


def _refuse_repeated(sent: QueryParams, once: Iterable[str]) -> None:
    # Of two values one would be passed over in silence.
    twice = [FieldIssue(name, "must not be repeated") for name in sorted(once) if len(sent.getlist(name)) > 1]
    if twice:
        raise ValidationError.listing(twice)


class Here:
    """One request on a route of the framework."""

    __slots__ = ("api", "call", "receive", "request")

    def __init__(
        self, request: Request, *, free: str | None = None, repeatable: frozenset[str] = frozenset()
    ) -> None:
        """Raises ValidationError for a parameter of the route that is sent twice, and for unknown ones if the client
        wants them refused.

        free         parameters that begin so are the route's business
        repeatable   parameters that may have several values
        """
        self.request = request
        self.api: Api = request.app.state.api
        self.call: Call = request.scope["call"]
        self.receive: Receive = request.receive
        if not request.url.query:
            return
        route: APIRoute = request.scope["route"]
        known = {field.alias for field in route.dependant.query_params}
        _refuse_repeated(request.query_params, known - repeatable)
        if self.call.prefer.strict:
            refuse_unknown(request.query_params.keys(), known, free)

    async def read(self, question: Callable[[], T]) -> T:
        """Ask the store."""
        return await self.api.read(question)

    async def run(self, work: Callable[[], T]) -> T:
        """Do what blocks."""
        return await self.api.run(work)

    def answer(
        self, content: dict[str, Any], status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> Answer:
        """``{"ok": true, ..., "request_id": ...}``."""
        return json_answer(status, {"ok": True, **content, "request_id": self.call.request_id}, headers)

    def json(
        self, content: dict[str, Any], status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> Response:
        """The same, for the framework."""
        return respond(self.answer(content, status, headers))


def respond(answer: Answer) -> Response:
    """An Answer for the framework."""
    response = Response(b"".join(answer.body), answer.status)
    response.raw_headers = answer.all_headers()
    return response
