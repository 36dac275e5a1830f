"""Servers and workers that share one PostgreSQL, each as on a machine of its own: store file, folder, port."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import pytest

from async_delivery.domain.instant import parse_instant
from tests.postgres import shared_server
from tests.system.live import CHECKOUT, DEADLINE_SECONDS, LiveServer, eventually, run_command

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

LEASE_SECONDS = 3
PLACED = "tests.system.placed:on_fast"
COMMON = ("--analysis", PLACED, "--lease-seconds", str(LEASE_SECONDS), "--heartbeat-seconds", "1")


class Worker(LiveServer):
    """``async-delivery worker`` on a machine of its own."""

    command = "worker"

    @property
    def ids(self) -> list[str]:
        """The ids it has had, one for each start."""
        said = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line["worker_id"] for line in said if line["event"] == "worker.started"]

    def children(self) -> list[psutil.Process]:
        """Processes of attempts, warm ones included."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)[1:]

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()


class Cluster:
    """Three servers without workers, and two workers of which one has a fast disk."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        for name in ("a", "b", "c", "fast", "plain"):
            (folder / name).mkdir()
        options = (*COMMON, "--store-url", url)
        serving = (*options, "--no-workers", "--cleanup-schedule", "10s")
        working = (*options, "--slots", "2", "--drain-grace-seconds", "0.2", "--cancel-grace-seconds", "0.5")
        self.a, self.b, self.c = (LiveServer(folder / name, *serving) for name in "abc")
        self.fast = Worker(
            folder / "fast", *working, "--label", "disk=fast", "--analyses", "on-fast,selftest"
        )
        self.plain = Worker(folder / "plain", *working, "--analyses", "selftest")
        self.machines = [self.a, self.b, self.c, self.fast, self.plain]

    def start(self) -> Self:
        # The first makes the tables; the others find them, or wait for them.
        for machine in self.machines:
            machine.launch()
        for machine in self.machines:
            machine.ready()
        return self

    def stop(self) -> None:
        for machine in self.machines:
            if machine.process is not None and machine.process.poll() is None:
                machine.process.send_signal(signal.SIGCONT)
                machine.process.kill()
                machine.process.wait()

    def submit(self, analysis: str = "selftest", **params: Any) -> str:
        return self.a.submit(analysis, **params)

    def runs_at(self, job_id: str) -> Worker:
        """The worker that runs the job, once one does."""

        def look() -> Worker | None:
            started = [one for one in self.events(job_id) if one["event_type"] == "job.running"]
            worker_id = started[-1]["payload_json"]["worker_id"] if started else None
            return next((worker for worker in (self.fast, self.plain) if worker_id in worker.ids), None)

        found: Worker = eventually(look, f"nobody runs {job_id}")
        return found

    def other(self, worker: Worker) -> Worker:
        return self.plain if worker is self.fast else self.fast

    def events(self, job_id: str) -> list[dict[str, Any]]:
        answer = self.b.ask("GET", f"/analyze/jobs/{job_id}/events?limit=1000")
        found: list[dict[str, Any]] = answer.json()["events"]
        assert [event["event_seq"] for event in found] == list(range(1, len(found) + 1))
        return found

    def long_job(self) -> tuple[str, Worker]:
        """A job that would run for a minute, and the worker that has begun with it."""
        job_id = self.submit(stages=600, stage_seconds=0.1)
        eventually(lambda: self.b.job(job_id)["status"] == "partial", "no partial result")
        return job_id, self.runs_at(job_id)

    def cancel(self, job_id: str) -> None:
        assert self.c.ask("POST", f"/analyze/jobs/{job_id}/cancel", {}).status in (200, 202)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CHECKOUT), prepend=os.pathsep)
        made = Cluster(tmp_path_factory.mktemp("machines"), shared_server().empty_database())
        try:
            yield made.start()
        finally:
            made.stop()


def gone(processes: list[psutil.Process]) -> bool:
    return not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def seconds_after(event: dict[str, Any], began: datetime) -> float:
    return (parse_instant(event["occurred_at"]) - began).total_seconds()


def test_what_is_submitted_here_runs_there_and_is_waited_for_elsewhere(cluster: Cluster) -> None:
    job_id = cluster.submit(stages=2, stage_seconds=0.3)

    answer: dict[str, Any] = {}
    while answer.get("status") not in ("completed", "failed"):
        held = cluster.b.ask("GET", f"/analyze/jobs/{job_id}", headers={"Prefer": "wait=30"})
        answer = held.json()["job"]
    told_at = datetime.now(UTC)

    assert answer["status"] == "completed"
    # By a signal at once, by polling after a second; ten times that is for a busy machine.
    assert (told_at - parse_instant(answer["finished_at"])).total_seconds() < 10
    results = {
        machine.ask("GET", f"/analyze/results/{answer['result_id']}").body
        for machine in (cluster.a, cluster.c)
    }
    assert len(results) == 1
    roles = {machine.ask("GET", "/health/ready").json()["role"] for machine in cluster.machines}
    assert roles == {"api", "worker"}


def test_a_workers_port_answers_probes_and_nothing_of_a_tenant(cluster: Cluster) -> None:
    job_id = cluster.submit(stages=0)
    result_id = cluster.b.ended(job_id)["result_id"]

    known = [cluster.fast.ask("GET", path).status for path in ("/health", "/health/ready", "/metrics")]
    others = [
        f"/analyze/jobs/{job_id}",
        f"/analyze/results/{result_id}",
        "/analyses",
        "/docs",
        "/openapi.json",
    ]

    assert known == [200, 200, 200]
    assert [cluster.fast.ask("GET", path).status for path in others] == [404] * len(others)
    assert cluster.fast.ask("POST", "/analyze", {}).status == 404
    refused = cluster.fast.ask("POST", "/health", {})
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert "async_worker_slots" in cluster.fast.ask("GET", "/metrics").body.decode()


def test_an_answer_that_is_held_here_comes_when_a_worker_elsewhere_is_done(cluster: Cluster) -> None:
    body = {"analysis": "selftest", "params": {"stages": 1, "stage_seconds": 0.2}}

    answer = cluster.c.ask("POST", "/analyze", body)

    assert answer.status == 200
    assert answer.json()["is_final"]


def test_an_analysis_runs_where_its_labels_are(cluster: Cluster) -> None:
    job_ids = [cluster.submit("on-fast") for _ in range(4)]

    assert {cluster.b.ended(job_id)["status"] for job_id in job_ids} == {"completed"}
    assert {cluster.runs_at(job_id) for job_id in job_ids} == {cluster.fast}


def test_a_cancel_reaches_a_job_on_another_machine(cluster: Cluster) -> None:
    job_id, worker = cluster.long_job()
    children = worker.children()

    began = datetime.now(UTC)
    cluster.cancel(job_id)

    assert cluster.b.ended(job_id)["status"] == "canceled"
    assert seconds_after(cluster.events(job_id)[-1], began) < 10
    assert children


def test_a_killed_workers_job_runs_elsewhere_within_its_lease_and_five_seconds(cluster: Cluster) -> None:
    job_id, worker = cluster.long_job()
    everything = worker.processes()

    killed_at = datetime.now(UTC)
    worker.signal(signal.SIGKILL)

    eventually(lambda: cluster.b.job(job_id)["attempt"] == 2, "it is not run again")
    assert cluster.runs_at(job_id) is cluster.other(worker)
    again = [event for event in cluster.events(job_id) if event["event_type"] == "job.running"][-1]
    assert seconds_after(again, killed_at) < LEASE_SECONDS + 5
    eventually(lambda: gone(everything[1:]), "processes of the killed worker live on")
    assert cluster.b.job(job_id)["error_count"] == 0
    cluster.cancel(job_id)
    worker.start()


def busy(children: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run something; a warm child of another slot may only wait for its next job."""
    before = {child: child.num_ctx_switches().voluntary for child in children}
    eventually(
        lambda: any(child.num_ctx_switches().voluntary > before[child] for child in children), "none runs"
    )
    return [child for child in children if child.num_ctx_switches().voluntary > before[child]]


