"""The HTTP application: the table of routes, and how it is put together. What a route does is in its own file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from async_delivery.api import (
    catalogue,
    docs,
    health,
    jobs,
    notifications,
    openapi,
    ops,
    plain,
    results,
    schemas,
)
from async_delivery.api.context import Api, ApiSettings, respond
from async_delivery.api.edge import CLIENT_GONE, Edge
from async_delivery.api.errors import ClientGoneError, error_answer
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.observer import Observer

__all__ = ["ROUTES", "ApiSettings", "Route", "create_app"]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    answers   status -> shape of the good answers; None for one without a body
    codes     the error codes it may answer with beyond those that all routes share
    open      everybody's, whatever tenant they name; the others belong to a tenant
    """

    method: str
    path: str
    serve: Callable[..., Any]
    answers: dict[int, type[BaseModel] | None]
    codes: str = ""
    open: bool = False


_JOB = "/analyze/jobs/{job_id}"
_s = schemas
# fmt: off
ROUTES = (
    Route("GET",    "/health",               health.health,            {200: _s.Health}, open=True),
    Route("GET",    "/health/ready",         ops.health_ready,         {200: _s.Ready, 503: _s.Ready}, open=True),
    Route("GET",    "/metrics",              ops.metrics,              {200: None}, open=True),
    Route("GET",    "/ops/signals",          ops.signals,              {200: _s.OpsSignals}, open=True),
    Route("GET",    "/analyses",             catalogue.list_analyses,  {200: _s.AnalysisList}),
    Route("GET",    "/analyses/{name}",      catalogue.show_analysis,  {200: _s.AnalysisAnswer}, "not_found"),
    Route("POST",   "/analyze",              plain.submit_job,         {200: _s.Permalink, 202: _s.Accepted},
          "conflict payload_too_large idempotency_key_reused job_failed result_expired unavailable"),
    Route("GET",    "/analyze/jobs",         jobs.list_jobs,           {200: _s.JobList}),
    Route("GET",    _JOB,                    plain.job_status,         {200: _s.JobStatusAnswer, 304: None},
          "not_found"),
    Route("DELETE", _JOB,                    jobs.erase_job,           {204: None}, "not_found conflict legal_hold"),
    Route("GET",    _JOB + "/events",        jobs.list_events,         {200: _s.EventPage}, "not_found not_acceptable"),
    Route("GET",    _JOB + "/results",       results.list_results,     {200: _s.ResultList}, "not_found"),
    Route("GET",    _JOB + "/notifications", notifications.list_notifications, {200: _s.NotificationList}, "not_found"),
    Route("GET",    _JOB + "/logs",          jobs.list_logs,           {200: _s.LogList}, "not_found"),
    Route("POST",   _JOB + "/cancel",        jobs.cancel_job,          {200: _s.JobAnswer, 202: _s.JobAnswer},
          "not_found payload_too_large"),
    Route("POST",   _JOB + "/retry",         jobs.retry_job,           {202: _s.Accepted},
          "not_found conflict unavailable"),
    Route("PUT",    _JOB + "/hold",          jobs.hold_job,            {200: _s.JobAnswer}, "not_found"),
    Route("DELETE", _JOB + "/hold",          jobs.lift_hold,           {200: _s.JobAnswer}, "not_found"),
    Route("GET",    "/analyze/results/{result_id}", plain.permalink,   {200: _s.Permalink, 304: None},
          "not_found result_expired"),
)
# fmt: on


def create_app(
    rt: Runtime,
    settings: ApiSettings,
    observer: Observer,
    *,
    draining: Callable[[], bool] = lambda: False,
) -> Edge:
    """The application over ``rt``. Raises ValueError for settings that make no sense.

    draining   True once the server is about to stop: new jobs are refused then, reads go on
    observer   answers /metrics, /ops/signals and /health/ready
    """
    api = Api(rt, settings, observer, draining)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        api.close()

    app = FastAPI(
        title=openapi.TITLE,
        version=settings.version,
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.api = api
    app.state.static = docs.load_static()
    for route in ROUTES:
        app.add_api_route(
            route.path,
            route.serve,
            methods=[route.method],
            response_model=None,
            name=route.serve.__name__,
            **openapi.described(
                route.method, route.path, route.answers, route.codes.split(), is_open=route.open
            ),
        )
    app.add_api_route("/docs", docs.docs_page, include_in_schema=False, response_model=None)
    app.add_api_route("/docs/static/{name}", docs.static_file, include_in_schema=False, response_model=None)
    openapi.install(app)
    paths = [(route.path, (route.method,)) for route in ROUTES]
    paths += [(path, ("GET",)) for path in ("/docs", "/docs/static/{name}", "/openapi.json")]
    open_paths = frozenset({"/docs", "/openapi.json", *(route.path for route in ROUTES if route.open)})
    edge = Edge(api, app, paths, open_paths)

    async def on_error(request: Request, exc: Exception) -> Response:
        if isinstance(exc, HTTPException) and exc.status_code == 405:
            exc = edge.method_not_allowed(request.scope["path"])
        return respond(error_answer(exc, request.scope["call"]))

    async def on_gone(request: Request, exc: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    app.add_exception_handler(ClientGoneError, on_gone)
    for kind in (AsyncDeliveryError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    return edge
