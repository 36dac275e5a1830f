"""./scripts/run_async_retention_cleanup.py, run as an operator's cron would run it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from async_delivery.storage.contract import Transaction
from async_delivery.storage.sqlite_files import lock_path
from async_delivery.storage.storefile import read_store_file
from async_delivery.wiring.stores import open_for_cleanup
from tests.system.live import CHECKOUT, DEADLINE_SECONDS, LiveServer, eventually, run_command

pytestmark = pytest.mark.slow

SCRIPT = CHECKOUT / "scripts/run_async_retention_cleanup.py"
# Several batches of partial results.
STAGES = 300
# The byte of the lock file that the next writer holds; see storage.locks.
TURNSTILE = 1 << 30
ALL = ("--results-ttl-seconds", "0", "--events-ttl-seconds", "0")
SECTION = {
    *("total", "eligible_terminal", "delete_count", "kept_count", "skipped_missing_timestamp"),
    *("held_count", "bytes", "cutoff"),
}
REPORT = {
    *("runner", "store_file", "started_at", "finished_at", "duration_seconds", "dry_run", "now"),
    *("terminal_job_count", "active_job_count", "ttl_seconds", "results", "events", "jobs", "per_tenant"),
    "errors",
}


def clean_up(
    folder: Path, *options: str, script: Path = SCRIPT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(script), *options],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def counts(done: subprocess.CompletedProcess[str]) -> tuple[int, int]:
    report = json.loads(done.stdout)
    return report["results"]["delete_count"], report["events"]["delete_count"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store at rest that holds three ended jobs of two tenants."""
    server = LiveServer(tmp_path_factory.mktemp("filled"), "--slots", "2").start()
    for org in ("alpha", "alpha", "beta"):
        server.ended(server.submit(org=org, stages=2, stage_seconds=0), org=org)
    assert server.stop() == 0
    return server.folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(filled / "runtime", tmp_path / "runtime")
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "2").start()
    yield live
    live.stop()