def test_a_worker_that_slept_through_its_lease_writes_nothing_and_ends_its_child(cluster: Cluster) -> None:
    job_id, worker = cluster.long_job()
    children = busy(worker.children())
    warned = worker.log().count('"lease.lost"')

    worker.signal(signal.SIGSTOP)
    eventually(lambda: cluster.b.job(job_id)["attempt"] == 2, "it is not run again")
    worker.signal(signal.SIGCONT)

    eventually(
        lambda: worker.log().count('"lease.lost"') == warned + 1, "it does not know that it lost the job"
    )
    eventually(lambda: gone(children), "the first attempt's child lives on")
    eventually(lambda: cluster.b.job(job_id)["status"] == "partial", "the second attempt goes on")
    events = cluster.events(job_id)
    lost = next(number for number, event in enumerate(events) if event["event_type"] == "job.attempt_lost")
    later = {event["payload_json"].get("attempt") for event in events[lost + 2 :]}
    assert later == {2}
    assert cluster.runs_at(job_id) is cluster.other(worker)
    cluster.cancel(job_id)
    assert cluster.b.ended(job_id)["status"] == "canceled"


def test_a_drained_worker_gives_its_jobs_to_the_others_at_no_cost(cluster: Cluster) -> None:
    job_id, worker = cluster.long_job()

    assert worker.stop() == 0

    eventually(lambda: cluster.b.job(job_id)["attempt"] == 2, "it is not run again")
    job = cluster.b.job(job_id)
    reasons = [
        e["payload_json"]["reason"] for e in cluster.events(job_id) if e["event_type"] == "job.requeued"
    ]
    assert (job["error_count"], reasons) == (0, ["drained"])
    assert cluster.runs_at(job_id) is cluster.other(worker)
    cluster.cancel(job_id)
    worker.start()


