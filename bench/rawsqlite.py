"""SQLite without a service around it: what durable writes of given rows cost on this disk.

Runs in the process that calls it. Imports uvloop and the standard library, nothing of the service.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
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
    """One thread that commits all writes that wait in one transaction, then tells their writers on ``loop``."""

    def __init__(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection, self._loop = connection, loop
        self._queue: SimpleQueue[tuple[Write, asyncio.Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raw-writer", daemon=True)
        self.commits = 0
        self._thread.start()

    def put(self, write: Write) -> asyncio.Future[None]:
        """On the loop's thread; the future is done after the commit."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((write, future))
        return future

    def close(self) -> None:
        """Finish what was put; the connection is free afterwards."""
        self._queue.put(None)
        self._thread.join()

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
            if batch:
                self._commit(batch)

    def _commit(self, batch: list[tuple[Write, asyncio.Future[None]]]) -> None:
        execute = self._connection.execute
        failed: sqlite3.Error | None = None
        try:
            execute("BEGIN IMMEDIATE")
            for write, _ in batch:
                for statement, values in write:
                    execute(statement, values)
            execute("COMMIT")
            self.commits += 1
        except sqlite3.Error as exc:
            failed = exc
        # A loop that has been closed was interrupted: nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_tell, batch, failed)


def _tell(batch: list[tuple[Write, asyncio.Future[None]]], failed: sqlite3.Error | None) -> None:
    for _, future in batch:
        if future.done():
            continue
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)


def group_commit(path: Path, schema: Sequence[str], writes: Sequence[Write], *, writers: int = 16) -> Raw:
    """``writers`` writers at once, each waiting until its write is durable before it comes with the next one."""
    import uvloop

    connection = open_raw(path, schema)
    with closing(connection), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        group = GroupCommit(connection, runner.get_loop())
        try:
            # Also when interrupted: a connection must not be closed while its thread uses it.
            return runner.run(_write_all(group, writes, writers))
        finally:
            group.close()


async def _write_all(group: GroupCommit, writes: Sequence[Write], writers: int) -> Raw:
    left = iter(writes)

    async def one() -> None:
        for write in left:
            await group.put(write)

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(writers)))
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Raw(len(writes), took, cpu, group.commits)


def one_by_one(path: Path, schema: Sequence[str], writes: Sequence[Write]) -> list[float]:
    """Each write in a durable transaction of its own, one after the other; the seconds that each took."""
    took = []
    with closing(open_raw(path, schema)) as connection:
        for write in writes:
            begin = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            for statement, values in write:
                connection.execute(statement, values)
            connection.execute("COMMIT")
            took.append(time.perf_counter() - begin)
    return took
