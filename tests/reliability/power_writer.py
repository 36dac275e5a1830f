"""The process whose disk the power cut hits: a store under a mixed load, every acknowledgement noted at once.

Usage: python -m tests.reliability.power_writer FOLDER ACKS SEED STEPS [synchronous=NORMAL] [wal_autocheckpoint=N]

A line of ACKS is ``JOB STATUS EVENT_SEQ RESULT_ID``, or ``cleanup``, or ``artefact NAME``.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

from async_delivery.domain.cleanup import Runner
from async_delivery.domain.job import Job
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.engine.retention import run_cleanup
from async_delivery.ops.artefacts import write_json
from async_delivery.storage import sqlite, sqlite_files
from async_delivery.storage.opening import Mode, ensure_store, open_store
from tests.contract.support import House, saving
from tests.domain.support import NOON

STORE = "runtime/async_jobs/store.v1.json"
ARTEFACTS = "artifacts/async"


class Load:
    """One writer, and what it has been told."""

    def __init__(self, folder: Path, acks: Path, seed: int) -> None:
        self.folder, self.chance = folder, random.Random(seed)
        self._acks = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        ensure_store(folder / STORE, store_id="store-1", now=NOON)
        self._running: list[Job] = []
        self._queued: list[Job] = []
        self.open()

    def open(self) -> None:
        self.house = House(open_store(self.folder / STORE, Mode.SERVE))
        self.house.new_id = lambda: str(uuid.UUID(int=self.chance.getrandbits(128)))  # type: ignore[method-assign]

    def say(self, line: str) -> None:
        os.write(self._acks, f"{line}\n".encode())

    def ack(self, job: Job) -> Job:
        self.say(f"{job.job_id} {job.status} {job.event_seq} {job.result_id or '-'}")
        return job

    def payload(self) -> object:
        return {"x": "y" * self.chance.choice((0, 100, 3000, 9000))}

    # ------------------------------------------------------------ what it does
    def submit(self) -> None:
        self._queued.append(self.ack(self.house.submit()))

    def submit_together(self) -> None:
        made = [self.house.submission() for _ in range(5)]
        for change, done in [(one, self.house.store.write_soon(saving(one))) for one in made]:
            done.result(60)
            self._queued.append(self.ack(change.job))

    def run(self) -> None:
        self._running.append(self.ack(self.house.running()))

    def partial(self) -> None:
        if self._running:
            self._running.append(self.ack(self.house.partial(self._running.pop(0), self.payload())))

    def complete(self) -> None:
        if self._running:
            self.ack(self.house.complete(self._running.pop(0), self.payload()))

    def fail(self) -> None:
        if self._running:
            self.ack(self.house.fail(self._running.pop(0)))

    def cancel(self) -> None:
        if self._queued:
            self.ack(self.house.cancel(self._queued.pop(0)))

    def cleanup(self) -> None:
        self.say("cleanup")
        run_cleanup(
            self.house.store, RetentionPolicy(0, 0), runner=Runner.PYTHON, now=NOON + timedelta(days=1)
        )

    def artefact(self) -> None:
        target = write_json(
            self.folder / ARTEFACTS, "retention", {"finished_at": "x", "filler": list(range(500))}
        )
        self.say(f"artefact {target.name}")

    def reopen(self) -> None:
        self.house.store.close()
        self.open()

    def step(self) -> None:
        often: list[Callable[[], None]] = [self.submit, self.run, self.partial, self.complete, self.cancel]
        rare: list[Callable[[], None]] = [self.submit_together, self.fail, self.artefact]
        rarest: list[Callable[[], None]] = [self.cleanup, self.reopen]
        (kinds,) = self.chance.choices((often, rare, rarest), (20, 4, 1))
        self.chance.choice(kinds)()


def main() -> None:
    folder, acks, seed, steps, *pragmas = sys.argv[1:]
    connect = sqlite_files.connect_writer

    def planted(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    with patch.object(sqlite, "connect_writer", planted):
        load = Load(Path(folder), Path(acks), int(seed))
        for _ in range(int(steps)):
            load.step()
    # As a power cut finds it: nothing is closed.
    os._exit(0)


if __name__ == "__main__":
    main()
