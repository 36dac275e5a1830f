"""What a store remembers of its cleanups, whoever ran them, and the pause that stops them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.cleanup import CleanupPausedError, CleanupRun, Pause, Runner
from async_delivery.domain.errors import StoreBusyError, UnavailableError
from async_delivery.domain.retention import ExitCode, RetentionPolicy, RetentionReport
from async_delivery.engine import cleanups
from async_delivery.engine.probe import probe_write
from async_delivery.engine.retention import cleanup_retention, run_cleanup
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Store, Transaction
from async_delivery.testing import FakeClock
from tests.engine.support import claimed, completed, published, submitted

EVERYTHING = RetentionPolicy(0, 0)


def ended(rt: Runtime, partials: int = 0) -> None:
    submitted(rt)
    run = claimed(rt)
    for number in range(partials):
        published(rt, run, {"partial": number})
    completed(rt, run, {"final": True})


def swept(rt: Runtime, runner: Runner = Runner.SCRIPT, **more: Any) -> RetentionReport:
    return run_cleanup(rt.store, EVERYTHING, runner=runner, clock=rt.clock, **more)


def remembered(rt: Runtime) -> list[CleanupRun]:
    return rt.store.read(lambda reader: reader.cleanup_runs(None, 100))


@pytest.fixture
def facts() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    heard: list[tuple[str, dict[str, Any]]] = []
    detach = telemetry.attach(lambda name, values: heard.append((name, values)))
    yield heard
    detach()


@pytest.mark.parametrize("runner", list(Runner))
def test_a_live_run_is_remembered_with_its_counts(rt: Runtime, clock: FakeClock, runner: Runner) -> None:
    ended(rt, partials=2)
    clock.advance(seconds=10)

    report = swept(rt, runner)

    (run,) = remembered(rt)
    assert run.runner is runner
    assert (run.exit_code, run.finished_at) == (0, clock.now())
    assert (run.results_deleted, run.results_kept) == (report.results.delete_count, report.results.kept_count)
    assert (run.events_deleted, run.events_kept) == (report.events.delete_count, report.events.kept_count)
    assert run.results_deleted == 3
    assert (run.results_ttl_seconds, run.events_ttl_seconds) == (0, 0)
    assert run.bytes == report.results.bytes + report.events.bytes
    assert run.report["results"] == report.to_json()["results"]
    assert "per_tenant" not in run.report


def test_the_public_function_is_remembered_too(rt: Runtime) -> None:
    cleanup_retention(rt.store, results_ttl_seconds=60, events_ttl_seconds=60)

    assert [run.runner for run in remembered(rt)] == [Runner.PYTHON]


def test_a_dry_run_leaves_no_trace_in_the_store(rt: Runtime) -> None:
    swept(rt, dry_run=True)

    assert remembered(rt) == []


def test_a_run_that_was_stopped_half_way_is_remembered_as_such(rt: Runtime) -> None:
    ended(rt)

    report = swept(rt, stop=lambda: True)

    (run,) = remembered(rt)
    assert report.exit_code is ExitCode.PARTIAL
    assert run.exit_code == 2
    assert run.report["errors"] == list(report.errors)


@pytest.mark.parametrize("runner", [Runner.SCRIPT, Runner.COMMAND, Runner.PYTHON])
def test_a_run_refused_because_another_one_runs_is_remembered(rt: Runtime, runner: Runner) -> None:
    with rt.store.cleanup_lock(), pytest.raises(StoreBusyError):
        swept(rt, runner)

    (run,) = remembered(rt)
    assert (run.exit_code, run.counted) == (3, False)
    assert "another cleanup" in run.report["errors"][0]


def test_the_servers_own_run_gives_way_without_a_record(rt: Runtime) -> None:
    with rt.store.cleanup_lock(), pytest.raises(StoreBusyError):
        swept(rt, Runner.SERVER)

    assert remembered(rt) == []


class Broken:
    """A store that cannot do some things any more; all else is the real one's."""

    def __init__(self, store: Store, **broken: Callable[..., Any]) -> None:
        self._store, self._broken = store, broken

    def __getattr__(self, name: str) -> Any:
        return self._broken.get(name) or getattr(self._store, name)


