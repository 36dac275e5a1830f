"""DuckDB shut in: it reads exactly one file, writes below one folder, and nothing in its input can change that.

Queries run beside the thread that called, which listens for cancel and passes progress on. Imports ``plugins``
and, late, duckdb.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from async_delivery.analyses.profile.values import literal
from async_delivery.domain.failure import FailureCode
from async_delivery.plugins import AnalysisError, CancelRequested, Context, RetryableError

if TYPE_CHECKING:
    pass

POLL_SECONDS = 0.05
MAX_THREADS = 2
Rows = list[tuple[Any, ...]]


class Sandbox:
    """One connection. Close it, or use it in a ``with`` block.

    readable        the one path that may be read beside the workdir
    database        file below the workdir for the tables, or None: in memory
    ordered         rows keep the order of the file, at the price of one thread's speed
    """

    def __init__(
        self,
        context: Context,
        readable: str,
        *,
        memory_limit_bytes: int,
        database: Path | None = None,
        ordered: bool = False,
    ) -> None:
        import duckdb

        self._context = context
        self._readable = readable
        self._connection = duckdb.connect(
            ":memory:" if database is None else str(database),
            config={
                "memory_limit": f"{memory_limit_bytes}B",
                "threads": min(MAX_THREADS, len(os.sched_getaffinity(0))),
                "temp_directory": str(context.workdir / "spill"),
                "preserve_insertion_order": ordered,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            },
        )
        self._shut_in(context.workdir)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="duckdb")

    def _shut_in(self, workdir: Path) -> None:
        for statement in (
            "SET TimeZone = 'UTC'",
            "SET enable_progress_bar = true",
            "SET enable_progress_bar_print = false",
            f"SET allowed_paths = [{literal(self._readable)}]",
            f"SET allowed_directories = [{literal(str(workdir))}]",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._connection.execute(statement)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what runs and let go of the files."""
        self._worker.shutdown(wait=True)
        self._connection.close()

    def query(self, sql: str, report: Callable[[float], None] | None = None) -> Rows:
        """All rows of ``sql``; ``report`` hears how much of it is done, 0..100.

        Raises CancelRequested soon after cancel was requested, AnalysisError ``out_of_memory``, RetryableError
        when the disk is full, and duckdb.Error for everything else that is wrong with the query or its input.
        """
        import duckdb

        if self._context.canceled:
            raise CancelRequested
        running: Future[Rows] = self._worker.submit(self._fetch, sql)
        try:
            while not wait([running], timeout=POLL_SECONDS).done:
                if self._context.canceled:
                    raise CancelRequested
                if report is not None and (done := self._connection.query_progress()) > 0:
                    report(min(done, 100.0))
            return running.result()
        except duckdb.OutOfMemoryException as exc:
            raise AnalysisError(
                "the data set needs more memory than params.memory_limit_mb allows",
                code=FailureCode.OUT_OF_MEMORY.value,
            ) from exc
        except duckdb.IOException as exc:
            if "No space left" in str(exc):
                raise RetryableError("the disk of the service is full") from exc
            raise
        finally:
            # Again and again: an interrupt that comes before the query has begun is forgotten.
            while not running.done():
                self._connection.interrupt()
                wait([running], timeout=POLL_SECONDS / 5)

    def _fetch(self, sql: str) -> Rows:
        return self._connection.execute(sql).fetchall()
