"""Waiting for a job on behalf of a client: woken by the store's signals, checked against the store.

A signal is a hint only, so what is waited for is looked at again by itself as well, within RECHECK_SECONDS; what is
found there counts. So a change that another process made is seen within that time, whatever became of its signal.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from async_delivery.api.errors import ClientGoneError
from async_delivery.api.request import Receive, client_gone
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.job import Job, JobId
from async_delivery.storage.contract import Signal, Store

RECHECK_SECONDS = 1.0
# Where one question serves all who wait, each still asks for itself now and then.
_OWN_RECHECK_SECONDS = 15.0
_JOBS_PER_QUESTION = 1_000

Ask = Callable[[Callable[[], Mapping[JobId, int]]], Awaitable[Mapping[JobId, int]]]


Heeds = Callable[[Signal], bool]


class _Waiter:
    """One held answer. Its bell is rung from threads of the store, for the signals that it ``heeds``."""

    def __init__(self, heeds: Heeds) -> None:
        self.heeds = heeds
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self.seen = 0  # the newest event that it knows of

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
    """Who waits for which job, in this process.

    ask   runs a question to the store on a thread

    Where reads are done by the event loop itself, each waiter looks for itself. Where each is a trip over the
    network, one question a second looks for all of them.
    """

    def __init__(self, store: Store, draining: Callable[[], bool], ask: Ask) -> None:
        self._waiters: defaultdict[JobId, list[_Waiter]] = defaultdict(list)
        self._store, self._draining, self._ask = store, draining, ask
        self._recheck_seconds = RECHECK_SECONDS if store.inline_reads else _OWN_RECHECK_SECONDS
        self._looking: asyncio.Task[None] | None = None
        self.close = store.subscribe(self._heard)

    def _heard(self, signal: Signal) -> None:
        # On a thread of the store: most jobs have nobody waiting, and end here.
        for waiter in tuple(self._waiters.get(signal.job_id, ())):
            if waiter.heeds(signal):
                waiter.ring()

    @contextmanager
    def _listening(self, job_id: JobId, heeds: Heeds) -> Iterator[_Waiter]:
        waiter = _Waiter(heeds)
        self._waiters[job_id].append(waiter)
        if not self._store.inline_reads and self._looking is None:
            self._looking = asyncio.create_task(self._look_for_all())
        try:
            yield waiter
        finally:
            self._waiters[job_id].remove(waiter)
            if not self._waiters[job_id]:
                del self._waiters[job_id]

    async def _look_for_all(self) -> None:
        """Every RECHECK_SECONDS, as long as anybody waits: wake those whose job has moved, or is gone."""
        try:
            while self._waiters:
                await asyncio.sleep(RECHECK_SECONDS)
                ids = list(self._waiters)
                for start in range(0, len(ids), _JOBS_PER_QUESTION):
                    await self._look_for(ids[start : start + _JOBS_PER_QUESTION])
        finally:
            self._looking = None

    async def _look_for(self, ids: list[JobId]) -> None:
        seqs: Mapping[JobId, int] = {}
        # Where it fails, each asks for itself and hears what is wrong; when the server drains, all are let go.
        if not self._draining():
            with suppress(AsyncDeliveryError):
                seqs = await self._ask(lambda: self._store.read(lambda reader: reader.event_seqs(ids)))
        for job_id in ids:
            for waiter in self._waiters.get(job_id, ()):
                if seqs.get(job_id) != waiter.seen:
                    waiter.ring()

    async def until(
        self,
        find: Callable[[], Awaitable[Job]],
        job_id: JobId,
        done: Callable[[Job], bool],
        seconds: float,
        receive: Receive,
        heeds: Heeds = lambda _: True,
    ) -> Job:
        """The job as soon as ``done`` says so, at the latest after ``seconds`` or when the server drains.

        After a signal that it does not heed the job is not looked at: ``done`` would say no.
        Raises ClientGoneError when the client leaves first, and what ``find`` raises.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        gone = asyncio.ensure_future(client_gone(receive))
        try:
            # Listen first, look then: a change in between rings the bell.
            with self._listening(job_id, heeds) as waiter:
                while True:
                    job = await find()
                    waiter.seen = job.event_seq
                    left = deadline - loop.time()
                    if done(job) or left <= 0 or self._draining():
                        return job
                    await waiter.rest(min(left, self._recheck_seconds), gone)
                    if gone.done():
                        raise ClientGoneError
        finally:
            gone.cancel()
