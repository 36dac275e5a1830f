"""Answers that need no waiting, written while the request is parsed: the permalink and a job's status.

Of the time such an answer takes, the larger part would be the task, the messages and the checks of headers that lie
between a server and an application. They are for answers that may wait or be long; where all is at hand, the
protocol asks here first. What is answered is the same to the byte: the same functions say it, and whatever is not
plain goes the long way through ``edge``.
"""

from __future__ import annotations

import re

from async_delivery.api import results, status
from async_delivery.api.answer import Answer
from async_delivery.api.context import IDENT, Api
from async_delivery.api.errors import error_answer
from async_delivery.api.gate import admit, tell
from async_delivery.api.plain import JOB_ROUTE, JOBS, RESULT_ROUTE, RESULTS
from async_delivery.api.request import Call, Scope
from async_delivery.domain.job import JobId, ResultId

_END = r"\Z"
# A path with a plain id and whatever query; anything else is for the long way.
_TARGET = re.compile(
    rf"(({RESULTS}|{JOBS})({IDENT.pattern.removesuffix(_END)}))(?:\?(.*))?\Z".encode(), re.DOTALL
)
_RESULTS = RESULTS.encode()


class AtOnce:
    """Built once with the app."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def answer(self, target: bytes, scope: Scope) -> tuple[int, bytes] | None:
        """The status, and the answer behind the server's own headers; None for a request that goes the long way,
        with ``scope["call"]`` where it has been let in already.

        The request is a GET without a body. ``scope`` has its ``headers`` and ``client``.
        """
        api = self._api
        if not api.rt.store.inline_reads:
            return None
        found = _TARGET.match(target)
        if found is None:
            return None
        path, folder, ident, query = found.groups(b"")
        route = RESULT_ROUTE if folder == _RESULTS else JOB_ROUTE
        scope["raw_path"], scope["method"] = path, "GET"
        call = Call(scope, api.rt.new_id)
        if b"prefer" in call.headers:
            return None
        try:
            admit(api, call, scope["client"])
            scope["call"] = call
            answer = self._serve(route, call, ident.decode("ascii"), query)
            if answer is None:
                return None
        except Exception as exc:  # noqa: BLE001  the last net, as in ``edge``
            answer = error_answer(exc, call)
        written = write(answer, call)
        tell(call, route, answer.status, sum(map(len, answer.body)))
        return answer.status, written

    def _serve(self, route: str, call: Call, ident: str, query: bytes) -> Answer | None:
        if route == JOB_ROUTE:
            return status.status_answer(self._api, call, JobId(ident), results.matched_tags(call), [])
        view = results.VIEWS.get(query)
        if view is None:
            return None
        found = results.short_answer(self._api, call, ResultId(ident), view, results.matched_tags(call))
        return found if isinstance(found, Answer) else None


def write(answer: Answer, call: Call) -> bytes:
    """The answer's headers, its request id, and its body, as they go over the wire."""
    block = answer.block
    for name, value in answer.headers:
        block += b"%s: %s\r\n" % (name, value)
    return b"".join((block, b"x-request-id: ", call.request_id.encode("ascii"), b"\r\n\r\n", *answer.body))
