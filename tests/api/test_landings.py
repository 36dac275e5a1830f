"""Those who wait for the same commit are woken together, and each hears of its own end."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from async_delivery.api.landings import Landings


def test_one_that_fails_to_hear_of_its_end_leaves_nobody_behind_it_waiting() -> None:
    async def work() -> tuple[list[int], list[str]]:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        loop.set_exception_handler(lambda _loop, context: told.append(repr(context["exception"])))
        landings, heard = Landings(loop), list[int]()
        futures: list[Future[Any]] = [Future() for _ in range(3)]

        def landed(future: Future[Any]) -> None:
            if future is futures[0]:
                raise RuntimeError("no answer")
            heard.append(future.result())

        for future in futures:
            landings.expect(future, landed)

        def commit() -> None:
            for number, future in enumerate(futures):
                future.set_result(number)

        await asyncio.to_thread(commit)
        async with asyncio.timeout(30):
            while len(heard) < 2:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0)
        return heard, told

    assert asyncio.run(work()) == ([1, 2], ["RuntimeError('no answer')"])
