"""Waiting for a job on behalf of a client: woken by the store's signals, checked against the store.

A signal is a hint only, so each wait also looks again by itself every RECHECK_SECONDS; what it finds there counts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from async_delivery.api.errors import ClientGoneError
from async_delivery.api.request import Receive, client_gone
from async_delivery.domain.job import Job, JobId
from async_delivery.storage.contract import Signal, Store

RECHECK_SECONDS = 1.0


class _Waiter:
    """One held answer. Its bell is rung from threads of the store."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()

    def ring(self) -> None:
        # The loop may have been closed since; then nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._bell.set)

    async def rest(self, seconds: float, gone: asyncio.Future[None]) -> None:
        """Until the bell rings, ``gone`` is done, or ``seconds`` have passed."""
        bell = asyncio.ensure_future(self._bell.wait())
        try:
            await asyncio.wait((bell, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            bell.cancel()
        self._bell.clear()


class Waits:
    """Who waits for which job, in this process."""

    def __init__(self, store: Store, draining: Callable[[], bool]) -> None:
        self._waiters: defaultdict[JobId, list[_Waiter]] = defaultdict(list)
        self._draining = draining
        self.close = store.subscribe(self._heard)

    def _heard(self, signal: Signal) -> None:
        # On a thread of the store: most jobs have nobody waiting, and end here.
        for waiter in tuple(self._waiters.get(signal.job_id, ())):
            waiter.ring()

    @contextmanager
    def _listening(self, job_id: JobId) -> Iterator[_Waiter]:
        waiter = _Waiter()
        self._waiters[job_id].append(waiter)
        try:
            yield waiter
        finally:
            self._waiters[job_id].remove(waiter)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    async def until(
        self,
        find: Callable[[], Awaitable[Job]],
        job_id: JobId,
        done: Callable[[Job], bool],
        seconds: float,
        receive: Receive,
    ) -> Job:
        """The job as soon as ``done`` says so, at the latest after ``seconds`` or when the server drains.

        Raises ClientGoneError when the client leaves first, and what ``find`` raises.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        gone = asyncio.ensure_future(client_gone(receive))
        try:
            # Listen first, look then: a change in between rings the bell.
            with self._listening(job_id) as waiter:
                while True:
                    job = await find()
                    left = deadline - loop.time()
                    if done(job) or left <= 0 or self._draining():
                        return job
                    await waiter.rest(min(left, RECHECK_SECONDS), gone)
                    if gone.done():
                        raise ClientGoneError
        finally:
            gone.cancel()
