"""The server's own cleanup: what it does, what it leaves among the artefacts, and what it keeps its hands off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from async_delivery import telemetry
from async_delivery.domain.cleanup import CleanupRun, Runner
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.retention import ExitCode, RetentionPolicy, RetentionReport
from async_delivery.engine import cleanups
from async_delivery.engine.retention import run_cleanup
from async_delivery.engine.runtime import Runtime, new_id
from async_delivery.settings import Settings, load
from async_delivery.settings.schedule import parse_schedule
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import create_store, open_store
from async_delivery.testing import FakeClock
from async_delivery.wiring import cleanup
from async_delivery.worker.chores import Chore
from tests.engine.support import claimed, completed, runtime, submitted


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    flags = {
        "store_file": str(tmp_path / "store.v1.json"),
        "artifacts_dir": str(tmp_path / "artifacts"),
        "results_ttl_seconds": "0",
        "events_ttl_seconds": "0",
        "artifacts_ttl_seconds": "1d",
    }
    return load(flags, {}, cwd=tmp_path).settings


@pytest.fixture
def rt(settings: Settings, clock: FakeClock) -> Iterator[Runtime]:
    create_store(settings.store_file, store_id=new_id(), now=clock.now())
    store = open_store(settings.store_file, Mode.SERVE)
    yield runtime(store, clock)
    store.close()


@pytest.fixture
def facts() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    heard: list[tuple[str, dict[str, Any]]] = []
    detach = telemetry.attach(lambda name, values: heard.append((name, values)))
    yield heard
    detach()


def chore(settings: Settings, rt: Runtime) -> Chore:
    return cleanup.cleanup_chore(settings, rt.store, lambda: False)


def run_once(settings: Settings, rt: Runtime) -> RetentionReport | None:
    report = chore(settings, rt).run_once(rt, rt.clock.now())
    assert report is None or isinstance(report, RetentionReport)
    return report


def remembered(rt: Runtime) -> list[CleanupRun]:
    return rt.store.read(lambda reader: reader.cleanup_runs(None, 1000))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_it_cleans_up_and_leaves_its_report(rt: Runtime, settings: Settings) -> None:
    submitted(rt)
    completed(rt, claimed(rt), {"n": 1})

    report = run_once(settings, rt)

    assert report is not None
    assert report.results.delete_count == 1
    assert [(run.runner, run.exit_code) for run in remembered(rt)] == [(Runner.SERVER, 0)]
    (name,) = names(settings.artifacts_dir)
    assert name == "retention-scheduled-20260101T000000Z.json"
    assert json.loads((settings.artifacts_dir / name).read_text()) == report.to_json()


def test_two_reports_of_one_second_go_to_two_files(rt: Runtime, settings: Settings) -> None:
    report = run_once(settings, rt)
    assert report is not None

    cleanup.keep_report(settings.artifacts_dir, report, 60)

    assert len(names(settings.artifacts_dir)) == 2


@pytest.mark.parametrize("schedule", ["1h", "0 * * * *"])
def test_of_several_servers_one_cleans_up_at_each_time(
    rt: Runtime,
    settings: Settings,
    clock: FakeClock,
    tmp_path: Path,
    schedule: str,
    facts: list[tuple[str, dict[str, Any]]],
) -> None:
    theirs = replace(settings, cleanup_schedule=parse_schedule(schedule), artifacts_dir=tmp_path / "theirs")
    ours = replace(theirs, artifacts_dir=tmp_path / "ours")
    clock.advance(seconds=0.2)

    def both() -> tuple[bool, bool]:
        return run_once(ours, rt) is not None, run_once(theirs, rt) is not None

    assert both() == (True, False)
    clock.advance(seconds=1800)
    assert both() == (False, False)
    # The timer of the one that did it fires after an hour, perhaps a moment early.
    clock.advance(seconds=1799.9)
    assert both() == (True, False)
    assert facts.count(("cleanup.skipped", {"reason": "done"})) == 4
    assert [run.exit_code for run in remembered(rt)] == [0, 0]


def test_a_cleanup_that_did_not_get_through_is_done_again_by_the_next_server(
    rt: Runtime, settings: Settings
) -> None:
    submitted(rt)
    completed(rt, claimed(rt), {"n": 1})
    stopped = cleanup.cleanup_chore(settings, rt.store, lambda: True).run_once(rt, rt.clock.now())
    assert isinstance(stopped, RetentionReport)
    assert stopped.exit_code == ExitCode.PARTIAL

    report = run_once(settings, rt)

    assert report is not None
    assert report.results.delete_count == 1


def test_reports_are_kept_for_their_time_and_ten_of_them_for_ever(
    rt: Runtime, settings: Settings, clock: FakeClock
) -> None:
    settings.artifacts_dir.mkdir()
    kept_by_people = ["retention-live.json", "retention-20250101T000000Z.json", "smoke-staging.json"]
    for name in kept_by_people:
        (settings.artifacts_dir / name).write_text("{}")
    for _ in range(15):
        assert run_once(settings, rt)
        clock.advance(seconds=3600)
    assert len(names(settings.artifacts_dir)) == 15 + 3

    clock.advance(seconds=10 * 86_400)
    run_once(settings, rt)

    own = [name for name in names(settings.artifacts_dir) if name not in kept_by_people]
    assert len(own) == 10
    assert own[-1] == "retention-scheduled-20260111T150000Z.json"
    assert set(kept_by_people) <= set(names(settings.artifacts_dir))


def test_while_paused_it_only_says_so(
    rt: Runtime, settings: Settings, facts: list[tuple[str, dict[str, Any]]]
) -> None:
    cleanups.pause(rt.store, "counts look wrong", "anna", rt.clock.now())

    assert run_once(settings, rt) is None

    assert remembered(rt) == []
    assert names(settings.artifacts_dir) == []
    assert ("cleanup.skipped", {"reason": "paused", "why": "counts look wrong", "by": "anna"}) in facts


def test_beside_another_cleanup_it_gives_way(
    rt: Runtime, settings: Settings, facts: list[tuple[str, dict[str, Any]]]
) -> None:
    with rt.store.cleanup_lock():
        assert run_once(settings, rt) is None

    assert remembered(rt) == []
    assert ("cleanup.skipped", {"reason": "busy"}) in facts


def test_a_restarted_server_knows_when_a_server_last_cleaned_up(
    rt: Runtime, settings: Settings, clock: FakeClock
) -> None:
    assert chore(settings, rt).last_at is None

    run_once(settings, rt)
    last = clock.now()
    clock.advance(seconds=60)
    run_cleanup(rt.store, RetentionPolicy(0, 0), runner=Runner.SCRIPT, clock=clock)

    assert chore(settings, rt).last_at == last


def test_a_cron_expression_decides_when_it_is_due(rt: Runtime, settings: Settings, tmp_path: Path) -> None:
    nightly = load({"cleanup_schedule": "15 3 * * *"}, {}, cwd=tmp_path).settings

    due = cleanup.cleanup_chore(nightly, rt.store, lambda: False)

    assert due.next_after is not None
    assert due.next_after(rt.clock.now()) == rt.clock.now() + timedelta(hours=3, minutes=15)


# ---------------------------------------------------------------- what commands do on a store file
def test_a_pause_from_the_command_line_holds_for_the_server(rt: Runtime, settings: Settings) -> None:
    made = cleanup.pause(settings.store_file, "counts look wrong", "anna")

    assert run_once(settings, rt) is None
    assert cleanup.resume(settings.store_file) == made
    assert cleanup.resume(settings.store_file) is None
    assert run_once(settings, rt) is not None


def test_a_pause_outlives_the_server(rt: Runtime, settings: Settings) -> None:
    made = cleanup.pause(settings.store_file, "counts look wrong", "anna")
    rt.store.close()

    store = open_store(settings.store_file, Mode.SERVE)
    found = cleanups.paused(store)
    store.close()

    assert found == made


def test_words_that_are_no_reason_are_refused_before_a_store_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        cleanup.pause(tmp_path / "nowhere.json", "two\nlines", "anna")


def test_a_cleanup_that_could_not_begin_is_noted_where_a_server_works(
    rt: Runtime, settings: Settings
) -> None:
    cleanup.note_refusal(settings.store_file, Runner.SCRIPT, "--results-ttl-seconds: '-1' is not a duration")

    (run,) = remembered(rt)
    assert (run.runner, run.exit_code) == (Runner.SCRIPT, 1)
    assert run.report == {"errors": ["--results-ttl-seconds: '-1' is not a duration"]}


def test_a_store_at_rest_keeps_no_note_of_what_was_refused(rt: Runtime, settings: Settings) -> None:
    rt.store.close()
    database = settings.store_file.with_name("store.v1.sqlite3")
    before = database.read_bytes()

    cleanup.note_refusal(settings.store_file, Runner.SCRIPT, "bad settings")

    assert database.read_bytes() == before


def test_without_a_store_there_is_nothing_to_note(tmp_path: Path) -> None:
    cleanup.note_refusal(tmp_path / "nowhere.json", Runner.SCRIPT, "bad settings")

    assert names(tmp_path) == []


def test_nothing_is_deleted_while_the_clock_has_been_put_forward(
    rt: Runtime, settings: Settings, facts: list[tuple[str, dict[str, Any]]]
) -> None:
    submitted(rt)
    completed(rt, claimed(rt), {"n": 1})
    lead: list[float | None] = [86_400.0]
    chore = cleanup.cleanup_chore(settings, rt.store, lambda: False, lambda: lead[0])

    assert chore.run_once(rt, rt.clock.now()) is None
    lead[0] = None
    report = chore.run_once(rt, rt.clock.now())

    assert isinstance(report, RetentionReport)
    assert report.results.delete_count == 1
    (skipped,) = [values for name, values in facts if name == "cleanup.skipped"]
    assert skipped["reason"] == "clock"
    assert "put forward by 86400 s" in skipped["why"]


def test_a_cleanup_noted_by_a_clock_that_was_ahead_does_not_hold_up_the_next(
    rt: Runtime, settings: Settings, clock: FakeClock
) -> None:
    right = clock.now()
    clock.advance(seconds=86_400)
    assert run_once(settings, rt) is not None
    clock.set(right)

    assert run_once(settings, rt) is not None
