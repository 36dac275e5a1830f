"""What a worker without the API answers: health, readiness and metrics. Numbers only, and no tenant's data.

A small application of its own, so that a port that is open to a whole cluster cannot serve anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from async_delivery import telemetry
from async_delivery.api.answer import NO_STORE, Answer
from async_delivery.api.context import json_answer
from async_delivery.api.errors import MethodNotAllowedError, error_answer
from async_delivery.api.health import health_content
from async_delivery.api.ops import ready_content
from async_delivery.api.plain import send_answer
from async_delivery.api.request import Call, Receive, Scope, Send
from async_delivery.domain.errors import NotFoundError
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.metrics import CONTENT_TYPE
from async_delivery.ops.observer import Observer

ROUTES = (("/health", "GET"), ("/health/ready", "GET"), ("/metrics", "GET"))
ROLE = "worker"
_THREADS = 2


class Probes:
    """An ASGI application over the observer of a worker."""

    def __init__(self, rt: Runtime, observer: Observer, version: str) -> None:
        self._rt, self._observer, self._version = rt, observer, version
        self._threads = ThreadPoolExecutor(_THREADS, "probe")
        self._serve: dict[str, Callable[[Call], Awaitable[Answer]]] = {
            "/health": self._health,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request, or the life of the server around it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        call = Call(scope, self._rt.new_id)
        path = scope["path"]
        answer = await self._answer(call, path)
        try:
            await send_answer(call, answer, send)
        finally:
            ended = perf_counter()
            telemetry.emit(
                "http.answered",
                at=ended,
                route=path if path in self._serve else "",
                method=call.method,
                status=answer.status,
                seconds=ended - call.started,
                bytes=0 if call.method == "HEAD" else sum(map(len, answer.body)),
                request_id=call.request_id,
                correlation_id=None,
                org_id=call.org_id,
                job=None,
                traceparent=None,
            )

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        self._threads.shutdown(wait=False)
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, call: Call, path: str) -> Answer:
        try:
            serve = self._serve.get(path)
            if serve is None:
                raise NotFoundError("route")
            if call.method not in ("GET", "HEAD"):
                raise MethodNotAllowedError("GET, HEAD")
            return await serve(call)
        except Exception as exc:  # noqa: BLE001  the last net: whatever it was, the client gets an answer
            return error_answer(exc, call)

    async def _health(self, call: Call) -> Answer:
        content = health_content(self._rt, self._version)
        return json_answer(200, {"ok": True, **content, "request_id": call.request_id})

    async def _ready(self, call: Call) -> Answer:
        loop = asyncio.get_running_loop()
        status, content = await loop.run_in_executor(
            self._threads, lambda: ready_content(self._observer, ROLE)
        )
        return json_answer(status, {**content, "request_id": call.request_id})

    async def _metrics(self, call: Call) -> Answer:
        body = await asyncio.get_running_loop().run_in_executor(self._threads, self._observer.expose)
        headers = [
            (b"content-type", CONTENT_TYPE.encode("ascii")),
            (b"content-length", b"%d" % len(body)),
            NO_STORE,
        ]
        return Answer(200, headers, (body,))