def unavailable(*_: object) -> Any:
    raise UnavailableError("disk I/O error")


def test_a_run_that_cannot_read_is_remembered_as_refused(rt: Runtime) -> None:
    broken: Any = Broken(rt.store, read=unavailable)

    with pytest.raises(UnavailableError):
        run_cleanup(broken, EVERYTHING, runner=Runner.SCRIPT)

    (run,) = remembered(rt)
    assert (run.exit_code, run.report) == (1, {"errors": ["disk I/O error"]})


def test_a_run_that_could_not_be_noted_says_so(rt: Runtime) -> None:
    def write(fn: Callable[[Transaction], Any]) -> Any:
        if fn.__qualname__.startswith("remember"):
            raise UnavailableError("disk full")
        return rt.store.write(fn)

    broken: Any = Broken(rt.store, write=write)
    ended(rt)

    report = run_cleanup(broken, EVERYTHING, runner=Runner.SCRIPT)

    assert report.results.delete_count == 1
    assert report.exit_code is ExitCode.PARTIAL
    assert report.errors == ("the run could not be noted in the store: disk full",)


def test_a_refusal_nobody_can_note_still_ends_as_it_must(rt: Runtime) -> None:
    broken: Any = Broken(rt.store, read=unavailable, write=unavailable)

    with pytest.raises(UnavailableError, match="disk I/O error"):
        run_cleanup(broken, EVERYTHING, runner=Runner.SCRIPT)


# ---------------------------------------------------------------- the pause
def paused(rt: Runtime) -> Pause:
    return cleanups.pause(rt.store, "counts look wrong", "anna", rt.clock.now())


def test_a_paused_store_is_not_cleaned_up(rt: Runtime) -> None:
    ended(rt)
    pause = paused(rt)

    with pytest.raises(CleanupPausedError, match="by anna: counts look wrong") as refused:
        swept(rt)

    assert refused.value.pause == pause
    assert [run.exit_code for run in remembered(rt)] == [3]
    assert swept(rt, dry_run=True).results.delete_count == 1


def test_force_goes_ahead_once_and_the_pause_stays(rt: Runtime) -> None:
    ended(rt)
    pause = paused(rt)

    assert swept(rt, force=True).results.delete_count == 1
    assert cleanups.paused(rt.store) == pause


def test_after_a_resume_cleanups_run_again(rt: Runtime, facts: list[tuple[str, dict[str, Any]]]) -> None:
    ended(rt)
    pause = paused(rt)

    assert cleanups.resume(rt.store) == pause
    assert cleanups.resume(rt.store) is None

    assert swept(rt).results.delete_count == 1
    assert [name for name, _ in facts if name.startswith("cleanup.")] == [
        "cleanup.paused",
        "cleanup.resumed",
        "cleanup.finished",
    ]


def test_a_pause_ends_a_run_that_is_on_its_way(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from async_delivery.engine import retention

    monkeypatch.setattr(retention, "_FIRST_BATCH", 1)
    monkeypatch.setattr(retention, "_next_limit", lambda limit, seconds, target: 1)
    for _ in range(3):
        ended(rt)
    asked = 0

    def pause_meanwhile() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            paused(rt)
        return False

    report = swept(rt, stop=pause_meanwhile)

    assert report.exit_code is ExitCode.PARTIAL
    assert report.results.delete_count == 1
    assert report.errors == ("paused by anna before everything old was deleted: counts look wrong",)


def test_a_probe_is_a_write_that_changes_nothing_a_tenant_sees(rt: Runtime, clock: FakeClock) -> None:
    ended(rt)
    before = rt.store.read(lambda reader: reader.count_retention(EVERYTHING, clock.now() + timedelta(1)))

    probe_write(rt).result(timeout=30)

    after = rt.store.read(lambda reader: reader.count_retention(EVERYTHING, clock.now() + timedelta(1)))
    assert after == before
