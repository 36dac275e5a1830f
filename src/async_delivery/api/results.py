"""Reading results: the permalink, which sends stored bytes as they are, and the list of a job's snapshots.

The permalink is the most read route of all, so it stays outside the framework's machinery: a plain function from
a Call to an Answer, put ahead of the framework by ``plain``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson
from fastapi import Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Api, Here, job_ident, refuse_unknown, result_ident
from async_delivery.api.errors import JSON, NOSNIFF, Answer
from async_delivery.api.request import Call
from async_delivery.domain.errors import ResultExpiredError, ValidationError
from async_delivery.domain.job import ResultId
from async_delivery.domain.result import Projection, Result, View, intact, parse_view
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import results
from async_delivery.storage.contract import Reader

# Longer bodies are read on a thread and for themselves, so that one of them does not hold up everybody's status.
INLINE_BYTES = 1 << 20
# Longer bodies are sent in pieces, and shared by all who read them at the time.
SHARED_BYTES = 65_536
# How long a client may show a snapshot without asking again: no longer than a day, so that an erasure arrives.
_MAX_AGE_SECONDS = 86_400
_FORM = "1"  # to be changed when the answer's other members change, as a tag stands for all its bytes

VARY = (b"vary", b"X-Org-Id, X-Tenant-Id, Authorization")


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in every answer with one snapshot for one request, as snapshots never change.

    prefix    the body up to the result's own bytes
    headers   all but Cache-Control, which depends on the moment, and Content-Length
    """

    etag: bytes
    prefix: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Sending:
    """A body's one copy in memory, for as long as anybody is sent it."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store says of a permalink. ``body`` is None where it is not wanted, or too long to be read here."""

    resolved: Result
    head: Head
    body: Sending | None


async def permalink(api: Api, call: Call, result_id: str, query: bytes) -> Answer:
    """``GET /analyze/results/{result_id}``. Raises what becomes 400, 404 and 410."""
    # The view is judged before anything is looked up, so that it says nothing about the id.
    view = _view(call, query)
    tags = matched_tags(call)
    return await permalink_answer(api, call, result_ident(result_id), view, tags)


async def permalink_answer(
    api: Api, call: Call, result_id: ResultId, view: View, tags: frozenset[bytes]
) -> Answer:
    """The answer for ``result_id``; 304 if its tag is one of ``tags`` (``*`` stands for any)."""
    body_wanted = call.method != "HEAD"
    found = await api.read(lambda: _look(api, call, result_id, view, tags, body_wanted, INLINE_BYTES))
    head, resolved = found.head, found.resolved
    headers = [*head.headers, _caching(api, resolved, view)]
    if _matches(head.etag, tags):
        return Answer(304, headers)
    if found.body is None and body_wanted:
        # One at a time reads a long body: those who come meanwhile then share its copy.
        async with api.long_read(call.org_id, resolved.result_id):
            found = await api.run(lambda: _look(api, call, result_id, view, tags, True, None))
    size = len(head.prefix) + resolved.size_bytes + 1
    headers += (JSON, (b"content-length", b"%d" % size))
    if found.body is None:
        return Answer(200, headers)
    data = found.body.data
    if size > SHARED_BYTES:
        return Answer(200, headers, (head.prefix, data, b"}"), found.body)
    return Answer(200, headers, (head.prefix + data + b"}",))


def _view(call: Call, query: bytes) -> View:
    if not query:
        return View.LATEST
    if query == b"view=latest":  # what most clients send
        return View.LATEST
    try:
        asked = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise ValidationError.of("view", "too many query parameters") from None
    if call.prefer.strict:
        refuse_unknown(asked, ("view",))
    views = asked.get("view", [])
    if len(views) > 1:
        raise ValidationError.of("view", "must not be repeated")
    return parse_view(views[0] if views else None)


