"""What one job costs a store, and one process a machine: the figures that docs/explanation/scaling.md plans with.

``python -m bench.simulate_costs`` measures an embedded store; with ``--postgres URL`` (a role that may create
databases) also one on PostgreSQL, in a database of its own that is dropped at the end. A job here is the smallest
whole one: submitted, claimed, completed with a result of 4 KiB.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from string import ascii_letters, digits
from typing import TYPE_CHECKING, Any, Protocol

from async_delivery.domain import lifecycle
from async_delivery.domain.job import Job, JobId, JobRequest, JobStatus, Priority
from async_delivery.domain.result import seal
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runtime import SystemClock, new_id
from async_delivery.storage.contract import Store, Transaction
from async_delivery.storage.opening import Mode, create_store, open_store
from async_delivery.storage.tables import metadata
from bench.figures import percentile
from bench.simulate_processes import processes

if TYPE_CHECKING:
    import psycopg

# 4,096 bytes as canonical JSON. Without a pattern, for a database that compresses would flatter itself otherwise.
BODY = {"text": "".join(Random(1).choices(ascii_letters + digits, k=4_085))}
_TENANTS = 100
_WRITERS = 16
_SCHEMA = "async_delivery"
_CLEANED = ("result_bodies", "events")
_KIB = 1024


class Gauge(Protocol):
    """Reads a database from outside the store."""

    def bytes(self) -> int:
        """What it takes on the disk, indexes included."""

    def rows(self) -> Mapping[str, int]:
        """Table -> rows."""

    def cleaned_bytes(self) -> int:
        """The part of them that a cleanup may delete."""

    def written(self) -> int:
        """Bytes written to its log so far (PostgreSQL), or to the disk by this process (SQLite)."""


class SqliteGauge:
    """Of an embedded store, whose writer is this process."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def _ask(self, statement: str) -> int:
        import sqlite3

        connection = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        try:
            return int(connection.execute(statement).fetchone()[0])
        finally:
            connection.close()

    def bytes(self) -> int:
        """Pages in use."""
        return self._ask("PRAGMA page_count") * self._ask("PRAGMA page_size")

    def rows(self) -> Mapping[str, int]:
        """All tables."""
        return {name: self._ask(f"SELECT count(*) FROM {name}") for name in metadata.tables}

    def cleaned_bytes(self) -> int:
        """Bodies and events; 0 where this build of SQLite cannot tell."""
        import sqlite3

        names = ", ".join(f"'{name}'" for name in _CLEANED)
        try:
            return self._ask(f"SELECT sum(pgsize) FROM dbstat WHERE name IN ({names})")
        except sqlite3.OperationalError:
            return 0

    def written(self) -> int:
        """To the log and, at checkpoints, from there to the database."""
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["wchar"])


class PostgresGauge:
    """Over a connection of its own."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def _ask(self, statement: str) -> int:
        found = self._connection.execute(statement.encode()).fetchone()
        assert found is not None
        return int(found[0])

    def bytes(self) -> int:
        """Tables, indexes and what is kept beside them."""
        self._connection.execute(b"VACUUM ANALYZE")
        return self._ask(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c"
            f" WHERE relnamespace = to_regnamespace('{_SCHEMA}') AND relkind = 'r'"
        )

    def rows(self) -> Mapping[str, int]:
        """All tables."""
        return {name: self._ask(f"SELECT count(*) FROM {_SCHEMA}.{name}") for name in metadata.tables}

    def written(self) -> int:
        """Write-ahead log of the server, which nobody else should use meanwhile."""
        return self._ask("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")

    def cleaned_bytes(self) -> int:
        """Bodies and events."""
        return sum(self._ask(f"SELECT pg_total_relation_size('{_SCHEMA}.{name}')") for name in _CLEANED)

    def connections(self) -> int:
        """To this database, without this one."""
        return self._ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") - 1


# ---------------------------------------------------------------- one job after another
def fresh(number: int, now: datetime) -> tuple[Job, JobRequest]:
    """A job of one of a hundred tenants."""
    job = Job(
        job_id=JobId(new_id()),
        org_id=OrgId(f"tenant-{number % _TENANTS:03d}"),
        correlation_id=new_id(),
        analysis="selftest",
        analysis_version="1",
        status=JobStatus.QUEUED,
        priority=Priority.DEFAULT,
        labels={},
        timeout_seconds=3_600.0,
        results_ttl_seconds=604_800,
        ttl_requested=False,
        max_attempts=3,
        submitted_at=now,
        queued_at=now,
        updated_at=now,
    )
    return job, JobRequest(query=None, params_json=b'{"stages":3}', fingerprint="f" * 64)


def submit(store: Store, number: int) -> None:
    """One transaction."""
    job, request = fresh(number, SystemClock().now())
    store.write(lambda tx: tx.save(lifecycle.submit(job, request, new_id)))


def claim(store: Store, limit: int = 1) -> list[Job]:
    """One transaction."""

    def write(tx: Transaction) -> list[Job]:
        claimed = []
        now = datetime.now(UTC)
        for queued in tx.claimable(limit, ["selftest"], None, now):
            change = lifecycle.claim(queued, "w-measuring", new_id(), 30.0, now, new_id)
            tx.save(change)
            claimed.append(change.job)
        return claimed

    return store.write(write)


def complete(store: Store, job: Job) -> None:
    """One transaction."""

    def write(tx: Transaction) -> None:
        locked = tx.lock_job(job.org_id, job.job_id)
        assert job.fence is not None
        tx.save(lifecycle.complete(locked, job.fence, seal(BODY), datetime.now(UTC), new_id))

    store.write(write)


def in_threads(total: int, work: Callable[[int], object], threads: int = _WRITERS) -> float:
    """Do ``work`` for 0..total-1 on several threads; seconds."""
    numbers = iter(range(total))
    lock = threading.Lock()
    faults: list[BaseException] = []

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or faults:
                return
            try:
                work(number)
            except BaseException as exc:
                faults.append(exc)
                raise

    pool = [threading.Thread(target=run) for _ in range(threads)]
    began = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if faults:
        raise faults[0]
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one job, in bytes: on disk, how much of that a cleanup may delete, written one at a time and by sixteen at
    once; its rows by table; and rates of this machine."""

    bytes_per_job: float
    cleaned_per_job: float
    rows_per_job: Mapping[str, float]
    written_alone: float
    written_together: float
    submits_per_second: float
    claims_per_second: float
    claims_in_batches_per_second: float
    claim_ms_p50: float


