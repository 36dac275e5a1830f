from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.cleanup import CleanupPausedError, Runner
from async_delivery.domain.errors import UnavailableError
from async_delivery.domain.instant import format_instant
from async_delivery.domain.retention import ExitCode, RetentionPolicy
from async_delivery.domain.signal import (
    CLEANUP_EXIT_CODE,
    HTTP_5XX_RATE,
    P95_MS,
    RESULTS_DELETE_COUNT,
    SPECS,
    WITHOUT_IN_APP,
    Level,
    Signal,
)
from async_delivery.engine import cleanups
from async_delivery.engine.retention import run_cleanup
from async_delivery.engine.runtime import Runtime
from async_delivery.ops import stock
from async_delivery.ops.health import ready
from async_delivery.ops.observer import Observer, ObserverSettings
from async_delivery.testing import FakeClock
from tests.engine.support import claimed, completed, submitted

POLICY = RetentionPolicy()
PERMALINK = "/analyze/results/{result_id}"


class Worker:
    slots, busy, loop_age_seconds = 2, 1, 0.5


@pytest.fixture
def observer(rt: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    monkeypatch.setattr(stock, "FRESH_SECONDS", 0.0)
    made = Observer(
        rt,
        ObserverSettings(version="1.2.3", retention=POLICY, store_folder=tmp_path),
        worker=Worker,
        draining=lambda: False,
        routes=[(PERMALINK, "GET"), ("/analyze", "POST")],
        chores=["prune"],
    )
    detach = made.attach()
    yield made
    detach()


def answered(status: int = 200, seconds: float = 0.01, route: str = PERMALINK, method: str = "GET") -> None:
    telemetry.emit(
        "http.answered", at=monotonic(), route=route, method=method, status=status, seconds=seconds
    )


def by_name(observer: Observer) -> dict[str, Signal]:
    return {signal.spec.name: signal for signal in observer.signals()}


def level(observer: Observer, spec: Any) -> Level:
    return by_name(observer)[spec.name].level


def swept(rt: Runtime, results_ttl: int = 604_800, events_ttl: int = 259_200) -> None:
    run_cleanup(rt.store, RetentionPolicy(results_ttl, events_ttl), runner=Runner.COMMAND, now=rt.clock.now())


def test_all_signals_are_there_and_a_new_server_knows_nothing_of_most(observer: Observer) -> None:
    found = by_name(observer)

    assert list(found) == [spec.name for spec in SPECS]
    assert found[HTTP_5XX_RATE.name].level is Level.NO_DATA
    assert found[CLEANUP_EXIT_CODE.name].level is Level.NO_DATA
    assert found[WITHOUT_IN_APP.name].level is Level.OK


@pytest.mark.parametrize(
    ("failing", "expected"), [(0, Level.OK), (1, Level.OK), (2, Level.WARNING), (6, Level.CRITICAL)]
)
def test_failing_reads_raise_the_share_of_5xx(observer: Observer, failing: int, expected: Level) -> None:
    for number in range(100):
        answered(500 if number < failing else 200)

    assert level(observer, HTTP_5XX_RATE) is expected


def test_what_other_routes_answer_is_no_business_of_the_permalinks_signals(observer: Observer) -> None:
    answered(500, 60.0, route="/analyze", method="POST")

    assert level(observer, HTTP_5XX_RATE) is Level.NO_DATA


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.02, Level.OK), (1.4, Level.WARNING), (3.0, Level.CRITICAL)]
)
def test_a_slow_store_raises_the_p95(observer: Observer, seconds: float, expected: Level) -> None:
    for _ in range(50):
        answered(seconds=seconds)

    assert level(observer, P95_MS) is expected


