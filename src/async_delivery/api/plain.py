"""The routes that are asked most, ahead of the framework's machinery: submit, a job's status and the permalink.

A request for one of them is recognised by its path and answered by a plain function; in the framework's own table
they stand as well, so that they are in the same OpenAPI file and behave the same when they are reached that way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request
from starlette.responses import Response

from async_delivery.api import results, status, submit
from async_delivery.api.answer import Answer
from async_delivery.api.context import Api, Here, respond
from async_delivery.api.request import Call, Receive, Scope, Send

SUBMIT = "/analyze"
JOBS = "/analyze/jobs/"
RESULTS = "/analyze/results/"
JOB_ROUTE, RESULT_ROUTE = f"{JOBS}{{job_id}}", f"{RESULTS}{{result_id}}"

# Larger pieces are handed to the server one after another, so that a slow reader costs one of them.
_SLICE_BYTES = 65_536

Plain = Callable[[Api, Call, Scope, Receive], Awaitable[Answer]]


def plain_route(method: str, path: str) -> tuple[str, Plain] | None:
    """The route's template and its function; None for the framework's routes."""
    if method == "POST":
        return (SUBMIT, _submit) if path == SUBMIT else None
    if method not in ("GET", "HEAD"):
        return None
    if path.startswith(RESULTS):
        if "/" not in path[len(RESULTS) :]:
            return RESULT_ROUTE, _permalink
    elif path.startswith(JOBS) and "/" not in path[len(JOBS) :]:
        return JOB_ROUTE, _job_status
    return None


async def _permalink(api: Api, call: Call, scope: Scope, receive: Receive) -> Answer:
    return await results.permalink(api, call, scope["path"][len(RESULTS) :], scope["query_string"])


async def _job_status(api: Api, call: Call, scope: Scope, receive: Receive) -> Answer:
    return await status.job_status(api, call, scope["path"][len(JOBS) :], scope["query_string"], receive)


async def _submit(api: Api, call: Call, scope: Scope, receive: Receive) -> Answer:
    return await submit.submit(api, call, scope["query_string"], receive)


async def submit_job(request: Request) -> Response:
    """An analysis to run. 202 once it is durable, or 200 with its result for those who wait."""
    return await _through(request, _submit)


async def permalink(request: Request, result_id: str) -> Response:
    """A result, by the id of any of its job's snapshots."""
    return await _through(request, _permalink)


async def job_status(request: Request, job_id: str) -> Response:
    """A job and what has happened to it. `Prefer: wait=N` holds the answer until the job changes."""
    return await _through(request, _job_status)


async def _through(request: Request, plain: Plain) -> Response:
    here = Here(request, free="")
    return respond(await plain(here.api, here.call, request.scope, here.receive))


async def send_answer(call: Call, answer: Answer, send: Send) -> None:
    """Send ``answer`` with the request's id. The server ends a connection whose client does not take it."""
    headers = [*answer.all_headers(), (b"x-request-id", call.request_id.encode("ascii"))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = answer.body
    if call.method == "HEAD" or not body:
        await send({"type": "http.response.body", "body": b""})
    elif len(body) == 1:
        await send({"type": "http.response.body", "body": body[0]})
    else:
        await _send_slowly(body, send)


async def _send_slowly(body: tuple[bytes, ...], send: Send) -> None:
    for piece in body:
        view = memoryview(piece)
        for start in range(0, len(view), _SLICE_BYTES):
            part = bytes(view[start : start + _SLICE_BYTES])
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
