"""R30: a store with a million jobs is served as soon as an empty one.

The jobs are copies, made by plain SQL, of jobs that the service itself has run and queued.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.reliability.conftest import Score
from tests.reliability.fleet import Fleet, fleet_on
from tests.reliability.population import Population
from tests.system.live import eventually

ENDED, QUEUED = 1_000_000, 10_000
STARTS = 3
CHILDREN = ("job_requests", "events", "attempts", "notifications", "results")


class Copier:
    """Copies a job and its rows many times, in one database or the other."""

    def __init__(self, run: Callable[[str], Any], schema: str, numbers: str) -> None:
        self._run, self._schema, self._numbers = run, schema, numbers

    def columns(self, table: str) -> list[str]:
        cursor = self._run(f"SELECT * FROM {self._schema}{table} LIMIT 0")
        return [column[0] for column in cursor.description]

    def copy(self, job_id: str, kind: str, number: int) -> None:
        """``number`` copies of ``job_id`` with its rows; bodies stay with the first."""
        for table in ("jobs", *CHILDREN):
            if table == "results" and kind == "queued":
                continue
            names = [name for name in self.columns(table) if name != "result_key"]
            values = [self._value(name, kind) for name in names]
            self._run(
                f"INSERT INTO {self._schema}{table} ({', '.join(names)})"
                f" SELECT {', '.join(values)} FROM {self._schema}{table} AS source,"
                f" {self._numbers.format(number=number)} WHERE source.job_id = '{job_id}'"
            )

    def _value(self, name: str, kind: str) -> str:
        match name:
            case "job_id" | "event_id" | "result_id" | "notification_id" | "dedupe_key":
                return f"source.{name} || '-{kind}' || number.value"
            case "place":
                return "source.place + number.value"
            case _:
                return f"source.{name}"


def copier_of(fleet: Fleet) -> tuple[Copier, Callable[[], None]]:
    """A copier, and what makes its copies last."""
    if fleet.store == "sqlite":
        lite = sqlite3.connect(fleet.store_file.with_name("store.v1.sqlite3"))
        numbers = (
            "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {number})"
            " SELECT value FROM n) AS number"
        )

        def keep() -> None:
            lite.commit()
            lite.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            lite.close()

        return Copier(lite.execute, "", numbers), keep
    server = psycopg.connect(fleet.url)

    def keep_there() -> None:
        server.commit()
        server.autocommit = True
        server.execute(b"ANALYZE")
        server.close()

    return (
        Copier(
            lambda text: server.execute(text.encode()),
            "async_delivery.",
            "generate_series(1, {number}) AS number(value)",
        ),
        keep_there,
    )


@pytest.mark.long
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_million_jobs_delay_neither_the_start_nor_the_first_claim(
    store: str, tmp_path: Path, score: Score
) -> None:
    ready, claimed = [], []
    with fleet_on(store, tmp_path, "--drain-grace-seconds", "0.5", servers=1, workers=1, slots=2) as fleet:
        # given
        people = Population(fleet)
        (done,) = people.ended([people.submit("selftest", stages=0)])
        busy = [people.submit("selftest", stages=1000, stage_seconds=5) for _ in range(2)]
        eventually(lambda: len(people.in_state("running", "partial")) == 2, "not all run")
        queued = people.submit("selftest", stages=0)
        fleet.stop()
        copier, keep = copier_of(fleet)
        copier.copy(done["job_id"], "ended", ENDED)
        copier.copy(queued, "queued", QUEUED)
        keep()
        # What was given back at the stop must not take the first places.
        fleet.start()
        for job_id in busy:
            people.cancel(job_id)
        people.ended([*busy, queued])

        # when
        for _ in range(STARTS):
            fleet.stop()
            began = time.monotonic()
            started_at = time.time()
            fleet.start()
            ready.append(time.monotonic() - began)
            claimed.append(first_claim_after(fleet, started_at) - started_at - ready[-1])

    # then
    print(f"ready {[round(one, 2) for one in ready]}, claimed {[round(one, 2) for one in claimed]}")
    score("R30.ready", store, sorted(ready)[STARTS // 2], cases=ENDED)
    score("R30.claim", store, max(0.0, sorted(claimed)[STARTS // 2]), cases=ENDED)


def first_claim_after(fleet: Fleet, instant: float) -> float:
    """When the first attempt after ``instant`` was started, in seconds since 1970."""
    question = f"SELECT min(started_at) FROM {{}}attempts WHERE started_at >= {instant * 1_000_000:.0f}"

    def look() -> int | None:
        if fleet.store == "sqlite":
            database = fleet.store_file.with_name("store.v1.sqlite3")
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as lite:
                (found,) = lite.execute(question.format("")).fetchone()
        else:
            with psycopg.connect(fleet.url) as server:
                (found,) = server.execute(question.format("async_delivery.").encode()).fetchone() or (None,)
        return None if found is None else int(found)

    micros: int = eventually(look, "nothing was claimed")
    return micros / 1_000_000
