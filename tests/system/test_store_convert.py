"""``store convert|import|export`` and the cleanup script on a document, as a person at a shell has them."""

from __future__ import annotations

import json
import resource
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.storage.documents import Json, whole, written
from tests.system.live import CHECKOUT, DEADLINE_SECONDS, LiveServer, eventually, run_command
from tests.system.test_cleanup_script import ALL, clean_up, counts

pytestmark = pytest.mark.slow

STORE = "runtime/async_jobs/store.v1.json"
STATES = ("completed", "failed", "canceled", "queued", "running", "completed")


def document(folder: Path, content: Json | str | None = None) -> Path:
    path = folder / STORE
    path.parent.mkdir(parents=True)
    return written(path, whole(*STATES) if content is None else content)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in (folder / STORE).parent.iterdir())


def store(folder: Path, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_command("store", *args, cwd=folder, **options)


# ---------------------------------------------------------------- the older form is named
@pytest.mark.parametrize(
    "command",
    [
        ("serve", "--port", "0"),
        ("store", "info"),
        ("store", "export", "x.json"),
        ("cleanup", "pause", "--why", "x"),
    ],
)
def test_a_command_that_cannot_open_it_names_the_one_that_helps(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    path = document(tmp_path)
    before = path.read_bytes()

    done = run_command(*command, cwd=tmp_path)

    assert done.returncode == 1
    assert "the older form of a store" in done.stderr
    assert f"async-delivery store convert --store-file {STORE}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before
    assert names(tmp_path) == ["store.v1.json"]


def test_the_command_it_names_works_as_it_is_also_for_odd_names(tmp_path: Path) -> None:
    path = written(tmp_path / "my store;.json", whole("completed"))
    said = store(tmp_path, "info", "--store-file", str(path)).stderr

    command = shlex.split(said.partition("convert it first with: async-delivery ")[2])

    assert run_command(*command, cwd=tmp_path).returncode == 0
    assert store(tmp_path, "check", "--store-file", str(path)).returncode == 0


# ---------------------------------------------------------------- convert
def test_a_document_becomes_a_store_that_serves_its_results(tmp_path: Path) -> None:
    path = document(tmp_path)
    path.chmod(0o600)
    original, inode = path.read_bytes(), path.stat().st_ino

    done = store(tmp_path, "convert", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert Path(facts["backup"]).name.startswith("store.v1.json.bak-")
    backup = tmp_path / facts["backup"]
    assert (backup.read_bytes(), backup.stat().st_ino) == (original, inode)
    assert json.loads(path.read_text())["kind"] == "async-delivery-store"
    counted = facts["counts"]
    assert counted["jobs"] == {"read": 6, "taken": 5, "odd": 1, "refused": 0, "there": 0, "made": 0}
    assert all(it["read"] == it["taken"] + it["odd"] + it["refused"] for it in counted.values())
    account = json.loads((tmp_path / facts["account"]).read_text())
    assert account["kind"] == "async-delivery-account"
    assert account["counts"] == counted
    assert [entry["id"] for entry in account["entries"] if entry["verdict"] == "odd"] == ["job-4"]
    with_content = [each for each in path.parent.iterdir() if each.name != "store.v1.json.lock"]
    assert {each.stat().st_mode & 0o777 for each in with_content} == {0o600}
    assert names(tmp_path) == sorted(
        [
            *("store.v1.json", "store.v1.json.lock", "store.v1.sqlite3", "store.v1.sqlite3.lock"),
            *(Path(facts["backup"]).name, Path(facts["account"]).name),
        ]
    )
    assert store(tmp_path, "check").returncode == 0
    server = LiveServer(tmp_path, "--slots", "1", "--results-ttl-seconds", "36500d").start()
    try:
        answer = server.ask("GET", "/analyze/jobs/job-0", org="alpha")
        assert answer.status == 200
        assert json.loads(answer.body)["job"]["status"] == "completed"
        assert server.ask("GET", "/analyze/jobs/job-0", org="beta").status == 404
    finally:
        server.stop()


def test_a_second_run_says_that_it_is_done(tmp_path: Path) -> None:
    document(tmp_path)
    store(tmp_path, "convert")
    before = names(tmp_path)

    again = store(tmp_path, "convert")
    as_json = store(tmp_path, "convert", "--json")

    assert (again.returncode, again.stdout) == (0, "")
    assert "already; there is nothing to convert" in again.stderr
    assert json.loads(as_json.stdout)["already"] is True
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        (json.dumps(whole("completed"))[:-9], "truncated"),
        ('{"schema_version": 9, "jobs": {}}', "newer"),
        ('{"name": "package"}', "not a store file"),
        ('{"schema_version": 3, "jobs": []}', "no object"),
    ],
)
def test_what_is_no_such_document_is_refused_and_stays(tmp_path: Path, content: str, words: str) -> None:
    path = document(tmp_path, content)

    done = store(tmp_path, "convert")

    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() == content
    assert set(names(tmp_path)) <= {"store.v1.json", "store.v1.json.lock"}


def test_a_database_that_holds_jobs_already_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    document(tmp_path / "other")
    store(tmp_path / "other", "convert")
    path = document(tmp_path)
    before = path.read_bytes()

    done = store(tmp_path, "convert", "--store-url", "sqlite:../../other/runtime/async_jobs/store.v1.sqlite3")

    assert done.returncode == 1
    assert "with 6 jobs" in done.stderr
    assert path.read_bytes() == before
    assert store(tmp_path / "other", "check").returncode == 0


def test_of_two_at_once_one_converts_and_the_other_says_why_not(tmp_path: Path) -> None:
    document(tmp_path, whole(*["completed"] * 400))
    command = ["store", "convert"]
    program = str(CHECKOUT / ".venv/bin/async-delivery")
    both = [
        subprocess.Popen(
            [program, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        ended = [(each.communicate(timeout=DEADLINE_SECONDS), each.returncode) for each in both]
    finally:
        for each in both:
            each.kill()
    said = [text for (_, text), code in ended if code != 0 or "already" in text]
    assert sorted(code for _, code in ended) in ([0, 0], [0, 1])
    assert len(said) == 1
    assert "is running" in said[0] or "already" in said[0]
    assert store(tmp_path, "check").returncode == 0
    assert len([name for name in names(tmp_path) if ".bak-" in name]) == 1


@pytest.mark.parametrize("after_seconds", [0.3, 0.6, 0.9])
def test_killed_and_started_again_it_finishes(tmp_path: Path, after_seconds: float) -> None:
    path = document(tmp_path, whole(*["completed"] * 300))
    original = path.read_bytes()
    program = str(CHECKOUT / ".venv/bin/async-delivery")
    running = subprocess.Popen([program, "store", "convert"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        running.wait(after_seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGKILL)
        running.wait(DEADLINE_SECONDS)
        assert (
            path.read_bytes() == original or json.loads(path.read_bytes())["kind"] == "async-delivery-store"
        )

    done = store(tmp_path, "convert")

    assert done.returncode == 0
    assert store(tmp_path, "check").returncode == 0
    info = json.loads(store(tmp_path, "info", "--json").stdout)
    assert info["counts"]["jobs"] == 300
    backups = [each for each in path.parent.iterdir() if ".bak-" in each.name]
    assert [each.read_bytes() for each in backups] == [original]
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM; run it again")],
)
def test_a_signal_ends_it_in_one_line_with_the_document_in_its_place(
    tmp_path: Path, number: signal.Signals, code: int, words: str
) -> None:
    path = document(tmp_path, whole(*["completed"] * 1_000))
    original = path.read_bytes()
    program = str(CHECKOUT / ".venv/bin/async-delivery")
    running = subprocess.Popen([program, "store", "convert"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        database = path.with_name("store.v1.sqlite3-wal")
        eventually(lambda: database.exists() and database.stat().st_size > 100_000, "nothing is moved")
        running.send_signal(number)
        _, err = running.communicate(timeout=DEADLINE_SECONDS)
    finally:
        running.kill()
        running.wait()

    assert (running.returncode, err) == (code, f"async-delivery: {words}\n")
    assert path.read_bytes() == original
    assert [name for name in names(tmp_path) if name.endswith((".new", ".part"))] == []
    assert [name for name in names(tmp_path) if ".bak-" in name or "account" in name] == []
    assert store(tmp_path, "convert").returncode == 0
    assert json.loads(store(tmp_path, "info", "--json").stdout)["counts"]["jobs"] == 1_000


# ---------------------------------------------------------------- import and export
def test_what_is_exported_imports_elsewhere_and_exports_the_same(tmp_path: Path) -> None:
    document(tmp_path)
    store(tmp_path, "convert")
    there = tmp_path / "there"
    there.mkdir()
    store(there, "init")

    to_file = store(tmp_path, "export", "one.json")
    to_pipe = store(tmp_path, "export")
    first = store(there, "import", "../one.json")
    second = store(there, "import", "../one.json", "--json")
    back = store(there, "export", "-")

    assert [each.returncode for each in (to_file, to_pipe, first, second, back)] == [0] * 5
    assert "6 jobs entered, 0 were there already" in first.stderr
    assert json.loads(second.stdout)["counts"]["jobs"]["there"] == 6
    assert (tmp_path / "one.json").read_text() == to_pipe.stdout == back.stdout
    assert store(there, "check").returncode == 0


def test_an_export_writes_over_nothing(tmp_path: Path) -> None:
    store(tmp_path, "init")
    (tmp_path / "one.json").write_text("mine")

    done = store(tmp_path, "export", "one.json")

    assert (done.returncode, (tmp_path / "one.json").read_text()) == (1, "mine")
    assert "exists already" in done.stderr


@pytest.mark.parametrize("spelling", ["x.json", "./runtime/../x.json"])
def test_an_account_does_not_take_the_place_of_its_document(tmp_path: Path, spelling: str) -> None:
    document(tmp_path)
    store(tmp_path, "convert")

    done = store(tmp_path, "export", "x.json", "--account", spelling)

    assert done.returncode == 1
    assert done.stderr == (
        "async-delivery: x.json: cannot be both the document and its account; name another --account\n"
    )
    assert not (tmp_path / "x.json").exists()


def test_an_account_does_not_take_the_place_of_the_new_database(tmp_path: Path) -> None:
    path = document(tmp_path)
    original = path.read_bytes()

    done = store(tmp_path, "convert", "--account", str(path.with_name("store.v1.sqlite3")))

    assert done.returncode == 1
    assert "is no account" in done.stderr
    assert path.read_bytes() == original
    assert store(tmp_path, "convert").returncode == 0
    assert json.loads(store(tmp_path, "info", "--json").stdout)["counts"]["jobs"] == len(STATES)


def test_moves_that_begin_in_the_same_second_have_an_account_each(tmp_path: Path) -> None:
    path = document(tmp_path)
    store(tmp_path, "init", "--store-file", "other/store.json")
    program = str(CHECKOUT / ".venv/bin/async-delivery")
    command = [program, "store", "import", str(path), "--store-file", "other/store.json"]

    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]

    assert [each.wait(DEADLINE_SECONDS) for each in both] == [0, 0]
    accounts = list((tmp_path / "other").glob("*.account.json"))
    assert len(accounts) == 2
    read = [json.loads(each.read_bytes())["counts"]["jobs"] for each in accounts]
    assert sorted(each["there"] for each in read) == [0, len(STATES)]


def test_a_job_that_is_another_one_here_is_named_and_exit_code_1(tmp_path: Path) -> None:
    document(tmp_path)
    store(tmp_path, "convert")
    other = whole("completed", "completed")
    other["jobs"]["job-1"]["correlation_id"] = "another"
    other["jobs"]["job-9"] = {**other["jobs"]["job-1"], "job_id": "job-9", "result_id": None}
    written(tmp_path / "other.json", other)

    done = store(tmp_path, "import", "other.json", "--account", "account.json")

    assert done.returncode == 1
    assert "refused jobs/job-1" in done.stderr
    assert "1 jobs entered, 1 were there already" in done.stderr
    entries = json.loads((tmp_path / "account.json").read_text())["entries"]
    assert {"jobs", "results", "events"} <= {each["kind"] for each in entries if each["job_id"] == "job-1"}
    refused = next(each for each in entries if each["kind"] == "jobs" and each["id"] == "job-1")
    assert refused["record"]["correlation_id"] == "another"


def test_a_store_file_is_no_document_to_import(tmp_path: Path) -> None:
    store(tmp_path, "init")

    done = store(tmp_path, "import", STORE)

    assert done.returncode == 1
    assert "store export" in done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "2", "--default-analysis", "selftest").start()
    yield live
    live.stop()


def test_beside_a_server_imported_jobs_run_and_an_export_is_of_one_moment(
    server: LiveServer, tmp_path: Path
) -> None:
    waiting = whole("queued")
    waiting["jobs"]["job-0"]["request_payload_json"] = {"params": {"stages": 1, "stage_seconds": 0}}
    written(tmp_path / "d.json", waiting)

    done = store(tmp_path, "import", "d.json", "--default-analysis", "selftest")

    assert done.returncode == 0, done.stderr

    def completed() -> bool:
        answer = server.ask("GET", "/analyze/jobs/job-0", org="alpha")
        return bool(json.loads(answer.body)["job"]["status"] == "completed")

    eventually(completed, "the imported job has completed")
    out = store(tmp_path, "export", "out.json")
    assert out.returncode == 0
    assert set(json.loads((tmp_path / "out.json").read_text())["jobs"]) == {"job-0"}
    assert "were there already" in store(tmp_path, "import", "d.json").stderr


# ---------------------------------------------------------------- the cleanup script on a document
def test_the_script_cleans_a_document_in_place(tmp_path: Path) -> None:
    path = document(tmp_path)
    before = path.read_bytes()

    dry = clean_up(tmp_path, *ALL, "--dry-run")
    assert (dry.returncode, dry.stderr, path.read_bytes()) == (0, "", before)
    assert names(tmp_path) == ["store.v1.json"]
    live = clean_up(tmp_path, *ALL, "--output-json", "a/report.json")
    second = clean_up(tmp_path, *ALL)

    assert (live.returncode, second.returncode, live.stderr) == (0, 0, "")
    assert counts(live) == counts(dry) == (6, 16)
    assert counts(second) == (0, 0)
    assert (tmp_path / "a/report.json").read_text() == live.stdout
    assert set(json.loads(live.stdout)) == set(json.loads(dry.stdout))
    assert names(tmp_path) == ["store.v1.json", "store.v1.json.lock"]
    # They ended long ago, so they have gone as well; those that still run have not.
    assert set(json.loads(path.read_text())["jobs"]) == {"job-3", "job-4"}
    table = run_command("cleanup", *ALL, "--dry-run", cwd=tmp_path)
    assert (table.returncode, "WOULD DELETE" in table.stdout) == (0, True)
    assert store(tmp_path, "convert").returncode == 0
    assert store(tmp_path, "check").returncode == 0


def test_two_cleanups_of_a_document_exclude_each_other(tmp_path: Path) -> None:
    path = document(tmp_path)
    program = "import sys, pathlib; from async_delivery.storage.conversion import only_one\n"
    holder = subprocess.Popen(
        [
            str(CHECKOUT / ".venv/bin/python"),
            "-c",
            f"{program}with only_one(pathlib.Path({str(path)!r})): print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = path.read_bytes()

        second = clean_up(tmp_path, *ALL)

        assert second.returncode == 3
        assert "is running" in second.stderr
        assert path.read_bytes() == before
    finally:
        holder.kill()
        holder.communicate(timeout=DEADLINE_SECONDS)
    assert clean_up(tmp_path, *ALL).returncode == 0


def test_without_room_for_the_new_document_the_old_one_stays_and_nothing_else(tmp_path: Path) -> None:
    path = document(tmp_path, whole(*["completed", "queued"] * 40))
    before = path.read_bytes()

    def no_room() -> None:
        # Where a file would grow beyond this, writing fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, 8_192))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [str(CHECKOUT / "scripts/run_async_retention_cleanup.py"), *ALL],
        cwd=tmp_path,
        preexec_fn=no_room,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert done.returncode == 1
    assert "cannot be rewritten" in done.stderr
    assert path.read_bytes() == before
    assert names(tmp_path) == ["store.v1.json", "store.v1.json.lock"]