def test_a_cleanup_that_fails_is_critical_until_one_succeeds(observer: Observer, rt: Runtime) -> None:
    now = rt.clock.now()
    cleanups.remember_refusal(rt.store, Runner.SCRIPT, ExitCode.REFUSED, "a bad TTL", now, now)
    failed = level(observer, CLEANUP_EXIT_CODE)
    swept(rt)

    assert failed is Level.CRITICAL
    assert level(observer, CLEANUP_EXIT_CODE) is Level.OK


def test_a_spike_of_deletes_is_a_warning_and_the_next_usual_run_ends_it(
    observer: Observer, rt: Runtime, clock: FakeClock
) -> None:
    def day(jobs: int) -> Level:
        for _ in range(jobs):
            submitted(rt)
            completed(rt, claimed(rt))
        clock.advance(seconds=86_400)
        swept(rt, 3600, 3600)
        return level(observer, RESULTS_DELETE_COUNT)

    usual = [day(2) for _ in range(4)]
    spike = day(7)
    after = day(2)

    assert (usual[-1], spike, after) == (Level.OK, Level.WARNING, Level.OK)


def test_a_notification_removed_by_hand_is_seen_and_only_after_ten_minutes(
    observer: Observer, rt: Runtime, clock: FakeClock, tmp_path: Path
) -> None:
    submitted(rt)
    job = completed(rt, claimed(rt))
    with sqlite3.connect(tmp_path / "store.v1.sqlite3") as by_hand:
        by_hand.execute("DELETE FROM notifications WHERE job_id = ?", (job.job_id,))
    by_hand.close()
    early = level(observer, WITHOUT_IN_APP)
    clock.advance(seconds=601)

    assert (early, level(observer, WITHOUT_IN_APP)) == (Level.OK, Level.WARNING)


def test_a_store_that_cannot_be_read_is_no_data_and_not_ready(observer: Observer, rt: Runtime) -> None:
    rt.store.close()

    assert level(observer, WITHOUT_IN_APP) is Level.NO_DATA
    assert b"async_store_readable 0.0" in observer.expose()
    assert not ready(observer.readiness())


def checks(observer: Observer) -> dict[str, bool]:
    return {check.name: check.ok for check in observer.readiness()}


def test_a_process_that_can_work_is_ready(observer: Observer) -> None:
    assert all(checks(observer).values())
    assert ready(observer.readiness())


def test_a_queue_that_nobody_drains_is_not_ready(observer: Observer, rt: Runtime, clock: FakeClock) -> None:
    submitted(rt)
    clock.advance(seconds=901)

    assert not checks(observer)["queue_drained"]
    completed(rt, claimed(rt))
    assert checks(observer)["queue_drained"]


def test_without_a_limit_a_long_queue_is_told_and_does_no_harm(
    rt: Runtime, clock: FakeClock, tmp_path: Path
) -> None:
    settings = ObserverSettings(
        version="1.2.3", retention=POLICY, store_folder=tmp_path, max_queued_seconds=0.0
    )
    observer = Observer(rt, settings, worker=Worker, draining=lambda: False)
    submitted(rt)
    clock.advance(seconds=86_400)

    (check,) = [check for check in observer.readiness() if check.name == "queue_drained"]

    assert check.ok
    assert "86400 s" in check.detail
    assert not check.required


def test_a_worker_whose_loop_hangs_is_not_ready(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "loop_age_seconds", 31.0)

    assert not checks(observer)["worker_alive"]


def test_a_store_that_takes_no_writes_is_not_ready(
    observer: Observer, rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fn: object) -> None:
        raise UnavailableError("database or disk is full")

    monkeypatch.setattr(rt.store, "write_soon", refuse)

    (store,) = [check for check in observer.readiness() if check.name == "store_writable"]
    assert (store.ok, store.detail) == (False, "database or disk is full")


def test_a_paused_cleanup_is_told_and_does_not_make_the_process_unready(
    observer: Observer, rt: Runtime
) -> None:
    cleanups.pause(rt.store, "looking into it", "kim", rt.clock.now())

    assert not checks(observer)["cleanup_not_paused"]
    assert ready(observer.readiness())
    pause = observer.pause()
    assert pause is not None
    assert (pause.why, pause.by) == ("looking into it", "kim")