def test_jobs_that_no_machine_takes_wait_and_hold_up_nobody(cluster: Cluster) -> None:
    assert cluster.fast.stop() == 0

    waiting = cluster.submit("on-fast")
    done = cluster.submit(stages=0)

    assert cluster.b.ended(done)["status"] == "completed"
    assert cluster.b.job(waiting)["status"] == "queued"
    cluster.fast.start()
    assert cluster.b.ended(waiting)["status"] == "completed"


def test_of_three_servers_one_cleans_up_at_each_time(cluster: Cluster) -> None:
    servers = (cluster.a, cluster.b, cluster.c)
    told = '"cleanup.finished"', '"cleanup.skipped"'

    eventually(
        lambda: all(any(word in server.log() for word in told) for server in servers),
        "a server forgot its cleanup",
    )

    with psycopg.connect(cluster.url) as connection:
        rows = connection.execute(
            "SELECT started_at, exit_code, runner FROM async_delivery.cleanup_runs ORDER BY started_at"
        ).fetchall()
    assert {(row[1], row[2]) for row in rows} == {(0, "server")}
    starts = [row[0] / 1e6 for row in rows]
    # An interval of ten seconds, less what a timer may be early.
    assert all(later - earlier > 8 for earlier, later in pairwise(starts)), starts


def test_a_worker_is_refused_what_it_cannot_do(cluster: Cluster, tmp_path: Path) -> None:
    def refused(*options: str) -> tuple[int, str]:
        done = run_command("worker", "--port", "0", *options, cwd=tmp_path)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr

    code, said = refused(
        "--store-url", cluster.url, "--analysis", PLACED, "--analyses", "selftest,nosuch,on-fast"
    )
    assert code == 2
    assert "there is no nosuch, only on-fast, profile, selftest" in said
    assert "on-fast runs only on a machine with the label disk=fast" in said
    code, said = refused()
    assert (code, "PostgreSQL" in said, "store export" in said) == (1, True, True)
    assert not (tmp_path / "runtime").exists()


def test_the_whole_store_holds_its_promises_after_all_of_that(cluster: Cluster) -> None:
    done = run_command("store", "check", cwd=cluster.a.folder)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    processes = [machine.process for machine in cluster.machines if machine.process is not None]
    for process in processes:
        process.terminate()
    assert [process.wait(DEADLINE_SECONDS) for process in processes] == [0] * 5
