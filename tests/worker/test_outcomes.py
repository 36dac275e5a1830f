"""Whatever an analysis does, its job ends with the right words, and nobody else's job notices."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from async_delivery.domain.failure import RetryHint
from async_delivery.domain.job import Job, JobStatus
from async_delivery.engine import inputs
from async_delivery.worker import limits, reports
from tests.worker.support import ORG, World, alive, eventually


def failed(job: Job) -> tuple[str, str, bool]:
    assert job.status is JobStatus.FAILED, job
    assert job.error is not None
    return job.error.code, job.error.message, job.error.retryable


def test_a_good_analysis_completes_with_its_result(world: World) -> None:
    job = world.run("fine", value=7)

    assert job.status is JobStatus.COMPLETED
    assert world.result(job)["value"] == 7
    assert world.events(job) == ["job.queued", "job.running", "job.completed"]


def test_an_analysis_sees_its_own_job_and_a_private_folder(world: World) -> None:
    seen = world.output("echo", query="who am I", timeout_seconds=60)

    assert seen["query"] == "who am I"
    assert seen["attempt"] == 1
    assert seen["workdir_entries"] == []
    assert seen["workdir_mode"] == "0o700"
    assert seen["cwd_is_workdir"] is True
    assert seen["umask"] == "0o77"
    assert seen["fault_injection"] is True
    assert 50 < seen["seconds_left"] <= 60
    assert seen["data_root"] is None


def test_an_uploaded_file_reaches_the_analysis_under_a_name_of_the_services_own(world: World) -> None:
    file = inputs.keep_input(world.rt, ORG, "../../etc/passwd", "text/csv", [b"a,b\n", b"1,2\n"], 1000)

    job = world.run("echo", input=file)

    seen = world.result(job)
    assert seen["content"] == "a,b\n1,2\n"
    assert seen["filename"] == "../../etc/passwd"
    assert seen["stored_as"] == f"{job.job_id}-1.input"
    assert seen["workdir_entries"] == []
    eventually(lambda: not list(world.settings.work_root.rglob("*.input")), "the file is still there")


def test_an_input_that_is_gone_fails_the_job_with_input_not_found(make_world: Any, tmp_path: Path) -> None:
    world: World = make_world()
    file = inputs.keep_input(world.rt, ORG, "data.csv", None, [b"a,b\n"], 1000)
    job = world.submit("echo", input=file)
    with closing(sqlite3.connect(tmp_path / "store.v1.sqlite3", isolation_level=None)) as database:
        database.execute("DELETE FROM input_chunks")

    world.start()

    assert failed(world.ended(job))[0] == "input_not_found"


@pytest.mark.parametrize(
    ("analysis", "asked", "words"),
    [
        ("segfault", {}, "SIGSEGV"),
        ("exits", {"code": 3}, "exit code 3"),
        ("exits", {"code": 3, "raw": True}, "exit code 3"),
        ("overflows", {}, "SIGSEGV"),
        ("closes-everything", {}, "closed its connection"),
        ("forges", {"what": "garbage"}, "cannot be read"),
        ("forges", {"what": "downward"}, "cannot be read"),
        ("forges", {"what": "partial"}, "cannot be read"),
    ],
)
def test_a_child_that_dies_by_itself_is_retried_and_then_fails_as_crashed(
    world: World, analysis: str, asked: dict[str, Any], words: str
) -> None:
    job = world.run(analysis, **asked)

    code, message, retryable = failed(job)
    assert code == "worker_crashed"
    assert words in message
    assert retryable
    assert job.error is not None
    assert job.error.retry_hint is RetryHint.RETRY_WITH_BACKOFF
    assert job.attempt == job.error_count == 3
    assert world.events(job).count("job.attempt_failed") == 2


@pytest.mark.parametrize("asked", [{"code": 0}, {"code": 0, "raw": True}])
def test_a_clean_exit_without_a_result_is_a_failure_and_is_not_retried(
    world: World, asked: dict[str, Any]
) -> None:
    job = world.run("exits", **asked)

    assert failed(job)[0] == "exited_without_result"
    assert job.attempt == 1


@pytest.mark.parametrize("way", ["python", "mmap", "child", "swallow"])
def test_an_analysis_that_wants_too_much_memory_is_stopped_with_out_of_memory(world: World, way: str) -> None:
    job = world.run("eats", way=way)

    code, message, _ = failed(job)
    assert code == "out_of_memory"
    assert "256 MiB" in message
    assert job.attempt == 1


def test_a_memory_error_that_the_analysis_raises_itself_is_out_of_memory_too(world: World) -> None:
    assert failed(world.run("raises", what="memory"))[0] == "out_of_memory"


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("unpicklable", "analysis_error", "UnpicklableError"),
        ("value", "analysis_error", "ValueError: the first line"),
        ("invalid", "invalid_input", "params.what: must be nice"),
        ("own", "my_own_code", "mine"),
        ("keyboard", "analysis_error", "KeyboardInterrupt"),
        ("odd", "analysis_error", r"ValueError: half \ud800 and \x00 nul"),
        ("own-odd", "my_own_code", r"mine \ud800\x00"),
    ],
)
def test_what_an_analysis_raises_becomes_the_jobs_error(
    world: World, what: str, code: str, words: str
) -> None:
    job = world.run("raises", what=what)

    assert failed(job)[0] == code
    assert words in failed(job)[1]
    assert "\n" not in failed(job)[1]
    assert job.attempt == 1


@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("raises", 1)])
def test_a_fork_that_comes_back_says_nothing_in_the_name_of_the_attempt(
    world: World, how: str, code: int
) -> None:
    for _ in range(5):
        job = world.run("returns-in-a-fork", how=how)

        assert job.status is JobStatus.COMPLETED, job.error
        assert world.result(job) == {"own": True, "fork_ended_with": code}
        assert job.partial_count == 5
        assert job.message == "own"


def test_a_fork_that_comes_back_after_the_end_takes_no_orders_of_the_next_attempt(world: World) -> None:
    for _ in range(4):
        job = world.run("returns-in-a-fork", how="late")

        assert world.result(job) == {"own": True}
        assert job.attempt == 1


def test_words_that_have_no_utf8_do_not_take_the_report_with_them(world: World) -> None:
    job = world.run("reports-oddly")

    assert job.progress_percent == 100
    assert (job.stage, job.message) == (r"half \ud800", r"nul \x00")


def test_the_traceback_is_in_the_log_and_not_in_the_error(world: World) -> None:
    job = world.run("raises", what="value")

    assert "Traceback" in world.log(job)
    assert "the second line" in world.log(job)
    assert "Traceback" not in failed(job)[1]


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("cycle", "$.a[0]"),
        ("set", "$.rows[0].x"),
        ("nan", "$.mean"),
        ("bytes", "$"),
        ("keys", "$"),
        ("surrogate", "$.'text'"),
        ("object", "$.at"),
    ],
)
def test_a_result_without_a_json_form_fails_with_the_path_of_the_place(
    world: World, what: str, path: str
) -> None:
    job = world.run("returns", what=what)

    assert failed(job)[0] == "result_not_serializable"
    assert path in failed(job)[1]
    assert job.attempt == 1


def test_a_result_beyond_the_limit_fails_as_too_large(world: World) -> None:
    code, message, _ = failed(world.run("returns", what="huge"))

    assert code == "result_too_large"
    assert "1048576" in message


def test_none_is_a_result(world: World) -> None:
    assert world.output("returns", what="none") is None


@pytest.mark.parametrize(
    ("what", "code"),
    [("pickle", "result_not_serializable"), ("endless", "result_too_large"), ("error", "analysis_error")],
)
def test_forged_frames_end_the_attempt_and_nothing_else(world: World, what: str, code: str) -> None:
    job = world.run("forges", what=what)

    assert failed(job)[0] == code
    assert world.output("fine", value=1)["value"] == 1


def test_progress_that_makes_no_sense_is_left_out(world: World) -> None:
    assert world.output("forges", what="progress") == {"forged": "progress"}


def test_partial_results_are_kept_in_order_and_the_final_one_after_them(world: World) -> None:
    job = world.run("partials", count=5)

    assert job.partial_count == 5
    assert world.events(job) == ["job.queued", "job.running", *["job.partial"] * 5, "job.completed"]
    assert world.result(job) == {"count": 5}


@pytest.mark.parametrize(("what", "code"), [("huge", "result_too_large"), ("set", "result_not_serializable")])
def test_a_bad_partial_fails_the_job(world: World, what: str, code: str) -> None:
    assert failed(world.run("partials", what=what))[0] == code


def test_partials_without_end_are_stopped_at_the_cap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_PARTIALS_PER_JOB", 20)

    job = world.run("partials", count=50)

    assert failed(job)[0] == limits.TOO_MANY_PARTIALS
    assert job.partial_count == 20


def test_progress_without_measure_costs_few_writes_and_keeps_the_last_word(world: World) -> None:
    began = time.monotonic()
    job = world.run("chatters")
    seconds = time.monotonic() - began

    assert job.status is JobStatus.COMPLETED
    assert job.stage == "the last word"
    assert job.message == "\\x1b[2Jmessage \\x00"
    assert world.events(job).count("job.progress") <= 3 + seconds / world.settings.progress_interval_seconds


def test_a_retryable_error_is_tried_again_until_it_passes(world: World) -> None:
    job = world.run("retries", until=3)

    assert world.result(job) == {"attempt": 3}
    assert job.error_count == 2


def test_an_analysis_may_say_when_to_try_again(world: World) -> None:
    job = world.run("retries", until=2, after=0.3)

    assert job.status is JobStatus.COMPLETED
    starts = [told["job"].updated_at for told in world.told("attempt.started")]
    assert 0.29 <= (starts[1] - starts[0]).total_seconds() < 10


def test_a_child_killed_by_hand_is_noticed_at_once_and_run_again(world: World) -> None:
    job = world.submit("cooperates", steps=300)
    pid = world.first_partial(job)["pid"]
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    eventually(lambda: len(world.told("attempt.started")) == 2, "not run again", seconds=2.0)

    assert time.monotonic() - killed < 2.0
    assert world.ended(job).attempt == 2
    assert world.result(world.job(job)) == {"stopped_at": 300}


def test_neighbours_of_analyses_that_die_in_every_way_do_not_notice(make_world: Any) -> None:
    world: World = make_world(slots=3).start()
    faults: list[tuple[str, dict[str, Any]]] = [
        ("segfault", {}),
        ("exits", {}),
        ("eats", {"way": "python"}),
        ("forges", {"what": "garbage"}),
        ("raises", {"what": "unpicklable"}),
        ("returns", {"what": "cycle"}),
        ("leaves-daemon", {"then": "die"}),
    ]
    bad = [world.submit(name, **asked) for name, asked in faults]
    good = [world.submit("fine", value=number) for number in range(30)]

    for number, job in enumerate(good):
        done = world.ended(job)
        assert done.attempt == 1
        assert world.result(done)["value"] == number
    for job in bad:
        assert world.ended(job).status is JobStatus.FAILED


def test_a_small_fork_bomb_leaves_nothing_behind(world: World) -> None:
    job = world.submit("forks", timeout_seconds=3.0)
    eventually(lambda: len(named("ad-forks")) > 10, "no bomb")

    assert failed(world.ended(job))[0] == "timeout"

    eventually(lambda: not named("ad-forks"), "the fork bomb lives on")


def named(name: str) -> list[int]:
    """Processes of that name."""
    # With the attribute asked for up front, psutil passes over processes that end meanwhile.
    return [process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == name]


@pytest.mark.parametrize("then", ["complete", "die", "fail"])
def test_a_daemon_that_an_analysis_leaves_ends_with_its_attempt(world: World, then: str) -> None:
    job = world.submit("leaves-daemon", then=then)

    daemon = world.first_partial(job)["daemon"]
    done = world.ended(job)

    assert done.status is (JobStatus.COMPLETED if then == "complete" else JobStatus.FAILED)
    eventually(lambda: not alive(daemon), "the daemon lives on")


def test_a_flood_of_output_keeps_its_end_and_says_how_much_is_gone(world: World) -> None:
    job = world.run("floods", mebibytes=32)

    log = world.log(job)
    assert job.status is JobStatus.COMPLETED
    assert log.endswith("the end\n")
    assert "bytes before this were dropped" in log.splitlines()[0]
    assert len(log) < world.settings.log_bytes + 100


def test_binary_output_is_kept_as_clean_text(world: World) -> None:
    log = world.log(world.run("prints"))

    assert "plain text\n" in log
    assert "to stderr\n" in log
    assert "from a subprocess\n" in log
    assert "\\x00\\x07\\x1b[31mred\\x1b[0m \ufffd\ufffd \\x202e reversed\n50 %\n100 %\n" in log
    assert all(char == "\n" or char.isprintable() for char in log)


def test_an_analysis_may_close_its_streams(world: World) -> None:
    first = world.run("prints", closes=True)
    second = world.run("prints")

    assert first.status is second.status is JobStatus.COMPLETED
    assert "from a subprocess" in world.log(second)


def test_what_resists_removal_is_removed_with_the_workdir(world: World) -> None:
    made = world.output("litters")

    assert made["temporary"].startswith(made["workdir"])
    eventually(lambda: not os.path.lexists(made["workdir"]), "the workdir is still there")
    assert os.path.isdir("/usr")


def test_an_analysis_that_stops_as_canceled_unasked_fails(world: World) -> None:
    code, message, _ = failed(world.run("cancels-itself"))

    assert code == "analysis_error"
    assert "nobody" in message


def test_a_job_of_an_analysis_that_is_gone_fails_with_its_reason(make_world: Any, infos: Any) -> None:
    world: World = make_world()
    job = world.submit("fine")
    world.close()
    world = make_world(infos=[info for info in infos if info.name != "fine"])

    world.start()

    code, message, _ = failed(world.ended(job))
    assert code == "analysis_unavailable"
    assert "fine" in message