def cleanup_hint(observer: Observer) -> str:
    (found,) = [signal for signal in observer.signals() if signal.spec.name == CLEANUP_EXIT_CODE.name]
    assert (found.level, found.spec.critical) == (Level.CRITICAL, 0.0)
    return found.spec.hint


def test_a_cleanup_refused_by_a_pause_says_who_paused_and_that_nothing_broke(
    observer: Observer, rt: Runtime, clock: FakeClock
) -> None:
    cleanups.pause(rt.store, "INC-7", "kim", rt.clock.now())
    with pytest.raises(CleanupPausedError):
        swept(rt)
    while_paused = cleanup_hint(observer)
    cleanups.resume(rt.store)
    afterwards = cleanup_hint(observer)
    swept(rt)

    since = format_instant(rt.clock.now())
    assert while_paused.startswith(f"Nothing broke: cleanups are paused since {since} by kim (INC-7);")
    assert "async-delivery cleanup resume" in while_paused
    assert "by kim (INC-7). It is lifted" in afterwards
    assert level(observer, CLEANUP_EXIT_CODE) is Level.OK


def test_a_cleanup_that_failed_before_the_pause_keeps_its_own_hint(observer: Observer, rt: Runtime) -> None:
    now = rt.clock.now()
    cleanups.remember_refusal(rt.store, Runner.SCRIPT, ExitCode.REFUSED, "a bad TTL", now, now)
    before = cleanup_hint(observer)
    cleanups.pause(rt.store, "INC-7", "kim", now)

    assert before == CLEANUP_EXIT_CODE.hint
    assert cleanup_hint(observer).startswith("Cleanups are paused since")
    assert "Nothing broke" not in cleanup_hint(observer)


def test_what_an_operator_does_is_seen_at_once_though_looks_are_kept(
    observer: Observer, rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "FRESH_SECONDS", 3600.0)
    assert observer.pause() is None

    cleanups.pause(rt.store, "INC-7", "kim", rt.clock.now())
    paused = observer.pause()
    cleanups.resume(rt.store)
    swept(rt)

    assert paused is not None
    assert observer.pause() is None
    assert level(observer, CLEANUP_EXIT_CODE) is Level.OK


def series(observer: Observer) -> dict[str, float]:
    text = observer.expose().decode()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


def test_counters_begin_with_zero_and_count_facts(observer: Observer, rt: Runtime) -> None:
    before = series(observer)
    submitted(rt)
    completed(rt, claimed(rt))
    answered(503)
    answered(404, route="", method="BREW")
    after = series(observer)

    permalink = 'async_result_permalink_requests_total{status_class="5xx"}'
    ended = 'async_attempts_total{analysis="count",outcome="completed"}'
    unmatched = 'async_delivery_http_requests_total{method="GET",route="unmatched",status_class="4xx"}'
    for name in (permalink, ended, unmatched):
        assert (before[name], after[name]) == (0.0, 1.0), name
    assert after['async_jobs{analysis="count",status="completed"}'] == 1.0
    assert after['async_jobs{analysis="count",status="failed"}'] == 0.0
    assert after['async_run_seconds_count{analysis="count"}'] == 1.0


def test_no_series_names_a_job_a_result_or_a_tenant(observer: Observer, rt: Runtime) -> None:
    submitted(rt)
    job = completed(rt, claimed(rt))
    text = observer.expose().decode()

    assert job.job_id not in text
    assert str(job.result_id) not in text
    assert not re.search(r"\balpha\b", text)


def test_methods_that_clients_make_up_make_no_series(observer: Observer) -> None:
    before = len(series(observer))
    for number in range(50):
        answered(405, route="/analyze", method=f"X{number}")

    assert len(series(observer)) == before
