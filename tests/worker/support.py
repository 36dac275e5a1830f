"""A worker on a real store with real children, and a way to wait for what it does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from async_delivery import telemetry
from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.job import Job, JobId
from async_delivery.domain.result import View
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import jobs, results
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.quota import QueueQuota
from async_delivery.engine.runtime import Policy, Runtime, new_id
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import InputFile, Signal, Store, Transaction
from async_delivery.storage.opening import Mode, ensure_store, open_store
from async_delivery.worker.limits import WorkerSettings
from async_delivery.worker.supervisor import Supervisor

DEADLINE_SECONDS = 60.0
MODULE = "tests.worker.misbehaving"
ORG = OrgId("acme")
T = TypeVar("T")


def refs() -> dict[str, str]:
    """name -> ref of every misbehaving analysis, and the self-test."""
    source = (Path(__file__).parent / "misbehaving.py").read_text()
    names = [part.split('"', 1)[0] for part in source.split('@analysis("')[1:]]
    found = {name: f"{MODULE}:{name.replace('-', '_')}" for name in names}
    return {**found, "selftest": "async_delivery.analyses.selftest:selftest"}


def eventually(condition: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """The first true value of ``condition``; fails when none came in time."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"after {seconds:g} s: {what}")
        time.sleep(0.005)
    return found


def alive(pid: int) -> bool:
    """True while the process runs; a dead one that nobody has waited for yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class MoodyStore:
    """The real store, which refuses writes while it is told to, lets them wait, or keeps its signals to itself: a full
    disk, a lost connection, a network that swallows everything."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.exclusive = store.exclusive
        self.refusing = threading.Event()
        self.silent = threading.Event()
        self.flowing = threading.Event()
        self.flowing.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, fn: Callable[[Transaction], T]) -> T:
        return self.write_soon(fn).result()

    def write_soon(self, fn: Callable[[Transaction], T]) -> Future[T]:
        if self.refusing.is_set():
            raise UnavailableError("the disk is full")
        if not self.flowing.wait(DEADLINE_SECONDS):
            raise UnavailableError("the connection was lost")
        return self._store.write_soon(fn)

    def subscribe(self, listener: Callable[[Signal], Any]) -> Callable[[], None]:
        def hear(signal: Signal) -> None:
            if not self.silent.is_set():
                listener(signal)

        return self._store.subscribe(hear)


class World:
    """One worker process's inside: store, runtime, supervisor."""

    def __init__(self, folder: Path, infos: list[AnalysisInfo], **changes: Any) -> None:
        policy = changes.pop("policy", Policy(default_analysis="fine", fault_injection=True))
        changes = {"slots": 2, "work_root": folder / "work", "cancel_grace_seconds": 0.5, **changes}
        self.settings = WorkerSettings(**{"kill_grace_seconds": 0.3, **changes})
        path = folder / "store.v1.json"
        ensure_store(path, store_id=new_id(), now=datetime.now(UTC))
        self.store = MoodyStore(open_store(path, Mode.SERVE))
        self.rt = Runtime(self.store, Catalogue(infos), policy)
        self.quota = QueueQuota(policy.max_queued_per_tenant)
        self.facts: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._ended: set[JobId] = set()
        self._detach = telemetry.attach(self._note)
        self._unsubscribe = self.store.subscribe(self._hear)
        self.supervisor = Supervisor(self.rt, refs(), self.settings)

    def start(self) -> World:
        self.supervisor.start()
        return self

    def restarted(self) -> World:
        """A second worker on the same store, as after the death of the first."""
        self.supervisor = Supervisor(self.rt, refs(), self.settings)
        return self.start()

    def close(self) -> None:
        self.store.refusing.clear()
        self.store.flowing.set()
        self.supervisor.close()
        self._unsubscribe()
        self._detach()
        self.store.close()

    def _note(self, name: str, values: dict[str, Any]) -> None:
        self.facts.append((name, values))

    def _hear(self, signal: Signal) -> None:
        if signal.status.terminal:
            with self._changed:
                self._ended.add(signal.job_id)
                self._changed.notify_all()

    def told(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """The facts of that name with those values."""
        return [
            told
            for fact, told in list(self.facts)
            if fact == name and all(told.get(key) == value for key, value in values.items())
        ]

    def submit(self, analysis: str, *, input: InputFile | None = None, **asked: Any) -> Job:
        timeout = asked.pop("timeout_seconds", None)
        query = asked.pop("query", None)
        submission = Submission(
            analysis=analysis, params=asked, timeout_seconds=timeout, query=query, input=input
        )
        future = jobs.submit(self.rt, self.quota, ORG, submission)
        return future.result(timeout=DEADLINE_SECONDS).job

    def job(self, job: Job) -> Job:
        return jobs.find(self.rt, ORG, job.job_id)

    def ended(self, job: Job, seconds: float = DEADLINE_SECONDS) -> Job:
        """The job when it has ended."""
        with self._changed:
            if not self._changed.wait_for(lambda: job.job_id in self._ended, timeout=seconds):
                raise AssertionError(f"after {seconds:g} s: {self.job(job)}; {self.facts[-10:]}")
        return self.job(job)

    def run(self, analysis: str, **asked: Any) -> Job:
        return self.ended(self.submit(analysis, **asked))

    def result(self, job: Job) -> Any:
        assert job.result_id is not None, job
        _, _, body = results.permalink(self.rt, ORG, job.result_id, View.LATEST)
        assert body is not None
        return json.loads(body)

    def output(self, analysis: str, **asked: Any) -> Any:
        """The final result of one run."""
        job = self.run(analysis, **asked)
        assert job.error is None, job.error
        return self.result(job)

    def first_partial(self, job: Job) -> Any:
        """The first partial result, once there is one."""
        eventually(lambda: self.job(job).partial_count, f"{job.analysis} published nothing")
        return self.result(self.job(job))

    def events(self, job: Job) -> list[str]:
        found = jobs.list_events(self.rt, ORG, job.job_id, 0, 10_000)
        assert [event.event_seq for event in found] == list(range(1, len(found) + 1))
        return [str(event.event_type) for event in found]

    def log(self, job: Job) -> str:
        return "".join(text for _, text in jobs.logs(self.rt, ORG, job.job_id))


def with_limits(infos: list[AnalysisInfo], name: str, **limits: Any) -> list[AnalysisInfo]:
    """The catalogue with other limits for one analysis."""
    return [
        replace(info, limits=replace(info.limits, **limits)) if info.name == name else info for info in infos
    ]
