"""The OpenAPI file: made by the framework from the table of routes, with what only this house knows added.

Parameters that the edge reads for all routes (tenant, request id, preferences), bodies that are read by hand, and
the error codes, so that a client generated from the file meets nothing it was not told of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from async_delivery.api import schemas
from async_delivery.api.errors import KINDS

TITLE = "Async Delivery"
DESCRIPTION = (
    "Runs long analyses in the background and delivers their results. Submit with `POST /analyze`, follow the job "
    "under `/analyze/jobs/{job_id}`, read its result under `/analyze/results/{result_id}`."
)
# What any route of a tenant may answer with.
SHARED_CODES = ("bad_request", "forbidden", "rate_limited", "internal", "unavailable")

_REF = "#/components/schemas/{model}"
_ORG = {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"}


def _header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_REQUEST_ID = _header(
    "X-Request-Id",
    {"type": "string"},
    "Taken over if it is 1 to 128 visible ASCII characters, else made; in every answer and log line.",
)
_TENANT = (
    _header("X-Org-Id", _ORG, "The tenant; `default-org` without it."),
    _header("X-Tenant-Id", _ORG, "Alias of X-Org-Id; if both are sent they must be the same."),
)
_SUBMIT = (
    _header("Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": 255}, "Kept for 24 hours."),
    _header("X-Correlation-Id", {"type": "string"}, "Joins the job to the caller's logs."),
    _header("traceparent", {"type": "string"}, "W3C trace context."),
)
_IF_NONE_MATCH = _header("If-None-Match", {"type": "string"}, "Tags the client has; answered with 304.")
_STRICT = "`handling=strict` refuses unknown query parameters and members."
_PREFER = {
    "POST /analyze": f"`respond-async`; `wait=N` holds the answer for up to N seconds; {_STRICT}",
    "GET /analyze/jobs/{job_id}": f"`wait=N` holds the answer until the job changes; {_STRICT}",
}


def described(
    method: str,
    path: str,
    answers: Mapping[int, type[BaseModel] | None],
    codes: Sequence[str],
    *,
    is_open: bool,
) -> dict[str, Any]:
    """What the framework is told of a route beyond its function."""
    parameters = [_REQUEST_ID]
    if not is_open:
        parameters += _TENANT
        parameters.append(_header("Prefer", {"type": "string"}, _PREFER.get(f"{method} {path}", _STRICT)))
    if 304 in answers:
        parameters.append(_IF_NONE_MATCH)
    extra: dict[str, Any] = {"parameters": parameters}
    if path == "/analyze/results/{result_id}":
        extra["parameters"] += [
            {
                "name": "view",
                "in": "query",
                "required": False,
                "schema": {"enum": ["latest", "requested"], "default": "latest"},
                "description": "The job's newest snapshot, or exactly the one named.",
            }
        ]
    if path == "/analyze/jobs":
        extra["parameters"] += [
            {
                "name": "label.KEY",
                "in": "query",
                "required": False,
                "schema": {"type": "string"},
                "description": "Only jobs whose label KEY (any label's name in its place) has this value.",
            }
        ]
    if (method, path) == ("POST", "/analyze"):
        extra["parameters"] += _SUBMIT
    extra |= _body(method, path)
    responses = _responses(answers, codes, is_open)
    if path == "/metrics":
        responses[200]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "responses": responses,
        "status_code": min(answers),
        "openapi_extra": extra,
        "tags": [_tag(path)],
    }


def _tag(path: str) -> str:
    if path.startswith("/analyze/results"):
        return "results"
    return "jobs" if path.startswith("/analyze") else "service"


def _body(method: str, path: str) -> dict[str, Any]:
    if (method, path) == ("POST", "/analyze"):
        content = {
            "application/json": {"schema": {"$ref": _REF.format(model="SubmitRequest")}},
            "multipart/form-data": {
                "schema": {"$ref": _REF.format(model="SubmitForm")},
                "encoding": {"request": {"contentType": "application/json"}},
            },
        }
        return {"requestBody": {"required": True, "content": content}}
    if path.endswith("/cancel"):
        content = {"application/json": {"schema": {"$ref": _REF.format(model="CancelRequest")}}}
        return {"requestBody": {"required": False, "content": content}}
    return {}


def _responses(
    answers: Mapping[int, type[BaseModel] | None], codes: Sequence[str], is_open: bool
) -> dict[int | str, dict[str, Any]]:
    headers = {"X-Request-Id": {"schema": {"type": "string"}, "description": "The id of this request."}}
    found: dict[int | str, dict[str, Any]] = {}
    for status, shape in answers.items():
        found[status] = {"description": _GOOD[status], "headers": headers}
        if shape is not None:
            found[status]["model"] = shape
    for code in ("internal",) if is_open else (*codes, *SHARED_CODES):
        found[KINDS[code].status] = {
            "description": f"`{code}`: {KINDS[code].title}",
            "headers": headers,
            "content": {
                media: {"schema": {"$ref": _REF.format(model="Error")}}
                for media in ("application/json", "application/problem+json")
            },
        }
    return found


_GOOD = {
    200: "Done",
    202: "Accepted; the work goes on",
    204: "Gone",
    304: "What the client has is current",
    503: "Not ready; the checks say why",
}


def install(app: FastAPI) -> None:
    """Let ``app`` serve the finished file under /openapi.json; it is made once, when it is first asked for."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _finished(made())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _finished(document: dict[str, Any]) -> dict[str, Any]:
    by_hand: list[type[BaseModel]] = [
        schemas.Error,
        schemas.SubmitRequest,
        schemas.SubmitForm,
        schemas.CancelRequest,
    ]
    _, definitions = models_json_schema([(model, "validation") for model in by_hand], ref_template=_REF)
    components = document.setdefault("components", {}).setdefault("schemas", {})
    components.update(definitions["$defs"])
    # The framework's own words for a fault in a parameter; here that is 400 and the one error body.
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422")
            if answer and "HTTPValidationError" in str(answer):
                del operation["responses"]["422"]
    return document
