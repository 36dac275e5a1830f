"""The forkserver: clean, replaceable, and never outliving whom it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from async_delivery.domain.job import JobStatus
from async_delivery.worker import forkserver
from async_delivery.worker.forkserver import ForkError, ForkServer, scrubbed
from tests.worker.support import World, alive, eventually, refs

SECRETS = {
    "ASYNC_DELIVERY_STORE_URL": "canary-store",
    "PGPASSWORD": "canary-postgres",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "GITHUB_TOKEN": "canary-token",
    "MY_OWN_SECRET": "canary-own",
}
IDLE = {"task": "serve", "name": "idle", "memory_bytes": None, "nice": 0}


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer({})
    server.start()
    yield server
    server.close()


@pytest.fixture
def secretive(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A forkserver that was started by a process with secrets in its environment."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_TIME", "C.UTF-8")
    monkeypatch.setenv("ALLOWED_BY_NAME", "seen")
    forkserver.close()
    forkserver.prepare(refs(), ["ALLOWED_BY_NAME"])
    yield
    forkserver.close()


def test_what_analyses_may_see_of_the_environment_is_named() -> None:
    environ = {
        **SECRETS,
        "PATH": "/bin",
        "HOME": "/nowhere",
        "LC_ALL": "C",
        "TZ": "UTC",
        "PYTHONPATH": "x",
        "K": "v",
    }

    assert scrubbed(environ) == {
        "PATH": "/bin",
        "HOME": "/nowhere",
        "LC_ALL": "C",
        "TZ": "UTC",
        "PYTHONPATH": "x",
    }
    assert scrubbed(environ, ["K"])["K"] == "v"


def test_no_secret_of_the_server_is_visible_in_a_child_or_its_forkserver(
    infos: Any, secretive: None, tmp_path: Path
) -> None:
    world = World(tmp_path, infos).start()
    try:
        seen = world.output("surroundings")
    finally:
        world.close()

    for block in (str(seen["environ"]), seen["own_block"], seen["forkserver_block"]):
        assert "canary" not in block
    assert seen["environ"]["ALLOWED_BY_NAME"] == "seen"
    assert seen["environ"]["LC_TIME"] == "C.UTF-8"
    assert seen["environ"]["PATH"] == os.environ["PATH"]


def test_a_child_is_shut_in(world: World) -> None:
    seen = world.output("surroundings")

    assert seen["sid"] == seen["pid"]
    assert seen["core"] == 0
    assert seen["nice"] == min(19, os.nice(0) + world.settings.child_nice)
    assert seen["stdin"] == "/dev/null"
    assert seen["main"] is None, "the parent's main module was run again"
    assert os.getcwd() in seen["path"], "--analysis module:function is looked for in the current folder"
    held = [name for name in seen["open"] if "store" in name or "sqlite" in name]
    assert held == [], "a child holds a file of the store"


def test_a_forkserver_that_is_killed_is_replaced_and_its_children_count_as_crashed(world: World) -> None:
    job = world.submit("cooperates", steps=200)
    child = world.first_partial(job)["pid"]
    first = forkserver.current().pid
    assert first is not None

    os.kill(first, signal.SIGKILL)

    done = world.ended(job)
    assert done.status is JobStatus.COMPLETED
    assert done.attempt == 2
    assert done.error_count == 1
    assert "job.attempt_failed" in world.events(job)
    assert not alive(child)
    assert forkserver.current().pid != first
    assert world.told("forkserver.started", again=True)


def test_what_a_child_had_started_dies_with_a_killed_forkserver(world: World) -> None:
    job = world.submit("eats", way="child")
    started = eventually(lambda: world.told("child.started"), "no child")[0]["pid"]
    eventually(lambda: psutil.Process(started).children(), "no grandchild")
    pids = [process.pid for process in psutil.Process(started).children()]
    first = forkserver.current().pid
    assert first is not None

    os.kill(first, signal.SIGKILL)

    eventually(lambda: not any(map(alive, pids)), "grandchildren live on")
    world.ended(job)


def test_a_forkserver_started_again_from_a_thread_outlives_that_thread(server: ForkServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    children = []
    thread = threading.Thread(target=lambda: children.append(server.fork(IDLE)))
    thread.start()
    thread.join()
    (child,) = children

    # Whatever its kernel signal is tied to, the end of that thread is not the end of the process.
    second = server.fork(IDLE)

    assert child.wait(0.2) is None
    assert second.wait(0) is None
    assert child.end(5)
    assert second.end(5)


def test_a_stray_signal_to_the_whole_tree_does_not_end_the_forkserver(server: ForkServer) -> None:
    assert server.pid is not None
    pid = server.pid
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)

    child = server.fork(IDLE)

    assert server.pid == pid
    assert child.end(5)


def test_an_import_that_ends_the_process_leaves_a_forkserver_without_it() -> None:
    server = ForkServer({"breaks": "tests.worker.breaks_import:nothing"})

    server.start()
    child = server.fork(IDLE)

    assert child.wait(0) is None
    assert child.end(5)
    server.close()


def test_a_closed_forkserver_makes_no_children(server: ForkServer) -> None:
    child = server.fork(IDLE)

    server.close()

    assert child.wait(5) is not None
    assert child.end(0)
    with pytest.raises(ForkError):
        server.fork(IDLE)


def test_an_idle_child_ends_when_its_slot_hangs_up(server: ForkServer) -> None:
    child = server.fork(IDLE)

    child.channel.shutdown(2)

    status = child.wait(10)
    assert status is not None
    assert status.code == 0
    assert child.end(0)


def test_many_threads_may_fork_at_once(server: ForkServer) -> None:
    children: list[Any] = []
    threads = [
        threading.Thread(target=lambda: children.extend(server.fork(IDLE) for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({child.pid for child in children}) == 20
    assert all(child.end(10) for child in children)


PARENT = """
import os, signal, sys, time
from async_delivery.worker import forkserver
forkserver.prepare({"hums": "tests.worker.misbehaving:hums"})
server = forkserver.current()
child = server.fork({"task": "serve", "name": "idle", "memory_bytes": None, "nice": 0})
print(server.pid, child.pid, flush=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "raise":
    raise ValueError("as asked")
"""


@pytest.mark.parametrize("way", ["kill", "raise", "return"])
def test_nothing_outlives_the_parent_however_it_ends(way: str) -> None:
    ended = subprocess.run([sys.executable, "-c", PARENT, way], capture_output=True, text=True, check=False)

    pids = [int(word) for word in ended.stdout.split()]
    assert len(pids) == 2
    eventually(lambda: not any(map(alive, pids)), "a process outlived its parent", seconds=2.0)
    assert "leaked" not in ended.stderr
