"""A large cleanup by the script, beside a server that reads and writes; and one plain DELETE of the same rows."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import rows, stock, targets
from bench.figures import Figure, Sense, percentile
from bench.lab import Lab, in_turn, say
from bench.load import Connection, LoadError, Request
from bench.pgserver import PostgresServer, connected, postgres, why_not
from bench.server import ROOT, Running, service
from bench.simulate_costs import BODY
from bench.submits import OPTIONS, SUBMIT

_TTL_SECONDS = stock.SPAN_SECONDS // 2
_REPORTS = 2
_READ_PAUSE_SECONDS, _WRITE_PAUSE_SECONDS = 0.002, 0.005
_CLEANUP_SECONDS = 1_800.0
# Newest results, which no cleanup touches.
_READ = 1_000
_SCHEMA = "async_delivery."
_BODIES = """DELETE FROM {0}result_bodies WHERE result_key IN (SELECT r.result_key FROM {0}results r
 JOIN {0}jobs j ON j.job_id = r.job_id WHERE j.finished_at <= {1})"""
_EVENTS = "DELETE FROM {0}events WHERE job_id IN (SELECT job_id FROM {0}jobs WHERE finished_at <= {1})"
_KEPT = "SELECT org_id, result_id FROM {0}results ORDER BY created_at DESC LIMIT {1}"


@dataclass(frozen=True, slots=True)
class _Copy:
    """One copy of the stock, for one step. ``url`` is None for SQLite."""

    folder: Path
    url: str | None

    @contextmanager
    def execute(self) -> Generator[Callable[[str], Any]]:
        """Runs statements on it, durably, each on its own unless it begins a transaction."""
        if self.url is not None:
            with connected(self.url) as connection:
                yield lambda text: connection.execute(text.encode())
            return
        database = rows.database_of(self.folder / "store.v1.json")
        with closing(sqlite3.connect(database, isolation_level=None)) as own:
            own.execute("PRAGMA synchronous=FULL")
            own.execute("PRAGMA cache_size=-65536")
            yield own.execute

    @property
    def prefix(self) -> str:
        """Before the names of tables."""
        return "" if self.url is None else _SCHEMA


@dataclass(slots=True)
class _Seen:
    """Seconds of each request of one client."""

    took: list[float] = field(default_factory=list)

    def p99_ms(self) -> float:
        return percentile(self.took, 0.99) * 1e3


@dataclass(slots=True)
class _Rounds:
    """One value per round. Rates in rows per second, waits in milliseconds."""

    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    reads_without: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    writes_without: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    deleted: int = 0


def run(lab: Lab) -> list[Figure]:
    """The same on both stores."""
    jobs = lab.cleaned * stock.SAMPLED // stock.COMPLETED
    folder = lab.folder("stock")
    began = time.perf_counter()
    stock.build(folder, None, jobs, BODY, _REPORTS)
    say(f"cleanup: SQLite: {jobs:,} jobs made in {time.perf_counter() - began:.0f} s")
    figures = _dialect(lab, "SQLite", lambda: _copied(lab, folder))
    shutil.rmtree(folder)
    if (reason := why_not()) is not None:
        lab.skip("cleanup on PostgreSQL", reason)
        return figures
    with postgres() as server, server.database() as url:
        began = time.perf_counter()
        stock.build(lab.folder("stock"), url, jobs, BODY, _REPORTS)
        say(f"cleanup: PostgreSQL: {jobs:,} jobs made in {time.perf_counter() - began:.0f} s")
        return figures + _dialect(lab, "PostgreSQL", lambda: _copied_database(lab, server, url))


@contextmanager
def _copied(lab: Lab, source: Path) -> Generator[_Copy]:
    folder = lab.folder("copy")
    for file in source.glob("store.v1*"):
        if file.is_file():
            # Else the first sync of whoever is measured would write the copy to the disk, 1.5 GB in one commit.
            with Path(shutil.copy2(file, folder)).open("rb") as copied:
                os.fsync(copied.fileno())
    try:
        yield _Copy(folder, None)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _copied_database(lab: Lab, server: PostgresServer, source: str) -> Generator[_Copy]:
    with server.database(copy_of=source) as url:
        yield _Copy(lab.folder("copy"), url)


def _dialect(lab: Lab, name: str, copied: Callable[[], AbstractContextManager[_Copy]]) -> list[Figure]:
    seen = _Rounds()

    def ours() -> None:
        with copied() as copy:
            _beside(lab, copy, seen)

    def plain() -> None:
        with copied() as copy:
            seen.plain.append(_plain(copy))

    for number in range(lab.rounds):
        say(f"cleanup: {name}: round {number + 1} of {lab.rounds}")
        in_turn(number, (ours, plain))
    return _figures(name, seen)


def _plain(copy: _Copy) -> float:
    """Rows per second of one transaction that deletes the bodies and events of the older half."""
    cutoff = (time.time_ns() // 1_000) - _TTL_SECONDS * 1_000_000
    with copy.execute() as execute:
        begin = time.perf_counter()
        execute("BEGIN IMMEDIATE" if copy.url is None else "BEGIN")
        deleted = sum(execute(text.format(copy.prefix, cutoff)).rowcount for text in (_BODIES, _EVENTS))
        execute("COMMIT")
        return float(deleted / (time.perf_counter() - begin))


def _beside(lab: Lab, copy: _Copy, seen: _Rounds) -> None:
    with copy.execute() as execute:
        kept = [
            (str(org), str(result)) for org, result in execute(_KEPT.format(copy.prefix, _READ)).fetchall()
        ]
    where = [] if copy.url is None else ["--store-url", copy.url]
    options = [*OPTIONS, *where, "--cleanup-schedule", "off"]
    with service(copy.folder, *options, probe="/health/ready") as server:
        reads, writes = _clients(server, kept, lambda: time.sleep(max(2.0, lab.seconds)))
        seen.reads_without.append(reads.p99_ms())
        seen.writes_without.append(writes.p99_ms())
        reports: list[dict[str, Any]] = []
        reads, writes = _clients(server, kept, lambda: reports.append(_clean(copy.folder)))
    report = reports[0]
    seen.deleted = report["results"]["delete_count"] + report["events"]["delete_count"]
    seen.ours.append(seen.deleted / report["duration_seconds"])
    seen.reads.append(reads.p99_ms())
    seen.writes.append(writes.p99_ms())
    seen.longest.append(max(writes.took) * 1e3)


def _clean(folder: Path) -> dict[str, Any]:
    """The script's own report. Raises LoadError unless it went through."""
    ttls = ["--results-ttl-seconds", str(_TTL_SECONDS), "--events-ttl-seconds", str(_TTL_SECONDS)]
    command = [sys.executable, str(ROOT / "scripts" / "run_async_retention_cleanup.py")]
    done = subprocess.run(
        [*command, "--store-file", str(folder / "store.v1.json"), *ttls],
        capture_output=True,
        text=True,
        timeout=_CLEANUP_SECONDS,
        check=False,
        cwd=folder,
    )
    if done.returncode:
        raise LoadError(
            f"the cleanup ended with {done.returncode}: {done.stdout[-800:]} {done.stderr[-800:]}"
        )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _clients(
    server: Running, kept: Sequence[tuple[str, str]], act: Callable[[], None]
) -> tuple[_Seen, _Seen]:
    """What one reader and one writer saw while ``act`` ran. Raises LoadError if one of them was refused."""
    ended, faults = threading.Event(), list[BaseException]()
    chance = random.Random(1)

    def random_reads() -> Iterable[tuple[bytes, int]]:
        while True:
            org, result = chance.choice(kept)
            yield Request(f"/analyze/results/{result}", headers={"X-Org-Id": org}).encode(server.port), 200

    def submits() -> Iterable[tuple[bytes, int]]:
        while True:
            yield SUBMIT.encode(server.port), 202

    def client(requests: Iterable[tuple[bytes, int]], pause: float, into: _Seen) -> None:
        try:
            with Connection(server.port) as connection:
                for wire, expected in requests:
                    begin = time.perf_counter()
                    answer = connection.exchange(wire)
                    into.took.append(time.perf_counter() - begin)
                    if answer.status != expected:
                        raise LoadError(f"beside a cleanup: {answer.status} {answer.body[:300]!r}")
                    if ended.wait(pause):
                        return
        except BaseException as exc:  # noqa: BLE001 - told by the caller
            faults.append(exc)

    reads, writes = _Seen(), _Seen()
    threads = [
        threading.Thread(target=client, args=(random_reads(), _READ_PAUSE_SECONDS, reads)),
        threading.Thread(target=client, args=(submits(), _WRITE_PAUSE_SECONDS, writes)),
    ]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(ended.set)
        act()
    if faults:
        raise faults[0]
    return reads, writes


