"""Procrastinate on PostgreSQL. It keeps no results, so the job writes its own into a table.

``main`` runs one worker, makes the tables, or submits. PEER_URL is the
address of the database.
"""

from __future__ import annotations

import asyncio
import os

from procrastinate import App, JobContext, PsycopgConnector  # type: ignore[import-not-found]
from psycopg_pool import AsyncConnectionPool

from bench.peers import driving

URL = os.environ["PEER_URL"]
# At once in one worker process: jobs that wait for a database, so more than one.
CONCURRENCY = int(os.environ.get("PEER_CONCURRENCY", "8"))
app = App(connector=PsycopgConnector(conninfo=URL, min_size=2, max_size=driving.SUBMITTERS))
_results = AsyncConnectionPool(URL, min_size=1, max_size=CONCURRENCY, open=False, kwargs={"autocommit": True})


async def _work(context: JobContext) -> None:
    async with _results.connection() as connection:
        await connection.execute(
            b"INSERT INTO results (job_id, body) VALUES (%s, %s)", (context.job.id, driving.result())
        )


work = app.task(name="work", pass_context=True)(_work)


async def _make_schema() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    async with _results, _results.connection() as connection:
        await connection.execute(b"CREATE TABLE results (job_id BIGINT PRIMARY KEY, body TEXT NOT NULL)")


async def _run_worker() -> None:
    async with _results, app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY)


class ProcrastinateDriver:
    """Submits as an application does, on one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(self._open())

    async def _open(self) -> None:
        await app.open_async()
        await _results.open()

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        self._runner.run(self._jobs(count))

    def one(self) -> None:
        """See driving.Driver."""
        self._runner.run(self._jobs(1, driving.GLANCE_SECONDS))

    async def _jobs(self, count: int, every: float = driving.POLL_SECONDS) -> None:
        ids: list[int] = await driving.in_tasks(count, work.defer_async)

        async def completed() -> bool:
            return await self._succeeded(min(ids)) >= count

        await driving.until_async(completed, every)
        async with _results.connection() as connection:
            found = await connection.execute(b"SELECT body FROM results WHERE job_id = %s", (ids[-1],))
            row = await found.fetchone()
        driving.check(row[0] if row else None)

    async def _succeeded(self, since: int) -> int:
        async with _results.connection() as connection:
            found = await connection.execute(
                b"SELECT count(*) FROM procrastinate_jobs WHERE id >= %s AND status = 'succeeded'", (since,)
            )
            row = await found.fetchone()
        return int(row[0]) if row else 0


def main(what: str = "") -> None:
    """Submit as asked, or what is asked for."""
    if what == "schema":
        asyncio.run(_make_schema())
    elif what == "worker":
        asyncio.run(_run_worker())
    else:
        driving.serve(ProcrastinateDriver())
