"""What is remembered of an answer is never served when the store, or the clock, would say something else."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from async_delivery.domain.job import Job, ResultId
from async_delivery.engine import estimates, jobs
from async_delivery.engine.retention import cleanup_retention
from async_delivery.engine.runtime import Runtime
from async_delivery.testing import FakeClock
from tests.api.support import Server, Web, finished, started, stored_jobs, without_request_id
from tests.engine.support import ALPHA, completed, published

ROOT = Path(__file__).resolve().parents[2]
ERASE = """
import sys
from pathlib import Path
from async_delivery.engine import estimates, jobs
from async_delivery.storage.opening import Mode, open_store
from tests.engine.support import ALPHA, runtime
from async_delivery.testing import FakeClock

store = open_store(Path(sys.argv[1]) / "store.v1.json", Mode.TOOL)
jobs.erase(runtime(store, FakeClock()), ALPHA, sys.argv[2])
store.close()
"""


def result_path(result_id: ResultId | None) -> str:
    return f"/analyze/results/{result_id}"


def job_path(job: Job) -> str:
    return f"/analyze/jobs/{job.job_id}"


def request(path: str, tenant: str = ALPHA) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Org-Id: {tenant}\r\n\r\n".encode()


def test_what_another_process_erases_is_gone_for_the_very_next_request(
    server: Server, rt: Runtime, tmp_path: Path
) -> None:
    job = finished(rt)
    paths = [result_path(job.result_id), job_path(job)]
    for _ in range(3):
        assert [server.send(request(path)).status for path in paths] == [200, 200]

    subprocess.run(
        [sys.executable, "-c", ERASE, str(tmp_path), job.job_id], cwd=ROOT, check=True, timeout=120
    )

    assert [server.send(request(path)).status for path in paths] == [404, 404]


def test_what_is_remembered_for_one_tenant_is_not_there_for_another(server: Server, rt: Runtime) -> None:
    job = finished(rt)

    for path in (result_path(job.result_id), job_path(job)):
        assert [server.send(request(path)).status for _ in range(3)] == [200] * 3
        assert server.send(request(path, tenant="beta")).status == 404


def test_a_result_ends_by_the_clock_alone(server: Server, rt: Runtime, clock: FakeClock) -> None:
    job = finished(rt)
    assert job.finished_at is not None
    path = result_path(job.result_id)
    assert server.send(request(path)).status == 200

    clock.advance(seconds=job.results_ttl_seconds - 1)
    last = server.send(request(path))
    clock.advance(seconds=1)

    assert (last.status, last.headers["cache-control"]) == (200, "private, max-age=1, immutable")
    assert server.send(request(path)).status == 410


def test_how_long_a_result_may_be_kept_goes_down_while_nothing_is_committed(
    server: Server, rt: Runtime, clock: FakeClock
) -> None:
    job = finished(rt)
    path, left = result_path(job.result_id), float(job.results_ttl_seconds)

    for step in (0, left - 86_401, 1, 0.5, 0.5, 0.25, 3_600):
        clock.advance(seconds=step)
        left -= step
        answer = server.send(request(path))
        assert answer.headers["cache-control"] == f"private, max-age={min(86_400, int(left))}, immutable"


def test_how_long_a_running_job_takes_is_told_anew_each_time(
    server: Server, rt: Runtime, clock: FakeClock
) -> None:
    run = started(rt)
    published(rt, run, {"part": 1}, percent=50.0)

    bodies = []
    for _ in range(3):
        clock.advance(seconds=10)
        bodies.append(server.send(request(job_path(run.job))).body.partition(b'"eta_seconds":')[2][:4])

    assert bodies == [b"10.0", b"20.0", b"30.0"]


def test_every_answer_is_what_an_application_without_memory_gives(
    rt: Runtime, web: Web, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long attempts usually take is remembered for some seconds, which is not what this is about.
    monkeypatch.setattr(estimates, "_FRESH_SECONDS", 0.0)
    # Given all that changes an answer: attempts, holds, erasures, cleanups, and time that passes.
    chance = random.Random(20261124)
    known = [finished(rt), finished(rt)]
    running = [started(rt)]
    results: list[ResultId | None] = [job.result_id for job in known]

    def publish() -> None:
        results.append(published(rt, running[-1], {"part": chance.random()}).result_id)

    def complete() -> None:
        known.append(completed(rt, running.pop()))
        results.append(known[-1].result_id)
        running.append(started(rt))

    def hold() -> None:
        job = chance.choice(stored_jobs(rt))
        jobs.hold(rt, ALPHA, job.job_id, not job.held)

    def clean() -> None:
        cleanup_retention(
            rt.store,
            results_ttl_seconds=400_000,
            events_ttl_seconds=500_000,
            now=clock.now(),
            jobs_ttl_seconds=None,
        )

    def wait() -> None:
        clock.advance(seconds=chance.choice([0.4, 1, 3_600, 86_400, 300_000]))

    acts: list[Callable[[], None]] = [publish, publish, complete, hold, clean, wait, wait, lambda: None]
    statuses = set()
    for _ in range(30):
        chance.choice(acts)()
        paths = [result_path(result) for result in chance.sample(results, 2)]
        paths += [path + "?view=requested" for path in paths]
        paths += [job_path(job) for job in (chance.choice(known), running[-1].job)]
        with Web(rt) as forgetful:
            for path in paths:
                expected = _get(forgetful, path, {})
                statuses.add(expected[0])
                assert _get(web, path, {}) == expected
                tag = dict(expected[1]).get("etag", '"none"')
                assert _get(web, path, {"If-None-Match": tag}) == _get(
                    forgetful, path, {"If-None-Match": tag}
                )
    assert statuses >= {200, 410}


def _get(web: Web, path: str, headers: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
    return without_request_id(web.get(path, headers=headers))
