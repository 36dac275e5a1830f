"""R11 and R12: cleanup beside a server under load undoes nothing of it, and a dry run touches and says the truth."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on, kill
from tests.reliability.image import Image
from tests.reliability.journal import Journal, read_journal
from tests.reliability.oracle import judge
from tests.reliability.traffic import TENANTS, Traffic, drained
from tests.reliability.witnesses import Witnesses
from tests.system.live import CHECKOUT, eventually, run_command

STORES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


class Cleaner:
    """Another process that cleans up when it is told to."""

    def __init__(self, store_file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.cleaner", str(store_file)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def clean(self, results_ttl: int, events_ttl: int) -> dict[str, Any]:
        """One run, begun and ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{results_ttl} {events_ttl}\n")
        process.stdin.flush()
        report: dict[str, Any] = json.loads(process.stdout.readline())
        return report

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


@contextmanager
def cleaner_of(fleet: Fleet) -> Iterator[Cleaner]:
    cleaner = Cleaner(fleet.store_file)
    try:
        yield cleaner
    finally:
        cleaner.close()


def cleanups(store: str, folder: Path, wanted: int, seed: int, score: Score) -> None:
    """R11: ``wanted`` cleanups at random moments while clients submit, read, cancel, retry and erase."""
    chance = random.Random(f"{seed} cleanups")
    journal = Journal(folder / "journal")
    runs = deleted = 0
    undone: list[str] = []
    with fleet_on(store, folder, servers=2, workers=1, slots=3) as fleet, cleaner_of(fleet) as cleaner:
        witnesses = Witnesses(fleet, journal, TENANTS[0])
        mix = {"erase": 2, "cancel": 2, "retry": 2, "result": 4}
        with Traffic(journal, lambda: fleet.ports, seed, threads=2, pace=0.01, mix=mix) as traffic:
            traffic.reaches(5)
            while runs < wanted:
                time.sleep(chance.uniform(0.0, 0.06))
                # Zero takes all that has ended; an hour takes nothing, and still goes through the store.
                ttls = {kind: chance.choice([0, 0, 1, 3600]) for kind in ("results", "events")}
                report = cleaner.clean(ttls["results"], ttls["events"])
                assert "deleted" in report, report
                runs += 1
                deleted += report["deleted"]
                early = [kind for kind, ttl in ttls.items() if ttl == 3600 and report[kind]]
                undone += [f"{report[kind]} {kind} went an hour too early" for kind in early]
                undone += witnesses.taken()
        witnesses.close()
        drained(fleet.ports[0], traffic.jobs)
        fleet.stop()
        breaches = judge(read_journal(journal.path), fleet.image(), cleaned=True)
        dry_and_live(fleet, score)
        again = judge(read_journal(journal.path), fleet.image(), cleaned=True)
    journal.close()

    print(f"{runs} cleanups took {deleted} rows beside {len(traffic.jobs)} jobs")
    undone += [str(breach) for breach in [*breaches, *again]]
    print("\n".join(undone[:10]))
    score("R11", store, len(undone), cases=runs, seed=seed)
    assert traffic.faults == []
    assert deleted > 0


def dry_and_live(fleet: Fleet, score: Score) -> None:
    """R12: a dry run on a store at rest, then a live one in the same state."""
    before = fingerprint(fleet)
    dry = cleanup(fleet, "--dry-run")
    after = fingerprint(fleet)
    image = fleet.image()
    live = cleanup(fleet)

    if fleet.store == "sqlite":
        score("R12.bytes", fleet.store, 0 if before == after else 1, cases=1)
    counted = [dry[part]["delete_count"] - live[part]["delete_count"] for part in ("results", "events")]
    score("R12.counts", fleet.store, sum(map(abs, counted)), cases=1)
    left = fleet.image()
    assert rows(image)[0] - rows(left)[0] == live["results"]["delete_count"]
    assert rows(image)[1] - rows(left)[1] == live["events"]["delete_count"]


def rows(image: Image) -> tuple[int, int]:
    """Results that have a body, and events."""
    return sum(result.body_sha256 is not None for result in image.results), len(image.events)


def fingerprint(fleet: Fleet) -> dict[str, str]:
    """Every byte of a store's files. Nobody has them open: reading would let go of their locks."""
    folder = fleet.store_file.parent
    names = [fleet.store_file.name, "store.v1.sqlite3", "store.v1.sqlite3-wal"]
    paths = [folder / name for name in names if (folder / name).exists()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def cleanup(fleet: Fleet, *options: str) -> dict[str, Any]:
    ttls = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")
    named = ("--store-file", str(fleet.store_file), "--json")
    ran = run_command("cleanup", *named, *ttls, *options, cwd=fleet.store_file.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def test_a_dry_run_leaves_every_byte_of_a_store_that_was_killed_with_a_hot_log(
    tmp_path: Path, score: Score
) -> None:
    with fleet_on("sqlite", tmp_path) as fleet:
        server = fleet.servers[0]
        for _ in range(10):
            server.ended(server.submit(stages=2, stage_seconds=0))
        kill([server])
        wal = fleet.store_file.with_name("store.v1.sqlite3-wal")
        assert wal.stat().st_size > 0
        before = fingerprint(fleet)

        dry = cleanup(fleet, "--dry-run")

        score("R12.bytes", "sqlite", 0 if fingerprint(fleet) == before else 1, cases=1)
        assert dry["results"]["delete_count"] == 30
        eventually(lambda: fleet.image().damage == [], "the store is damaged")


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_fifty_cleanups_beside_a_server_undo_nothing_and_bring_nothing_back(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    cleanups(store, tmp_path, 50, seed, score)


@pytest.mark.long
@pytest.mark.parametrize("store", STORES)
def test_a_thousand_cleanups_beside_a_server_undo_nothing_and_bring_nothing_back(
    store: str, tmp_path: Path, seed: int, score: Score
) -> None:
    cleanups(store, tmp_path, 1_000, seed, score)
