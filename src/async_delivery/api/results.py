"""Reading results: the permalink, which sends stored bytes as they are, and the list of a job's snapshots.

The permalink is the most read route of all, so it stays outside the framework's machinery: plain functions
from a Call to an Answer, which ``at_once`` and ``plain`` call ahead of the framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

import orjson
from fastapi import Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.answer import JSON, NOSNIFF, Answer, header_block
from async_delivery.api.context import Api, Here, job_ident, refuse_unknown, result_ident
from async_delivery.api.request import Call
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.job import ResultId
from async_delivery.domain.result import Result, View, parse_view
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import results

# Longer bodies are read on a thread and for themselves, so that one of them does not hold up everybody's status.
INLINE_BYTES = 1 << 20
# Longer bodies are sent in pieces, and shared by all who read them at the time.
SHARED_BYTES = 65_536
# How long a client may show a snapshot without asking again: no longer than a day, so that an erasure arrives.
_MAX_AGE = timedelta(days=1)
_FORM = "1"  # to be changed when the answer's other members change, as a tag stands for all its bytes

_SHORT_TAGS, _KEPT_TAGS = 256, 2_000
_NO_TAGS: frozenset[bytes] = frozenset()
VARY = (b"vary", b"X-Org-Id, X-Tenant-Id, Authorization")


# A query string that names a view and nothing else.
VIEWS = {b"": View.LATEST, b"view=latest": View.LATEST, b"view=requested": View.REQUESTED}


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in every answer with one snapshot for one request, as snapshots never change.

    prefix   the body up to the result's own bytes
    bare     the headers but for Cache-Control, which depends on the moment
    block    the same with the body's type, for an answer that has one
    """

    etag: bytes
    prefix: bytes
    bare: bytes
    block: bytes


# The tenant, the snapshot that was asked for, and whether the newest is to answer for it.
PageKey = tuple[OrgId, ResultId, bool]


@dataclass(slots=True, eq=False)
class Page:
    """The answers of a permalink under one view, made when they are first wanted.

    version   the store's content that they are of (see ``Store.version``)
    until     from then on they are others although nothing has been committed
    caching   the line of Cache-Control
    whole     the answer with its body, if that has been read and is short
    """

    version: bytes | None
    until: datetime
    correlation_id: str
    head: Head
    caching: bytes
    not_modified: Answer | None = None
    whole: Answer | None = None


