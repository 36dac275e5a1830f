"""A submit that has come whole and whose client does not wait: entered while it is parsed, answered after the commit.

Between a server and an application lie a task, messages and timers, which take longer than all that is done for such
a request. What is answered is the same to the byte as by the long way through ``edge`` and ``submit``, which is for
everything that is not plain: forms, long bodies, bodies in pieces, answers that are held back, and queries in the
target.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from async_delivery.api.answer import Answer
from async_delivery.api.at_once import write
from async_delivery.api.context import Api
from async_delivery.api.decode import decode_object
from async_delivery.api.errors import error_answer
from async_delivery.api.gate import admit, tell
from async_delivery.api.landings import Landings
from async_delivery.api.plain import SUBMIT
from async_delivery.api.request import Call, Scope
from async_delivery.api.submission import (
    Wish,
    accepted_answer,
    enter,
    keyed,
    media_type,
    note,
    wish_of,
)
from async_delivery.api.submit import INLINE_BYTES
from async_delivery.domain.errors import ConflictError, IdempotencyInFlightError, ValidationError
from async_delivery.engine.jobs import Submitted

# Hears the status, and the answer behind the server's own headers.
Answered = Callable[[int, bytes], None]


class _Entered(NamedTuple):
    """A request whose job is on its way to the store."""

    call: Call
    key: str | None
    wish: Wish
    answered: Answered


class SubmitAtOnce:
    """Built once with the app.

    target       of the requests that may be handed over here
    max_bytes    of their bodies
    """

    target = SUBMIT.encode()

    def __init__(self, api: Api) -> None:
        self._api = api
        self.max_bytes = min(INLINE_BYTES, api.settings.max_body_bytes)
        self._landings: Landings | None = None
        self._reading: set[asyncio.Task[None]] = set()

    def begin(self, scope: Scope, body: bytes, answered: Answered) -> bool:
        """Enter what ``body`` asks for. ``answered`` is called once, here or later on the event loop.

        False for a request that goes the long way: it has not been entered, and ``scope["call"]`` is there where it
        has been let in already. The request is a POST without a query; ``scope`` has its ``headers`` and ``client``.
        """
        api = self._api
        scope["raw_path"], scope["path"], scope["method"] = self.target, SUBMIT, "POST"
        call = Call(scope, api.rt.new_id)
        try:
            admit(api, call, scope["client"])
            scope["call"] = call
            api.refuse_while_draining()
            found = self._enter(call, body)
        except Exception as exc:  # noqa: BLE001  the last net, as in ``edge``
            _send(call, error_answer(exc, call), answered)
            return True
        if found is None:
            return False
        future, key, wish = found
        if key is not None:
            api.in_flight.add((call.org_id, key))
        entered = _Entered(call, key, wish, answered)
        self._landed_on_loop().expect(future, lambda done: self._landed(entered, done))
        return True

    def _enter(self, call: Call, body: bytes) -> tuple[Future[Submitted], str | None, Wish] | None:
        """None if the body is no plain JSON, or the answer is to be held back."""
        own = keyed(self._api, call)
        try:
            if media_type(call) != "application/json" or b"content-encoding" in call.headers:
                return None
            document = decode_object(body)
            wish = wish_of(self._api, call, document)
            if wish.wait_seconds is not None:
                return None
            return enter(self._api, call, own, document), own.key, wish
        except ValidationError as exc:
            raise own.with_unsaid(exc) from None

    def _landed_on_loop(self) -> Landings:
        loop = asyncio.get_running_loop()
        if self._landings is None or self._landings.loop is not loop:
            self._landings = Landings(loop)
        return self._landings

    def _landed(self, entered: _Entered, future: Future[Submitted]) -> None:
        api, call = self._api, entered.call
        if entered.key is not None:
            api.in_flight.discard((call.org_id, entered.key))
        if not future.cancelled() and future.exception() is None:
            job = future.result().job
            if not (api.rt.store.inline_reads or job.status.terminal or api.estimates.is_fresh(job.analysis)):
                # What is said of the time left takes a trip to the store, every few seconds.
                task = asyncio.ensure_future(self._answer_later(entered, future))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)
                return
        _send(call, self._answer(entered, future), entered.answered)

    async def _answer_later(self, entered: _Entered, future: Future[Submitted]) -> None:
        answer = await self._api.run(lambda: self._answer(entered, future))
        _send(entered.call, answer, entered.answered)

    def _answer(self, entered: _Entered, future: Future[Submitted]) -> Answer:
        call = entered.call
        try:
            submitted = future.result()
            note(call, submitted, entered.wish)
            return accepted_answer(self._api, call, submitted.job, entered.wish.applied)
        except ConflictError as exc:
            return error_answer(exc if entered.key is None else IdempotencyInFlightError(), call)
        except Exception as exc:  # noqa: BLE001  the last net, as in ``edge``
            return error_answer(exc, call)


def _send(call: Call, answer: Answer, answered: Answered) -> None:
    answered(answer.status, write(answer, call))
    tell(call, SUBMIT, answer.status, sum(map(len, answer.body)))