def matched_tags(call: Call) -> frozenset[bytes]:
    """The opaque tags of If-None-Match, quotes and all, compared weakly as RFC 9110 wants it here."""
    values = call.headers.get(b"if-none-match")
    if values is None:
        return frozenset()
    parts = b",".join(values).split(b",")
    return frozenset(part.strip().removeprefix(b"W/") for part in parts)


def _matches(etag: bytes, tags: frozenset[bytes]) -> bool:
    return bool(tags) and (etag in tags or b"*" in tags)


def _look(
    api: Api,
    call: Call,
    result_id: ResultId,
    view: View,
    tags: frozenset[bytes],
    body_wanted: bool,
    at_most: int | None,
) -> _Found:
    def look(reader: Reader) -> _Found:
        projection, correlation_id = results.resolve(api.rt, reader, call.org_id, result_id, view)
        resolved = projection.resolved
        call.correlated = correlation_id
        head = _head(api, projection, correlation_id)
        body = None
        if (
            body_wanted
            and not _matches(head.etag, tags)
            and (at_most is None or resolved.size_bytes <= at_most)
        ):
            body = _body(api, call.org_id, reader, resolved)
        return _Found(resolved, head, body)

    return api.rt.store.read(look)


def _body(api: Api, org_id: OrgId, reader: Reader, resolved: Result) -> Sending:
    key = (org_id, resolved.result_id)
    if (body := api.sending.get(key)) is not None:
        return body
    data = reader.find_body(org_id, resolved.result_id)
    if data is None:
        raise ResultExpiredError(resolved.expires_at)
    intact(resolved, data)
    body = Sending(data)
    if len(data) > SHARED_BYTES:
        api.sending[key] = body
    return body


def _head(api: Api, projection: Projection, correlation_id: str) -> Head:
    requested, resolved, view = projection.requested, projection.resolved, projection.view
    key = (requested.result_id, resolved.result_id, view)
    return api.heads.get(key) or api.heads.put(key, _new_head(requested, resolved, view, correlation_id))


def _new_head(requested: Result, resolved: Result, view: View, correlation_id: str) -> Head:
    # A strong tag: everything the answer's bytes depend on is in it.
    tag = f'"{_FORM}.{resolved.sha256[:32]}.{resolved.result_id}.{requested.result_id}.{view}"'
    document = orjson.dumps(
        {
            "ok": True,
            "result_id": resolved.result_id,
            "job_id": resolved.job_id,
            "correlation_id": correlation_id,
            "result_kind": resolved.result_kind.value,
            "result_seq": resolved.result_seq,
            "requested_result_id": requested.result_id,
            "requested_result_kind": requested.result_kind.value,
            "projection_mode": view.value,
            "is_final": resolved.is_final,
            "created_at": wire.instant(resolved.created_at),
            "expires_at": wire.instant(resolved.expires_at),
        }
    )
    headers = (
        (b"etag", tag.encode()),
        (b"content-location", b"/analyze/results/%s" % resolved.result_id.encode()),
        (b"sunset", wire.http_date(resolved.expires_at)),
        VARY,
        NOSNIFF,
    )
    return Head(tag.encode(), document[:-1] + b',"result":', headers)


def _caching(api: Api, resolved: Result, view: View) -> tuple[bytes, bytes]:
    if not resolved.is_final and view is View.LATEST:
        return b"cache-control", b"private, no-cache"
    left = int((resolved.expires_at - api.rt.clock.now()).total_seconds())
    return b"cache-control", b"private, max-age=%d, immutable" % max(0, min(left, _MAX_AGE_SECONDS))


async def list_results(request: Request, job_id: str) -> Response:
    """The job's snapshots that can still be read, oldest first, without their bodies."""
    here = Here(request)
    found = await here.read(lambda: results.list_results(here.api.rt, here.call.org_id, job_ident(job_id)))
    content: dict[str, Any] = {"results": [wire.result_object(one) for one in found]}
    return here.json(content)