def digests(folder: Path) -> dict[str, str]:
    """Of the database and its log. The index of the log (-shm) is no content: readers write their marks there."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "runtime/async_jobs").glob("store.v1.*"))
        if not path.name.endswith("-shm") and path.stat().st_size
    }


# ---------------------------------------------------------------- what it does


def test_a_run_deletes_what_is_old_and_a_second_one_nothing(folder: Path) -> None:
    first = clean_up(folder, *ALL)
    second = clean_up(folder, *ALL)

    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stderr == second.stderr == ""
    report = json.loads(first.stdout)
    assert set(report) == REPORT
    assert set(report["results"]) == set(report["events"]) == set(report["jobs"]) == SECTION
    assert report["results"]["delete_count"] == 9
    assert report["terminal_job_count"] == 3
    assert report["ttl_seconds"] == {"results": 0, "events": 0, "jobs": 7_776_000}
    assert set(report["per_tenant"]) == {"alpha", "beta"}
    assert sum(each["results"] for each in report["per_tenant"].values()) == 9
    assert counts(second) == (0, 0)
    assert run_command("store", "check", cwd=folder).returncode == 0


def test_with_its_defaults_young_results_stay(folder: Path) -> None:
    done = clean_up(folder)

    assert done.returncode == 0
    assert counts(done) == (0, 0)
    assert json.loads(done.stdout)["ttl_seconds"] == {
        "results": 604_800,
        "events": 259_200,
        "jobs": 7_776_000,
    }


@pytest.mark.parametrize(("ttl", "seconds"), [("90", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)])
def test_ttls_may_have_a_unit(folder: Path, ttl: str, seconds: int) -> None:
    options = ("--results-ttl-seconds", ttl, "--events-ttl-seconds", ttl, "--jobs-ttl-seconds", ttl)

    done = clean_up(folder, *options)

    assert json.loads(done.stdout)["ttl_seconds"] == dict.fromkeys(("results", "events", "jobs"), seconds)


def test_jobs_go_with_their_last_results_and_off_keeps_them(folder: Path) -> None:
    def run(jobs_ttl: str, *options: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            clean_up(folder, *ALL, "--jobs-ttl-seconds", jobs_ttl, *options).stdout
        )
        return found

    dry, never = run("0", "--dry-run"), run("off")
    live, again = run("0"), run("0")

    assert (never["jobs"]["delete_count"], never["jobs"]["cutoff"], never["ttl_seconds"]["jobs"]) == (
        0,
        None,
        None,
    )
    assert dry["jobs"]["delete_count"] == live["jobs"]["delete_count"] == live["jobs"]["total"] == 3
    assert dry["jobs"]["bytes"] == live["jobs"]["bytes"] > 0
    assert (again["jobs"]["total"], again["terminal_job_count"]) == (0, 0)
    assert run_command("store", "check", cwd=folder).returncode == 0


def test_a_dry_run_changes_no_byte_and_the_next_run_deletes_what_it_counted(folder: Path) -> None:
    before = digests(folder)

    dry = clean_up(folder, *ALL, "--dry-run")

    assert dry.returncode == 0
    assert json.loads(dry.stdout)["dry_run"] is True
    assert digests(folder) == before
    assert counts(clean_up(folder, *ALL)) == counts(dry) != (0, 0)


def test_a_dry_run_beside_a_server_changes_no_byte_of_database_and_log(server: LiveServer) -> None:
    for _ in range(3):
        server.ended(server.submit(stages=2, stage_seconds=0))
    before = digests(server.folder)

    dry = clean_up(server.folder, *ALL, "--dry-run")

    assert dry.returncode == 0
    assert counts(dry)[0] == 9
    assert digests(server.folder) == before


def test_beside_a_server_results_go_and_jobs_stay(server: LiveServer) -> None:
    job = server.ended(server.submit(stages=1, stage_seconds=0))
    running = server.submit(stages=100, stage_seconds=0.1)

    done = clean_up(server.folder, *ALL)

    assert done.returncode == 0
    assert json.loads(done.stdout)["active_job_count"] == 1
    assert server.ask("GET", f"/analyze/results/{job['result_id']}").status == 410
    assert server.job(job["job_id"])["status"] == "completed"
    assert server.job(running)["status"] in {"queued", "running", "partial"}
    server.ask("POST", f"/analyze/jobs/{running}/cancel", {})


# ---------------------------------------------------------------- where it writes


def test_the_report_is_printed_and_written_with_missing_folders_made(folder: Path) -> None:
    done = clean_up(folder, *ALL, "--output-json", "a/b/report.json")

    assert (folder / "a/b/report.json").read_text() == done.stdout
    assert [path.name for path in (folder / "a/b").iterdir()] == ["report.json"]


def test_a_report_replaces_the_one_before_as_a_whole(folder: Path) -> None:
    target = folder / "report.json"
    target.write_text("x" * 100_000)
    target.chmod(0o640)

    done = clean_up(folder, "--output-json", "report.json")

    assert target.read_text() == done.stdout


@pytest.mark.parametrize(
    "target", [".", "/proc/nowhere/report.json", "/dev/null", "file/report.json", "store"]
)
def test_a_report_that_could_not_be_written_is_refused_before_anything_is_touched(
    folder: Path, target: str
) -> None:
    (folder / "file").write_text("in the way")
    named = "runtime/async_jobs/store.v1.json" if target == "store" else target
    before = digests(folder)

    done = clean_up(folder, *ALL, "--output-json", named)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "--output-json" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert digests(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["file", "runtime"]


def test_a_database_is_no_place_for_a_report(folder: Path) -> None:
    done = clean_up(folder, *ALL, "--output-json", "runtime/async_jobs/store.v1.sqlite3")

    assert done.returncode == 1
    assert "belongs to a store" in done.stderr


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--results-ttl-seconds", "-1"], "'-1' is not a duration"),
        (["--events-ttl-seconds", "soon"], "'soon' is not a duration"),
        (["--results-ttl-seconds", "1.5"], "not a whole number of seconds"),
        (["--no-such-option"], "No such option"),
        (["surplus"], "unexpected extra argument"),
        (["--store-file", "no-such.json"], "there is no store file"),
        (["--store-file", "."], "a folder, not a store file"),
    ],
)
def test_bad_settings_and_stores_are_exit_code_1_in_one_line(
    folder: Path, options: list[str], part: str
) -> None:
    before = digests(folder)

    done = clean_up(folder, *options)

    assert done.returncode == 1
    assert done.stdout == ""
    assert part in done.stderr
    assert done.stderr.startswith("run_async_retention_cleanup.py: ")
    assert len(done.stderr.splitlines()) == 1
    assert digests(folder) == before


def test_while_another_cleanup_runs_a_second_one_is_exit_code_3(folder: Path) -> None:
    holder = (
        "import sys; from pathlib import Path\n"
        "from async_delivery.wiring.stores import open_for_cleanup\n"
        "with open_for_cleanup(Path('runtime/async_jobs/store.v1.json'), dry_run=False) as store:\n"
        "    with store.cleanup_lock():\n"
        "        print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        before = digests(folder)

        busy = clean_up(folder, *ALL, "--output-json", "report.json")
        dry = clean_up(folder, *ALL, "--dry-run")
        command = run_command("cleanup", *ALL, cwd=folder)
        after = digests(folder)
        other.communicate("")

    assert busy.returncode == command.returncode == 3
    assert "another cleanup" in busy.stderr
    assert len(busy.stderr.splitlines()) == len(command.stderr.splitlines()) == 1
    assert not (folder / "report.json").exists()
    assert dry.returncode == 0
    assert after == before
    assert clean_up(folder, *ALL).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_between_batches_and_what_was_committed_is_reported(
    server: LiveServer, number: signal.Signals
) -> None:
    server.ended(server.submit(stages=STAGES, stage_seconds=0))
    server.stop()
    stock = json.loads(clean_up(server.folder, *ALL, "--dry-run").stdout)
    assert stock["results"]["delete_count"] == STAGES + 1
    with open_for_cleanup(server.store_file, dry_run=False) as store:
        process = subprocess.Popen(
            [str(SCRIPT), *ALL, "--output-json", "report.json"],
            cwd=server.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def stop_at_the_first_batch(_: Transaction) -> None:
            """Whoever waits for this writer keeps the turnstile, and the first thing the script writes is a batch."""
            eventually(lambda: waits_to_write(server.store_file), "the script has no batch to write")
            process.send_signal(number)
            eventually(lambda: not pending_signals(process.pid), "the signal is not delivered")

        store.write(stop_at_the_first_batch)
        out, err = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == 2, err
    report = json.loads(out)
    assert report["errors"] == ["stopped on request before everything old was deleted"]
    assert (server.folder / "report.json").read_text() == out
    assert len(err.splitlines()) == 1
    assert 0 < report["results"]["delete_count"] < STAGES + 1
    rest = json.loads(clean_up(server.folder, *ALL).stdout)
    for kind in ("results", "events"):
        assert report[kind]["delete_count"] + rest[kind]["delete_count"] == stock[kind]["delete_count"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_is_still_loading_is_one_line_and_nothing_is_deleted(
    folder: Path, number: signal.Signals
) -> None:
    # It signals itself in the middle of its imports, where a slow disk would let a person do it.
    program = (
        "import os, sys, runpy\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'async_delivery.cli.options': os.kill(os.getpid(), {int(number)})\n"
        f"sys.meta_path.insert(0, Press()); sys.argv = [{str(SCRIPT)!r}, *{ALL!r}]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    before = digests(folder)

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr == f"{SCRIPT.name}: stopped on request before anything was deleted\n"
    assert digests(folder) == before


def waits_to_write(store_file: Path) -> bool:
    """True if somebody has passed the turnstile of the store and not begun to write; seen in the kernel's table."""
    inode = lock_path(read_store_file(store_file).database_path).stat().st_ino
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(
        row[5].endswith(f":{inode}") and int(row[6]) == TURNSTILE for row in rows if row[1] == "OFDLCK"
    )