def _figures(name: str, seen: _Rounds) -> list[Figure]:
    beside = f"reads beside a cleanup p99, {name}"
    writes, longest = f"writes beside a cleanup p99, {name}", f"writes beside a cleanup, longest, {name}"
    settings = (
        f"scripts/run_async_retention_cleanup.py on half of a stock, {seen.deleted:,} results of 4 KiB and events, by "
        "the duration in its report, beside a server and its clients below. Limit: one transaction that deletes the "
        "same bodies and events and does nothing else, synced, alone on the machine; the service keeps receipts of "
        "results and counts per tenant as well"
    )
    client = (
        "serve --no-workers on the store that is cleaned; one client reads random permalinks with pauses of "
        f"{_READ_PAUSE_SECONDS * 1e3:g} ms, one submits with pauses of {_WRITE_PAUSE_SECONDS * 1e3:g} ms. Limit: the "
        "same before the cleanup"
    )
    return [
        Figure(
            f"cleanup, {name}",
            "rows/s",
            Sense.RATE,
            tuple(seen.ours),
            settings,
            tuple(seen.plain),
            "one plain DELETE",
            targets.of(f"cleanup, {name}"),
        ),
        Figure(
            beside,
            "ms",
            Sense.COST,
            tuple(seen.reads),
            client,
            tuple(seen.reads_without),
            "without",
            targets.of(beside),
        ),
        Figure(
            writes,
            "ms",
            Sense.COST,
            tuple(seen.writes),
            "The same clients",
            tuple(seen.writes_without),
            "without",
            targets.of(writes),
        ),
        Figure(
            longest, "ms", Sense.COST, tuple(seen.longest), "The same clients", target=targets.of(longest)
        ),
    ]
