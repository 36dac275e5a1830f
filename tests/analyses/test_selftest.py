from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from async_delivery.analyses.selftest import selftest
from async_delivery.plugins import AnalysisError, CancelRequested, InvalidInputError, RetryableError
from async_delivery.testing import RecordingContext, run_inline

DEADLINE_SECONDS = 30


def test_by_default_it_goes_through_three_stages_with_a_partial_each() -> None:
    run = run_inline(selftest, {"stage_seconds": 0}, query="any text at all")

    assert [each["stage"] for each in run.partials] == [1, 2, 3]
    assert [each.percent for each in run.progress] == [25, 50, 75]
    assert run.result == {
        "selftest": True,
        "query": "any text at all",
        "stages": 3,
        "outcome": "complete",
        "attempt": 1,
    }


def test_without_stages_it_only_answers() -> None:
    run = run_inline(selftest, {"stages": 0})

    assert (run.partials, run.progress) == ([], [])
    assert run.result["stages"] == 0


def test_the_payload_has_the_bytes_that_were_asked_for() -> None:
    run = run_inline(selftest, {"stages": 0, "payload_bytes": 70_000})

    assert run.result["payload"] == "x" * 70_000


def test_an_uploaded_file_is_named_in_the_result(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"12345")

    run = run_inline(selftest, {"stages": 0}, input=tmp_path / "f.bin")

    assert run.result["input"] == {"filename": "f.bin", "bytes": 5}


def test_asked_to_fail_it_fails_for_good_after_its_stages() -> None:
    with pytest.raises(AnalysisError) as caught:
        run_inline(selftest, {"stages": 0, "outcome": "fail"})

    assert (caught.value.code, caught.value.retryable) == ("analysis_error", False)


def test_asked_to_retry_it_fails_once_and_then_completes() -> None:
    params = {"stages": 0, "outcome": "retry_then_complete"}

    with pytest.raises(RetryableError):
        run_inline(selftest, params)

    assert run_inline(selftest, params, attempt=2).result["attempt"] == 2
    assert selftest.info().limits.retry_base_seconds <= 0.2


@pytest.mark.parametrize("outcome", ["crash", "hang", "memory", "flood"])
def test_without_fault_injection_nothing_breaks(outcome: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        run_inline(selftest, {"stages": 0, "outcome": outcome})

    assert caught.value.field == "params.outcome"


@pytest.mark.parametrize(
    "params",
    [
        {"stages": -1},
        {"stages": 1001},
        {"stages": 1.5},
        {"stage_seconds": 3601},
        {"payload_bytes": 2**26 + 1},
        {"outcome": "explode"},
        {"stages": True},
        {"more": 1},
    ],
)
def test_params_outside_their_range_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        run_inline(selftest, params)


def test_cancel_is_heard_in_the_middle_of_a_stage(tmp_path: Path) -> None:
    context = RecordingContext(tmp_path)
    threading.Timer(0.1, context.cancel).start()
    began = time.monotonic()

    with pytest.raises(CancelRequested):
        selftest.run({"stages": 1, "stage_seconds": 3600}, context)

    assert time.monotonic() - began < DEADLINE_SECONDS


def test_a_crash_is_a_real_one(tmp_path: Path) -> None:
    process = _start(_crash, tmp_path)

    process.join(DEADLINE_SECONDS)

    assert process.exitcode == -signal.SIGSEGV


def test_a_hang_hears_neither_cancel_nor_sigterm(tmp_path: Path) -> None:
    ready, say_ready = multiprocessing.Pipe(duplex=False)
    process = _start(_hang, tmp_path, say_ready)
    assert ready.poll(DEADLINE_SECONDS)
    assert process.pid is not None
    _wait_until(lambda: _ignores(process.pid or 0, signal.SIGTERM))

    os.kill(process.pid, signal.SIGTERM)
    process.join(0.3)
    assert process.is_alive()

    process.kill()
    process.join(DEADLINE_SECONDS)
    assert process.exitcode == -signal.SIGKILL


def test_memory_grows_until_the_limit_stops_it(tmp_path: Path) -> None:
    process = _start(_memory, tmp_path)

    process.join(DEADLINE_SECONDS)

    assert process.exitcode == 7, "the memory limit of the child was not reached"


def test_a_flood_fills_both_streams_and_completes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from async_delivery.analyses import selftest as module

    monkeypatch.setattr(module, "_FLOOD_LINES", 2048)

    run = run_inline(selftest, {"stages": 0, "outcome": "flood"}, fault_injection=True)

    assert run.result["outcome"] == "flood"
    out, err = capfd.readouterr()
    assert len(out) == len(err) == 2048 * 1024


def test_its_catalogue_entry_is_plain_json() -> None:
    assert json.dumps(dict(selftest.info().params_schema))


def _run(folder: Path, outcome: str) -> None:
    selftest.run({"stages": 0, "outcome": outcome}, RecordingContext(folder, fault_injection=True))


def _crash(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _run(folder, "crash")


def _hang(folder: Path, say_ready: object) -> None:
    say_ready.send(True)  # type: ignore[attr-defined]
    _run(folder, "hang")


def _memory(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (256 * 2**20, 256 * 2**20))
    try:
        _run(folder, "memory")
    except MemoryError:
        sys.exit(7)


def _start(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _ignores(pid: int, number: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
