"""Both stores side by side: the same verbs in random order, through the same use cases, must get the same answers.

Each side has its own clock and its own ids, set alike, so that not even an id may differ. What differs by nature
is left out: sizes of databases, and who may rescue (every lease here is over by any clock).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from async_delivery.domain.analysis import InputMode
from async_delivery.domain.cleanup import Runner
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.failure import failure
from async_delivery.domain.job import Fence, Job, JobId, JobStatus, ResultId
from async_delivery.domain.result import View, seal
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.tenant import OrgId
from async_delivery.engine import cleanups, inputs, jobs, notifications, rescue, results, retention, runs
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.quota import QueueQuota
from async_delivery.engine.runs import Report
from async_delivery.engine.runtime import Policy, Runtime
from async_delivery.engine.submission import Submission
from async_delivery.storage.contract import InputFile, JobFilter, Reader, Section, Store, Transaction
from async_delivery.storage.tables import metadata
from async_delivery.testing import FakeClock
from tests.engine.support import COUNT
from tests.postgres import shared_server
from tests.storage.support import sqlite_store

ORGS = [OrgId("alpha"), OrgId("Beta"), OrgId("_:.-")]
FREE = replace(COUNT, name="free", params_schema={}, input=InputMode.OPTIONAL)
OTHER = replace(COUNT, name="Other-9", params_schema={}, version="2 🌱")
# By any database's clock every lease given then is over.
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

orgs = st.sampled_from(ORGS)
picks = st.integers(0, 40)
# All of Unicode but what no store keeps, and what sorts or folds differently more often than chance has it.
fine_texts = st.one_of(
    st.sampled_from(["", "a", "A", "ä", "a\u0308", "%", "_", "'", '"', "\\", "\\u0000", "🌱", "\uffff"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
)
storable_texts = st.text(st.characters(codec="utf-8"), max_size=12)
# One in some is refused, or mended.
texts = st.integers(0, 9).flatmap(
    lambda number: fine_texts if number else st.sampled_from(["\0", "a\0b", "\ud800", "\udfff x"])
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | storable_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(storable_texts, inner, max_size=3),
    max_leaves=6,
)
labels = st.dictionaries(st.sampled_from(["team", "Team", "ключ", "a b", "a\tb"]), texts, max_size=3)
spans = st.sampled_from([0.000_001, 1.0, 2.5, 31.0, 3_600.0, 86_401.0, 259_200.0])
submissions = st.fixed_dictionaries(
    {"analysis": st.sampled_from(["free", "free", "Other-9", "Other-9", "count", "absent"])},
    optional={
        "query": texts,
        "params": st.dictionaries(storable_texts, values, max_size=3),
        "labels": labels,
        "timeout_seconds": st.sampled_from([0.001, 1, 17.25, 600, 600.001]),
        "priority": st.sampled_from(["default", "expedite", "expedite", "urgent"]),
        "results_ttl_seconds": st.sampled_from([0, 1, 60, 3_600, 31_536_000, 31_536_001]),
        "idempotency_key": st.sampled_from(["one", "two", "ONE"]) | texts,
        "correlation_id": texts,
        "traceparent": texts,
    },
)


@dataclass(frozen=True)
class Side:
    """One store with its own clock and ids."""

    rt: Runtime
    clock: FakeClock
    quota: QueueQuota


def side(store: Store) -> Side:
    numbers, tokens, clock = count(1), count(1), FakeClock(LONG_AGO)
    rt = Runtime(
        store=store,
        catalogue=Catalogue([COUNT, FREE, OTHER]),
        policy=Policy(default_analysis="free", max_queued_per_tenant=12),
        clock=clock,
        new_id=lambda: f"{next(numbers):08x}-0000-7000-8000-000000000000",
        new_token=lambda: f"token-{next(tokens)}",
        jitter=lambda: 0.5,
    )
    return Side(rt, clock, QueueQuota(rt.policy.max_queued_per_tenant))


def empty(store: Store) -> None:
    """Take every row away but the facts about the store."""
    from async_delivery.storage.writing import SqlTransaction

    def write(tx: Transaction) -> None:
        assert isinstance(tx, SqlTransaction)
        for table in reversed(metadata.sorted_tables):
            if table.name != "meta":
                tx.run(table.delete(), {})
        tx.set_cleanup_pause(None)

    store.write(write)


Ask = Callable[[Side], Any]


class Pair(RuleBasedStateMachine):
    """Two stores, and what a client and a worker would remember of them."""

    stores: ClassVar[tuple[Store, ...]]

    @initialize()
    def begin(self) -> None:
        for store in self.stores:
            empty(store)
        self.sides = [side(store) for store in self.stores]
        self.jobs: list[tuple[OrgId, JobId]] = []
        self.fences: list[tuple[OrgId, JobId, Fence]] = []
        self.files: list[tuple[InputFile, ...]] = []
        for number, org in enumerate((*ORGS, *ORGS)):
            self.submit(org, {"analysis": "free", "params": {"number": number}}, None)
        self.claim("worker-a", 3, None, None)

    # ------------------------------------------------------------ asking both
    def both(self, ask: Ask) -> Any:
        """What both answered, which is the same. An error of the family is an answer; None is returned for it."""
        answers = [self._answer(ask, one) for one in self.sides]
        first, *others = answers
        for other in others:
            assert other == first
        return None if isinstance(first, tuple) and first[:1] == ("error",) else first

    @staticmethod
    def _answer(ask: Ask, one: Side) -> Any:
        try:
            return ask(one)
        except AsyncDeliveryError as exc:
            return ("error", type(exc).__name__, exc.message, exc.details)

    def read(self, look: Callable[[Reader], Any]) -> Any:
        return self.both(lambda one: one.rt.store.read(look))

    def job(self, pick: int) -> tuple[OrgId, JobId]:
        known = [(ORGS[0], JobId("unknown")), *self.jobs]
        return known[-1 - pick % len(known)]

    def fence(self, pick: int) -> tuple[OrgId, JobId, Fence]:
        known = [(ORGS[0], JobId("unknown"), Fence(1, "never given")), *self.fences]
        return known[-1 - pick % len(known)]

    # ------------------------------------------------------------ tenants
    @rule(org=orgs, asked=submissions, file=st.none() | picks)
    def submit(self, org: OrgId, asked: dict[str, Any], file: int | None) -> None:
        given = self.files[file % len(self.files)] if file is not None and self.files else None

        def ask(one: Side) -> Any:
            named = given[self.sides.index(one)] if given else None
            owner = named.org_id if named else org
            future = jobs.submit(one.rt, one.quota, owner, Submission(**asked, input=named))
            return future.result(timeout=60)

        if (done := self.both(ask)) and not done.replayed:
            self.jobs.append((done.job.org_id, done.job.job_id))

    @rule(
        org=orgs,
        name=texts,
        media_type=st.none() | texts,
        chunks=st.lists(st.binary(max_size=30), max_size=3),
    )
    def upload(self, org: OrgId, name: str, media_type: str | None, chunks: list[bytes]) -> None:
        kept = self.both(lambda one: inputs.keep_input(one.rt, org, name, media_type, chunks, 50))
        if kept:
            self.files.append((kept,) * len(self.sides))
            assert self.read(lambda reader: b"".join(reader.read_input(org, kept.input_id))) == b"".join(
                chunks
            )

    @rule(pick=picks, by=texts, reason=st.none() | texts)
    def cancel(self, pick: int, by: str, reason: str | None) -> None:
        self.both(lambda one: jobs.cancel(one.rt, *self.job(pick), by, reason))

    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        if again := self.both(lambda one: jobs.retry(one.rt, one.quota, *self.job(pick))):
            self.jobs.append((again.org_id, again.job_id))

    @rule(pick=picks, held=st.booleans())
    def hold(self, pick: int, held: bool) -> None:
        self.both(lambda one: jobs.hold(one.rt, *self.job(pick), held))

    @rule(pick=picks)
    def erase(self, pick: int) -> None:
        self.both(lambda one: jobs.erase(one.rt, *self.job(pick)))

    # ------------------------------------------------------------ workers
    @rule(
        worker=st.sampled_from(["worker-a", "worker-b"]),
        limit=st.integers(1, 5),
        analyses=st.sampled_from(
            [None, None, ["free"], ["Other-9", "free"], ["count", "Other-9", "count"], []]
        ),
        cap=st.none() | st.integers(1, 3),
    )
    def claim(self, worker: str, limit: int, analyses: list[str] | None, cap: int | None) -> None:
        def ask(one: Side) -> Any:
            rt = replace(one.rt, policy=replace(one.rt.policy, max_running_per_tenant=cap))
            return runs.claim(rt, worker, limit, analyses)

        for run in self.both(ask):
            assert run.job.fence is not None
            self.fences.append((run.job.org_id, run.job.job_id, run.job.fence))

    @rule(pick=picks, percent=st.none() | st.floats(), stage=st.none() | texts, message=st.none() | texts)
    def progress(self, pick: int, percent: float | None, stage: str | None, message: str | None) -> None:
        self.both(lambda one: runs.progress(one.rt, *self.fence(pick), Report(percent, stage, message)))

    @rule(pick=picks, payload=values, percent=st.none() | st.floats(0, 100), stage=st.none() | texts)
    def publish(self, pick: int, payload: Any, percent: float | None, stage: str | None) -> None:
        body, report = seal(payload), Report(percent, stage)
        self.both(lambda one: runs.publish_partial(one.rt, *self.fence(pick), body, report))

    @rule(pick=picks, payload=values, log=st.none() | texts)
    def complete(self, pick: int, payload: Any, log: str | None) -> None:
        done = self.both(lambda one: runs.complete(one.rt, *self.fence(pick), seal(payload), log))
        if done:
            found = self.both(lambda one: results.permalink(one.rt, done.org_id, done.result_id, View.LATEST))
            assert found is None or found.body == seal(payload).data

    @rule(
        pick=picks,
        message=texts,
        again=st.booleans(),
        crashed=st.booleans(),
        after=st.none() | st.sampled_from([0.0, 60.0]),
        log=st.none() | texts,
    )
    def fail(
        self, pick: int, message: str, again: bool, crashed: bool, after: float | None, log: str | None
    ) -> None:
        reason = failure("own_word", message, retryable=again)
        self.both(
            lambda one: runs.fail(
                one.rt,
                *self.fence(pick),
                reason,
                again=again,
                crashed=crashed,
                retry_after_seconds=after,
                log=log,
            )
        )

    @rule(pick=picks, way=st.sampled_from([runs.release, runs.lose, runs.confirm_cancel]))
    def give_back(self, pick: int, way: Callable[..., Job]) -> None:
        self.both(lambda one: way(one.rt, *self.fence(pick)))

    @rule(worker=st.sampled_from(["worker-a", "worker-b"]), some=st.lists(picks, max_size=4))
    def heartbeat(self, worker: str, some: list[int]) -> None:
        fences = {job_id: fence for _, job_id, fence in map(self.fence, some)}
        self.both(lambda one: runs.heartbeat(one.rt, worker, fences))
        self.both(lambda one: sorted(runs.cancel_requests(one.rt, worker)))

    @rule(pick=picks, text=texts)
    def keep_log(self, pick: int, text: str) -> None:
        org_id, job_id, fence = self.fence(pick)
        self.both(lambda one: runs.keep_log(one.rt, org_id, job_id, fence.attempt, text))

    @rule()
    def rescue(self) -> None:
        self.both(lambda one: rescue.rescue(one.rt, []))

    # ------------------------------------------------------------ time and its chores
    @rule(seconds=spans)
    def later(self, seconds: float) -> None:
        for one in self.sides:
            one.clock.advance(seconds=seconds)

    @rule(
        results_ttl=st.sampled_from([0, 1, 3_600, 604_800]),
        events_ttl=st.sampled_from([0, 1, 3_600, 259_200]),
        jobs_ttl=st.sampled_from([None, 0, 1, 3_600, 604_800]),
        dry_run=st.booleans(),
    )
    def clean(self, results_ttl: int, events_ttl: int, jobs_ttl: int | None, dry_run: bool) -> None:
        policy = RetentionPolicy(results_ttl, events_ttl, jobs_ttl)

        def ask(one: Side) -> Any:
            dry = one.rt.store.read(lambda reader: reader.count_retention(policy, one.clock.now()))
            report = retention.run_cleanup(
                one.rt.store, policy, runner=Runner.PYTHON, dry_run=dry_run, clock=one.clock
            )
            assert (report.results, report.events, report.jobs) == (dry.results, dry.events, dry.jobs)
            return report

        self.both(ask)

    @rule(why=texts, on=st.booleans())
    def pause(self, why: str, on: bool) -> None:
        def ask(one: Side) -> Any:
            store = one.rt.store
            return cleanups.pause(store, why, "me", one.clock.now()) if on else cleanups.resume(store)

        self.both(ask)

    @rule()
    def prune(self) -> None:
        self.both(lambda one: one.rt.store.write(lambda tx: tx.prune(one.clock.now(), 1_000)))

    # ------------------------------------------------------------ looking
    @rule(
        org=orgs,
        statuses=st.lists(st.sampled_from(JobStatus), max_size=3),
        analysis=st.sampled_from([None, None, "free", "FREE", "Other-9", "\0", "\ud800"]),
        wanted=st.just({}) | st.just({}) | labels,
        limit=st.integers(1, 4),
    )
    def page_through(
        self, org: OrgId, statuses: list[JobStatus], analysis: str | None, wanted: dict[str, str], limit: int
    ) -> None:
        where = JobFilter(tuple(statuses), analysis, wanted or None)
        before: JobId | None = None
        while found := self.both(lambda one: jobs.list_jobs(one.rt, org, where, limit, before)):  # noqa: B023
            before = found[-1].job_id

    @rule(pick=picks, after=st.integers(0, 9), limit=st.integers(1, 9))
    def look_at(self, pick: int, after: int, limit: int) -> None:
        org_id, job_id = self.job(pick)
        self.both(lambda one: jobs.status(one.rt, org_id, job_id, 5))
        self.both(lambda one: jobs.list_events(one.rt, org_id, job_id, after, limit))
        self.both(lambda one: jobs.logs(one.rt, org_id, job_id))
        self.both(lambda one: notifications.list_notifications(one.rt, org_id, job_id, None, limit))
        self.read(lambda reader: (reader.list_attempts(org_id, job_id), reader.find_request(org_id, job_id)))
        self.read(lambda reader: reader.event_seqs([job_id]))
        kept = self.both(lambda one: results.list_results(one.rt, org_id, job_id))
        for result in kept or ():
            for view in View:
                self.both(lambda one: results.permalink(one.rt, org_id, result.result_id, view))  # noqa: B023
        self.both(lambda one: results.permalink(one.rt, org_id, ResultId("unknown"), View.LATEST))

    @rule(at_most=st.integers(0, 5))
    def count(self, at_most: int) -> None:
        def ask(one: Side) -> Any:
            now, policy = one.clock.now(), RetentionPolicy(3_600, 1, 1)

            def look(reader: Reader) -> Any:
                stock = replace(reader.stock(now, now), store_bytes=0, wal_bytes=0)
                counts = [reader.count_queued(org, at_most) for org in ORGS]
                ran = reader.recent_run_seconds("free", at_most)
                backlog = {section: reader.backlog(policy, now, at_most)[section] for section in Section}
                known = [replace(run, run_id="") for run in reader.cleanup_runs(None, 100)]
                return stock, counts, ran, backlog, known, reader.last_cleanup_success_at()

            return one.rt.store.read(look)

        self.both(ask)
        self.both(lambda one: one.rt.store.info().counts)

    def teardown(self) -> None:
        """Every row of every job, byte for byte, and no invariant broken."""
        if hasattr(self, "sides"):
            self.read(lambda reader: reader.export_jobs(None, 1_000, 1 << 30))
            assert self.read(lambda reader: reader.violations(20)) == []


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Store]]:
    folder: Path = tmp_path_factory.mktemp("pair")
    with (
        closing(sqlite_store(folder)) as one,
        shared_server().lent_store(tmp_path_factory.mktemp("pg")) as two,
    ):
        yield one, two


def drive(stores: tuple[Store, Store], **how: Any) -> None:
    Pair.stores = stores
    # Both stores take their time to sync and to answer, which is no fault of an example.
    run_state_machine_as_test(
        Pair, settings=settings(deadline=None, suppress_health_check=list(HealthCheck), **how)
    )


@pytest.mark.slow
def test_both_stores_give_the_same_answers_to_the_same_verbs(stores: tuple[Store, Store]) -> None:
    drive(stores, max_examples=20, stateful_step_count=30, derandomize=True)


@pytest.mark.long
def test_both_stores_give_the_same_answers_to_many_more(stores: tuple[Store, Store]) -> None:
    drive(stores, max_examples=600, stateful_step_count=60)
