"""SQLite without a service around it: what durable writes of given rows cost on this disk.

Runs in the process that calls it. Imports uvloop and the standard library, nothing of the service.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

# One write: statements with their values, kept or lost together.
Write = Sequence[tuple[str, tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Raw:
    """What a SQLite floor did. ``commits`` is how many durable transactions the writes went into."""

    writes: int
    seconds: float
    cpu_seconds: float
    commits: int

    @property
    def per_second(self) -> float:
        """Writes per second, each durable before its writer was told."""
        return self.writes / self.seconds


def open_raw(path: Path, schema: Sequence[str]) -> sqlite3.Connection:
    """A new database as durable as the service's: WAL, synchronous FULL; usable from one thread at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    for statement in schema:
        connection.execute(statement)
    return connection


class GroupCommit:
    """One thread that commits all writes that wait in one transaction, then tells their writers."""

    def __init__(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection, self._loop = connection, loop
        self._queue: SimpleQueue[tuple[Write, asyncio.Future[None]] | None] = SimpleQueue()
        self.commits = 0
        self._ended: Future[None] = Future()
        threading.Thread(target=self._run, name="raw-writer", daemon=True).start()

    def put(self, write: Write) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((write, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._ended.result(timeout=60)

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            ended = item is None
            try:
                self._commit(batch)
            except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait have to hear of it
                self._loop.call_soon_threadsafe(self._break, batch, exc)
        self._ended.set_result(None)

    def _commit(self, batch: list[tuple[Write, asyncio.Future[None]]]) -> None:
        if not batch:
            return
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for write, _ in batch:
            for statement, values in write:
                execute(statement, values)
        execute("COMMIT")
        self.commits += 1
        self._loop.call_soon_threadsafe(self._tell, batch)

    @staticmethod
    def _tell(batch: list[tuple[Write, asyncio.Future[None]]]) -> None:
        for _, future in batch:
            future.set_result(None)

    @staticmethod
    def _break(batch: list[tuple[Write, asyncio.Future[None]]], exc: BaseException) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(exc)


def group_commit(path: Path, schema: Sequence[str], writes: Sequence[Write], *, writers: int = 16) -> Raw:
    """``writers`` writers at once, each waiting until its write is durable before it comes with the next one."""
    import uvloop

    async def run() -> Raw:
        group = GroupCommit(connection, asyncio.get_running_loop())
        left = iter(writes)

        async def one() -> None:
            for write in left:
                await group.put(write)

        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one() for _ in range(writers)))
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
        group.close()
        return Raw(len(writes), took, cpu, group.commits)

    connection = open_raw(path, schema)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run())
    finally:
        connection.close()


def one_by_one(path: Path, schema: Sequence[str], writes: Sequence[Write]) -> list[float]:
    """Each write in a durable transaction of its own, one after the other; the seconds that each took."""
    connection = open_raw(path, schema)
    try:
        took = []
        for write in writes:
            begin = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            for statement, values in write:
                connection.execute(statement, values)
            connection.execute("COMMIT")
            took.append(time.perf_counter() - begin)
        return took
    finally:
        connection.close()
