"""Attempts on Ray mean what they mean in a child; a lost node is a lost attempt. Needs the extra ``ray``."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.job import Job, JobStatus
from async_delivery.domain.placement import Executor
from async_delivery.engine import inputs, jobs
from async_delivery.worker import ray_slots
from async_delivery.worker.attempt import StopReason
from async_delivery.worker.ray_executor import RayExecutor
from tests.worker.support import ORG, World, alive, eventually

pytestmark = pytest.mark.long

START_SECONDS = 120.0
ON_RAY = {
    *("fine", "echo", "partials", "chatters", "prints", "returns", "raises", "segfault", "exits", "eats"),
    *("cooperates", "stubborn", "holds-gil", "hangs-once", "leaves-daemon", "closes-everything"),
}


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: make test-long brings it, or pip install -r requirements/ray.txt")


def on_ray(infos: list[AnalysisInfo], **resources: float) -> list[AnalysisInfo]:
    """The catalogue with some of its analyses on Ray; ``fine-fresh`` and others stay with the worker."""
    return [
        replace(info, executor=Executor.RAY, resources=resources) if info.name in ON_RAY else info
        for info in infos
    ]


def reached(world: World) -> World:
    eventually(lambda: world.told("ray.ready"), f"no Ray: {world.told('ray.failed')}", START_SECONDS)
    return world


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, infos: list[AnalysisInfo]) -> Iterator[World]:
    """A worker with a Ray of its own, for all tests that do not harm it."""
    world = World(tmp_path_factory.mktemp("local"), on_ray(infos)).start()
    try:
        yield reached(world)
    finally:
        world.close()


class Cluster:
    """See ``ray_cluster``."""

    def __init__(self) -> None:
        self._told, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker.ray_cluster", str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        self._lines = os.fdopen(self._told)
        first = json.loads(self._lines.readline() or "{}")
        self.address: str = first["address"]
        self.raylets: list[int] = first["raylets"]

    def node_of(self, pid: int) -> int:
        """The raylet below which a process runs."""
        return next(each.pid for each in psutil.Process(pid).parents() if each.pid in self.raylets)

    def kill(self, raylet: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"kill {raylet}\n".encode())
        self._process.stdin.flush()
        assert json.loads(self._lines.readline()) == {"killed": raylet}

    def close(self) -> None:
        processes = psutil.Process(self._process.pid).children(recursive=True)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._lines.close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster()
    try:
        yield made
    finally:
        made.close()


def cancel(world: World, job: Job) -> None:
    jobs.cancel(world.rt, ORG, job.job_id, by="tests", reason=None)


def error_code(job: Job) -> str | None:
    return job.error.code if job.error else None


# ---------------------------------------------------------------- as in a child


def test_an_attempt_sees_what_it_would_see_in_a_child(local: World) -> None:
    seen = local.output("echo", query="a question")

    assert seen["query"] == "a question"
    assert (seen["workdir_entries"], seen["workdir_mode"], seen["umask"]) == ([], "0o700", "0o77")
    assert seen["cwd_is_workdir"]
    assert seen["fault_injection"]


def test_partial_results_come_whole_in_order_and_while_the_attempt_runs(local: World) -> None:
    done = local.run("partials", count=50)
    running = local.submit("cooperates")

    assert (done.status, done.partial_count) == (JobStatus.COMPLETED, 50)
    assert local.events(done).count("job.partial") == 50
    assert local.first_partial(running)["pid"]
    assert local.job(running).status is JobStatus.PARTIAL
    cancel(local, running)
    local.ended(running)


def test_twenty_thousand_reports_become_few_events_and_the_last_word_is_kept(local: World) -> None:
    done = local.run("chatters")

    assert done.stage == "the last word"
    assert local.events(done).count("job.progress") < 100


def test_what_is_printed_is_kept_with_the_job(local: World) -> None:
    log = local.log(local.run("prints"))

    assert "plain text\n" in log
    assert "to stderr\n" in log
    assert "from a subprocess\n" in log
    assert "\x1b" not in log


@pytest.mark.parametrize(
    ("analysis", "asked", "code", "attempts"),
    [
        ("segfault", {}, "worker_crashed", 3),
        ("exits", {"code": 0}, "exited_without_result", 1),
        ("exits", {"code": 3, "raw": True}, "worker_crashed", 3),
        ("eats", {}, "out_of_memory", 1),
        ("eats", {"way": "mmap"}, "out_of_memory", 1),
        ("eats", {"way": "child"}, "out_of_memory", 1),
        ("returns", {"what": "set"}, "result_not_serializable", 1),
        ("returns", {"what": "huge"}, "result_too_large", 1),
        ("partials", {"what": "huge"}, "result_too_large", 1),
        ("raises", {"what": "invalid"}, "invalid_input", 1),
        ("raises", {"what": "own"}, "my_own_code", 1),
        ("raises", {"what": "unpicklable"}, "analysis_error", 1),
        ("closes-everything", {}, "worker_crashed", 3),
    ],
)
def test_every_failure_has_the_code_it_has_in_a_child(
    local: World, analysis: str, asked: dict[str, Any], code: str, attempts: int
) -> None:
    job = local.run(analysis, **asked)

    assert (job.status, error_code(job), job.attempt) == (JobStatus.FAILED, code, attempts)


def test_what_an_attempt_leaves_running_is_cleared_away(local: World) -> None:
    daemon = local.output("leaves-daemon")["daemon"]

    eventually(lambda: not alive(daemon), "the daemon lives on")


@pytest.mark.parametrize("analysis", ["cooperates", "stubborn", "holds-gil"])
def test_a_canceled_attempt_is_gone_when_the_job_says_so(local: World, analysis: str) -> None:
    job = local.submit(analysis)
    pid = local.first_partial(job)["pid"]

    cancel(local, job)

    assert local.ended(job).status is JobStatus.CANCELED
    assert not alive(pid)


def test_a_result_given_in_answer_to_a_cancel_completes_the_job(local: World) -> None:
    job = local.submit("cooperates", result_on_cancel=True)
    local.first_partial(job)

    cancel(local, job)

    assert local.ended(job).status is JobStatus.COMPLETED


def test_the_deadline_counts_from_the_start_and_ends_what_does_not_end_itself(local: World) -> None:
    local.output("fine")
    job = local.submit("stubborn", timeout_seconds=1.0)
    pid = local.first_partial(job)["pid"]

    done = local.ended(job)

    assert error_code(done) == "timeout"
    assert done.error is not None
    assert "stopped after 1 s" in done.error.message
    assert not alive(pid)


def test_an_attempt_whose_lease_is_lost_is_ended_on_ray_and_writes_nothing_more(local: World) -> None:
    job = local.submit("stubborn")
    pid = local.first_partial(job)["pid"]
    before = local.events(job)
    attempt = next(each for each in local.supervisor._roster.running() if each.job_id == job.job_id)

    attempt.ask(StopReason.LOST)

    eventually(lambda: not alive(pid), "it runs on")
    eventually(lambda: attempt not in local.supervisor._roster.running(), "its slot is not free")
    assert local.events(job) == before


def test_no_process_of_the_server_imports_ray(local: World) -> None:
    maps = Path(f"/proc/{os.getpid()}/maps").read_text()

    assert "ray" not in sys.modules
    assert "_raylet" not in maps


# ---------------------------------------------------------------- beside children, and waiting


def test_attempts_that_wait_for_resources_hold_up_no_child_and_may_be_canceled(
    tmp_path: Path, infos: list[AnalysisInfo]
) -> None:
    world = World(tmp_path, on_ray(infos, **{"no-node-has-this": 1})).start()
    try:
        reached(world)
        waiting = [world.submit("fine", timeout_seconds=600) for _ in range(6)]
        short = world.submit("echo", timeout_seconds=0.2)
        eventually(lambda: world.job(waiting[0]).message, "nobody says what it waits for")

        beside = [world.run("fine-fresh", value=value) for value in range(5)]

        assert {job.status for job in beside} == {JobStatus.COMPLETED}
        assert "waiting for resources" in str(world.job(waiting[0]).message)
        for job in waiting:
            cancel(world, job)
        assert {world.ended(job).status for job in waiting} == {JobStatus.CANCELED}
        assert "no-node-has-this=1" in str(world.ended(short).error)
        assert error_code(world.ended(short)) == "timeout"
        assert "Ray: waiting for num_cpus=1 no-node-has-this=1" in world.log(waiting[0])
    finally:
        world.close()


# ---------------------------------------------------------------- what may break


def test_a_bridge_that_dies_loses_its_attempts_and_a_new_one_runs_them(
    tmp_path: Path, infos: list[AnalysisInfo]
) -> None:
    world = World(tmp_path, on_ray(infos)).start()
    try:
        bridge = reached(world).told("ray.ready")[0]["pid"]
        job = world.submit("hangs-once")
        pid = world.first_partial(job)["pid"]

        os.kill(bridge, signal.SIGKILL)

        eventually(lambda: not alive(pid), "the attempt outlives its bridge", 15.0)
        done = world.ended(job, seconds=START_SECONDS)
        assert (done.status, done.attempt, done.error_count) == (JobStatus.COMPLETED, 2, 0)
        assert world.events(job).count("job.attempt_lost") == 1
        assert len(world.told("ray.ready")) == 2
    finally:
        world.close()


def test_a_drain_gives_attempts_on_ray_back_and_leaves_nothing_running(
    tmp_path: Path, infos: list[AnalysisInfo]
) -> None:
    world = World(tmp_path, on_ray(infos), drain_grace_seconds=0.1).start()
    try:
        bridge = psutil.Process(reached(world).told("ray.ready")[0]["pid"])
        job = world.submit("stubborn")
        pid = world.first_partial(job)["pid"]
        below = [bridge, *bridge.children(recursive=True)]

        world.supervisor.drain()

        assert world.job(job).status is JobStatus.QUEUED
        assert world.job(job).error_count == 0
        assert not alive(pid)
        world.supervisor.close()
        eventually(lambda: not any(alive(each.pid) for each in below), "Ray lives on")
    finally:
        world.close()


@pytest.mark.parametrize("how", ["all of it", "its raylet"])
def test_a_node_killed_under_a_job_is_a_lost_attempt_that_costs_nothing(
    tmp_path: Path, infos: list[AnalysisInfo], cluster: Cluster, how: str
) -> None:
    world = World(tmp_path, on_ray(infos, room=1), ray_address=cluster.address).start()
    try:
        assert not reached(world).told("ray.ready")[0]["local"]
        job = world.submit("hangs-once")
        first = world.first_partial(job)["pid"]
        node = cluster.node_of(first)

        # Without its raylet a node is dead to the cluster, and yet the attempt goes on until somebody ends it.
        cluster.kill(node) if how == "all of it" else os.kill(node, signal.SIGKILL)
        killed_at = time.monotonic()

        done = world.ended(job, seconds=START_SECONDS)
        assert time.monotonic() - killed_at < 100.0
        assert (done.status, done.attempt, done.error_count) == (JobStatus.COMPLETED, 2, 0)
        # Reports of progress among them say that it waits for resources: on a busy machine Ray takes its time.
        reports = {"job.partial", "job.progress"}
        assert [event for event in world.events(job) if event not in reports] == [
            *("job.queued", "job.running", "job.attempt_lost", "job.requeued"),
            *("job.running", "job.completed"),
        ]
        assert not alive(first)
        assert world.result(done)["attempt"] == 2
    finally:
        world.close()


def test_a_node_that_does_not_see_the_workers_files_is_sent_the_upload_and_hears_a_cancel(
    tmp_path: Path, infos: list[AnalysisInfo], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_slots, "RayExecutor", functools.partial(RayExecutor, host="another machine"))
    world = World(tmp_path, on_ray(infos, room=1), ray_address=cluster.address).start()
    try:
        reached(world)
        file = inputs.keep_input(world.rt, ORG, "data.csv", None, [b"from afar"], 1000)
        echoed = world.output("echo", input=file)
        job = world.submit("cooperates", result_on_cancel=True)
        world.first_partial(job)
        stubborn = world.submit("stubborn")
        pid = world.first_partial(stubborn)["pid"]

        cancel(world, job)
        cancel(world, stubborn)

        assert (echoed["content"], echoed["cwd_is_workdir"]) == ("from afar", True)
        assert world.ended(job).status in (JobStatus.COMPLETED, JobStatus.CANCELED)
        assert world.ended(stubborn).status is JobStatus.CANCELED
        assert not alive(pid)
    finally:
        world.close()