def measure(store: Store, gauge: Gauge, jobs: int) -> Costs:
    """``jobs`` in each of three rounds: alone, together, claims."""
    in_threads(_TENANTS, lambda number: submit(store, number))  # pages and statements there before it counts
    for job in claim(store, _TENANTS):
        complete(store, job)
    size, cleaned, rows, written = gauge.bytes(), gauge.cleaned_bytes(), gauge.rows(), gauge.written()
    for number in range(jobs):
        submit(store, number)
        (job,) = claim(store)
        complete(store, job)
    alone = gauge.written() - written

    def whole(number: int) -> None:
        submit(store, number)
        for job in claim(store):
            complete(store, job)

    written = gauge.written()
    in_threads(jobs, whole)
    while left := claim(store):  # a claim may come back empty while others look at the same job
        complete(store, left[0])
    together = gauge.written() - written
    added, rows_now = gauge.bytes() - size, gauge.rows()
    cleaned = gauge.cleaned_bytes() - cleaned

    submitting = in_threads(jobs, lambda number: submit(store, number))
    waits: list[float] = []

    def one(_: int) -> None:
        began = time.perf_counter()
        while not claim(store):
            pass
        waits.append(time.perf_counter() - began)

    half = jobs // 2
    claiming = in_threads(half, one, threads=4)
    began, batched = time.perf_counter(), 0
    while claimed := claim(store, 20):
        batched += len(claimed)
    return Costs(
        added / (2 * jobs),
        cleaned / (2 * jobs),
        {name: (rows_now[name] - before) / (2 * jobs) for name, before in rows.items()},
        alone / jobs,
        together / jobs,
        jobs / submitting,
        half / claiming,
        batched / (time.perf_counter() - began),
        percentile(waits, 0.5) * 1_000,
    )


# ---------------------------------------------------------------- command line
@contextmanager
def _opened(folder: Path, url: str | None) -> Generator[Store]:
    file = create_store(folder / "store.v1.json", url, store_id=new_id(), now=SystemClock().now())
    store = open_store(file.path, Mode.SERVE)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _database(url: str) -> Generator[str]:
    """The URL of a new database beside the one of ``url``."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    name = f"ad_costs_{time.time_ns()}"
    said = conninfo_to_dict(url)
    query = "&".join(f"{key}={said[key]}" for key in ("host", "port") if key in said)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            user = f"{said['user']}@" if "user" in said else ""
            yield f"postgresql://{user}/{name}?{query}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _said(costs: Costs) -> dict[str, str]:
    rows = {name: count for name, count in costs.rows_per_job.items() if count >= 0.01}
    return {
        "rows of a job": f"{sum(rows.values()):.1f} ({', '.join(f'{n} {c:.0f}' for n, c in rows.items())})",
        "transactions of a job": "3 (submit, claim, complete)",
        "on the disk, indexes included": f"{costs.bytes_per_job / _KIB:.1f} KiB",
        "of that left by a cleanup": f"{(costs.bytes_per_job - costs.cleaned_per_job) / _KIB:.1f} KiB",
        "written for a job, one at a time": f"{costs.written_alone / _KIB:.1f} KiB",
        "written for a job, sixteen at once": f"{costs.written_together / _KIB:.1f} KiB",
        "submits, sixteen at once": f"{costs.submits_per_second:,.0f} /s",
        "claims, four at once": f"{costs.claims_per_second:,.0f} /s, p50 {costs.claim_ms_p50:.1f} ms",
        "claims, twenty in a transaction": f"{costs.claims_in_batches_per_second:,.0f} /s",
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulate_costs",
        description="Measure what one job costs a store, and what one process takes.",
        epilog="Rates are of this machine in this minute; bytes and rows hardly vary.",
    )
    parser.add_argument("--jobs", type=int, default=2_000, metavar="N", help="jobs in each round")
    parser.add_argument("--postgres", metavar="URL", help="a server on which databases may be created")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where the embedded store goes")
    given = parser.parse_args()
    if given.jobs < 100:
        parser.error("--jobs must be at least 100")
    columns: dict[str, dict[str, str]] = {}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        with _opened(folder, None) as store:
            columns["SQLite"] = _said(measure(store, SqliteGauge(folder / "store.v1.sqlite3"), given.jobs))
        if given.postgres:
            import psycopg

            (folder / "postgres").mkdir()
            with _database(given.postgres) as url, psycopg.connect(url, autocommit=True) as connection:
                gauge = PostgresGauge(connection)
                with _opened(folder / "postgres", url) as store:
                    columns["PostgreSQL"] = _said(measure(store, gauge, given.jobs))
                lines += processes(folder, url, gauge.connections)
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in columns["SQLite"]:
        print(f"| {name} | {' | '.join(column[name] for column in columns.values())} |")
    print("", *lines, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