def pending_signals(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))
    )


# Root may write anything; without this capability (CAP_DAC_OVERRIDE, 1) it is bound by the rights of files as well.
UNPRIVILEGED = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, 1)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_what_this_user_may_not_write_is_refused(folder: Path) -> None:
    runtime = folder / "runtime/async_jobs"
    before = digests(folder)
    for path in (*runtime.iterdir(), runtime, folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        store, report = (
            subprocess.run(
                [sys.executable, "-c", UNPRIVILEGED, str(SCRIPT), *ALL, *options],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            for options in ([], ["--output-json", "report.json"])
        )
    finally:
        for path in (folder, runtime):
            path.chmod(0o755)

    assert (store.returncode, report.returncode) == (1, 1)
    assert len(store.stderr.splitlines()) == len(report.stderr.splitlines()) == 1
    assert f"--output-json: cannot write {folder}/report.json: Permission denied" in report.stderr
    assert digests(folder) == before


# ---------------------------------------------------------------- how it is started


def test_it_runs_from_anywhere_through_a_link_with_a_python_that_has_no_dependencies(
    folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    # -S: without site-packages, as an interpreter of the system would be.
    (bare / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (bare / "python3").chmod(0o755)
    (folder / "scripts").symlink_to(CHECKOUT / "scripts")

    done = clean_up(
        folder,
        "--dry-run",
        script=folder / "scripts/run_async_retention_cleanup.py",
        env={"PATH": f"{bare}:/usr/bin:/bin"},
    )

    if (CHECKOUT / ".venv/bin/python").exists():
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["terminal_job_count"] == 3
    else:
        assert done.returncode == 1
        assert "make setup" in done.stderr


def test_without_any_environment_of_its_own_it_says_how_to_get_one(folder: Path) -> None:
    """A checkout without .venv, started by a Python without the dependencies."""
    copy = folder / "checkout"
    (copy / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, copy / "scripts")
    shutil.copytree(
        CHECKOUT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache")
    )

    done = subprocess.run(
        [sys.executable, "-S", str(copy / "scripts" / SCRIPT.name), "--dry-run"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert "make setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_settings_of_the_environment_hold_for_it_too(folder: Path) -> None:
    env = {**os.environ, "ASYNC_DELIVERY_RESULTS_TTL_SECONDS": "1h"}

    from_environment = clean_up(folder, env=env)
    from_flag = clean_up(folder, "--results-ttl-seconds", "2h", env=env)

    assert json.loads(from_environment.stdout)["ttl_seconds"]["results"] == 3_600
    assert json.loads(from_flag.stdout)["ttl_seconds"]["results"] == 7_200


def test_the_command_and_the_script_give_the_same_report(folder: Path) -> None:
    changing = {"started_at", "finished_at", "duration_seconds", "now"}

    def lasting(report: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in report.items() if name not in changing}
        for kind in ("results", "events", "jobs"):
            kept[kind] = {name: value for name, value in kept[kind].items() if name != "cutoff"}
        return kept

    script = json.loads(clean_up(folder, *ALL, "--dry-run").stdout)
    command = json.loads(run_command("cleanup", "run", *ALL, "--dry-run", "--json", cwd=folder).stdout)

    assert lasting(command) == lasting(script)


def test_a_reader_that_goes_away_changes_nothing_of_the_run(folder: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{SCRIPT} {' '.join(ALL)} --output-json report.json | true"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert done.stderr == ""
    assert json.loads((folder / "report.json").read_text())["results"]["delete_count"] == 9