class Sending:
    """A body's one copy in memory, for as long as anybody is sent it."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


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
    answer = await api.read(lambda: short_answer(api, call, result_id, view, tags))
    if isinstance(answer, Answer):
        return answer
    # One at a time reads a long body: those who come meanwhile then share its copy.
    async with api.long_read(call.org_id, answer.result_id):
        return await api.run(lambda: _long_answer(api, call, result_id, view))


def short_answer(
    api: Api, call: Call, result_id: ResultId, view: View, tags: frozenset[bytes]
) -> Answer | Result:
    """The answer, where it can be had at once; else the snapshot whose body is too long for that."""
    # Asked for before anything is read: a commit from here on is one that the next request sees.
    version = api.rt.store.version()
    # True and False stand for the views, as the hash of an enumeration's member is a call.
    key = (call.org_id, result_id, view is View.LATEST)
    page = api.pages.get(key)
    if page is not None and page.version == version and api.rt.clock.now() < page.until:
        call.correlated = page.correlation_id
        if is_current(page.head.etag, tags):
            return _not_modified(page)
        if page.whole is not None and call.method != "HEAD":
            return page.whole
    return _asked(api, call, result_id, view, tags, key, version)


def _asked(
    api: Api,
    call: Call,
    result_id: ResultId,
    view: View,
    tags: frozenset[bytes],
    key: PageKey,
    version: bytes | None,
) -> Answer | Result:
    # Who has a tag has most likely the body too; so has who shares the copy of a long one.
    at_most = -1 if tags or call.method == "HEAD" else SHARED_BYTES
    found = results.permalink(api.rt, call.org_id, result_id, view, at_most)
    call.correlated = found.correlation_id
    page, resolved = _page(api, found, version), found.projection.resolved
    head = page.head
    if is_current(head.etag, tags):
        if version is not None:
            api.pages.put(key, page)
        return _not_modified(page)
    size = len(head.prefix) + resolved.size_bytes + 1
    block = _block_with_length(page, size)
    if call.method == "HEAD":
        return Answer(200, [], block=block)
    if found.body is not None:
        answer = page.whole = Answer(200, [], (head.prefix + found.body + b"}",), block=block)
        if version is not None:
            api.pages.put(key, page, size)
        return answer
    sending = api.sending.get((call.org_id, resolved.result_id))
    if sending is not None:
        return Answer(200, [], (head.prefix, sending.data, b"}"), sending, block)
    if resolved.size_bytes > INLINE_BYTES:
        return resolved
    return _answer_with_body(api, call, result_id, view)


def _page(api: Api, found: results.Permalink, version: bytes | None) -> Page:
    resolved, view = found.projection.resolved, found.projection.view
    until = resolved.expires_at
    caching = b"cache-control: private, no-cache\r\n"
    if view is View.REQUESTED or resolved.is_final:
        left = until - api.rt.clock.now()
        age = _MAX_AGE if left >= _MAX_AGE else timedelta(seconds=max(0, int(left.total_seconds())))
        caching = b"cache-control: private, max-age=%d, immutable\r\n" % age.total_seconds()
        until -= age
    return Page(version, until, found.correlation_id, _head(api, found), caching)


def _not_modified(page: Page) -> Answer:
    if page.not_modified is None:
        page.not_modified = Answer(304, [], block=page.head.bare + page.caching)
    return page.not_modified


def _block_with_length(page: Page, size: int) -> bytes:
    return b"%s%scontent-length: %d\r\n" % (page.head.block, page.caching, size)


def _long_answer(api: Api, call: Call, result_id: ResultId, view: View) -> Answer:
    answer = short_answer(api, call, result_id, view, frozenset())
    return answer if isinstance(answer, Answer) else _answer_with_body(api, call, result_id, view)


def _answer_with_body(api: Api, call: Call, result_id: ResultId, view: View) -> Answer:
    found = results.permalink(api.rt, call.org_id, result_id, view)
    page, body = _page(api, found, None), found.body or b""
    prefix = page.head.prefix
    block = _block_with_length(page, len(prefix) + len(body) + 1)
    if len(body) <= SHARED_BYTES:
        return Answer(200, [], (prefix + body + b"}",), block=block)
    sending = api.sending[call.org_id, found.projection.resolved.result_id] = Sending(body)
    return Answer(200, [], (prefix, body, b"}"), sending, block)


def _view(call: Call, query: bytes) -> View:
    if (plain := VIEWS.get(query)) is not None:  # what most clients send
        return plain
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
        return _NO_TAGS
    if len(values) == 1 and len(values[0]) <= _SHORT_TAGS:
        return _tags_in(values[0])
    return _parsed_tags(b",".join(values))


def _parsed_tags(value: bytes) -> frozenset[bytes]:
    return frozenset([part.strip().removeprefix(b"W/") for part in value.split(b",")])


# Who polls sends the same tag again and again.
_tags_in = lru_cache(_KEPT_TAGS)(_parsed_tags)


def is_current(tag: bytes, tags: frozenset[bytes]) -> bool:
    """True if the client has what ``tag`` stands for: it is one of ``tags``, or ``*`` is."""
    return bool(tags) and (tag in tags or b"*" in tags)


def _head(api: Api, found: results.Permalink) -> Head:
    requested, resolved, view = found.projection.requested, found.projection.resolved, found.projection.view
    key = (requested.result_id, resolved.result_id, view is View.LATEST)
    return api.heads.get(key) or api.heads.put(
        key, _new_head(requested, resolved, view, found.correlation_id)
    )


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
    bare = header_block(
        (
            (b"etag", tag.encode()),
            (b"content-location", b"/analyze/results/%s" % resolved.result_id.encode()),
            (b"sunset", wire.http_date(resolved.expires_at)),
            VARY,
            NOSNIFF,
        )
    )
    return Head(tag.encode(), document[:-1] + b',"result":', bare, bare + header_block((JSON,)))


async def list_results(request: Request, job_id: str) -> Response:
    """The job's snapshots that can still be read, oldest first, without their bodies."""
    here = Here(request)
    found = await here.read(lambda: results.list_results(here.api.rt, here.call.org_id, job_ident(job_id)))
    content: dict[str, Any] = {"results": [wire.result_object(one) for one in found]}
    return here.json(content)
