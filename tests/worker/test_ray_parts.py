"""What runs on both sides of Ray, tested without it: the task's generator, a bridge that fails, who takes what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import ValidationError
from async_delivery.domain.placement import Executor
from async_delivery.engine.catalogue import Catalogue
from async_delivery.engine.runtime import Runtime
from async_delivery.worker import processes, ray_pump
from async_delivery.worker.forkserver import ForkError, current
from async_delivery.worker.frames import Tag, join, split
from async_delivery.worker.ray_executor import RayExecutor
from async_delivery.worker.ray_slots import RaySlots
from tests.worker.conftest import MakeWorld
from tests.worker.support import MODULE, alive, eventually

NAMES = ("echo", "partials", "cooperates", "stubborn", "eats", "segfault", "prints", "closes-everything")


@pytest.fixture(autouse=True)
def _end_forkserver() -> Iterator[None]:
    yield
    if ray_pump._kept_home is not None:
        ray_pump._kept_home.close()
        ray_pump._kept_home = None


@pytest.fixture(scope="module", autouse=True)
def _end_kept_forkserver() -> Iterator[None]:
    yield
    if ray_pump._kept_server is not None:
        ray_pump._kept_server[1].close()
        ray_pump._kept_server = None


class Task:
    """What the bridge would hear of one task."""

    def __init__(self, root: Path, analysis: str, *, host: str | None = None, **params: Any) -> None:
        workdir = root / "at-the-worker"
        workdir.mkdir(exist_ok=True)
        file, parts = params.pop("input", None), params.pop("parts", [])
        order = {
            "name": analysis,
            "refs": {name: f"{MODULE}:{name.replace('-', '_')}" for name in NAMES},
            "memory_bytes": params.pop("memory_bytes", None),
            "nice": 0,
            "keep_env": [],
            "path": [],
            "root": str(root / "node"),
            "host": host or processes.host_id(),
            "overdue_seconds": params.pop("overdue_seconds", 60.0),
            "kill_seconds": 0.2,
        }
        head = {
            "run": 1,
            "first": True,
            "source": order["refs"][analysis],
            "job_id": "job",
            "attempt": 1,
            "query": None,
            "timeout_seconds": 60.0,
            "max_result_bytes": 2**20,
            "workdir": str(workdir),
            "data_root": None,
            "fault_injection": False,
            "input": file,
        }
        payload = join(head, json.dumps(params).encode())
        self.items = ray_pump.attempt(order, payload, parts, bytes, "a-node")
        first = next(self.items)
        assert first[:1] == ray_pump.HELLO
        self.hello = json.loads(first[1:])
        self.frames, self.output = b"", b""
        self.end: dict[str, Any] | None = None

    def step(self) -> bool:
        """Take one more item; False at the end."""
        for item in self.items:
            kind, data = item[:1], item[1:]
            if kind == ray_pump.FRAMES:
                self.frames += data
            elif kind == ray_pump.OUTPUT:
                self.output += data
            else:
                self.end = json.loads(data)
            return True
        return False

    def rest(self) -> dict[str, Any]:
        while self.step():
            continue
        assert self.end is not None
        return self.end

    def said(self) -> list[tuple[Tag, bytes]]:
        found, data = [], self.frames
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append((Tag(data[0]), data[5 : 5 + size]))
            data = data[5 + size :]
        return found

    def result(self) -> Any:
        tag, payload = self.said()[-1]
        assert tag is Tag.RESULT, self.said()
        return json.loads(payload)


def test_a_task_says_all_that_its_child_says_in_order_and_how_it_ended(tmp_path: Path) -> None:
    task = Task(tmp_path, "partials", count=200)

    end = task.rest()

    assert (end["code"], end["starved"]) == (0, False)
    assert [tag for tag, _ in task.said()] == [Tag.PARTIAL] * 200 + [Tag.RESULT]
    numbers = [json.loads(split(payload)[1])["number"] for _, payload in task.said()[:-1]]
    assert numbers == list(range(200))
    assert task.hello["node"] == "a-node"
    assert not any(alive(pid) for pid, _ in task.hello["pids"][2:])


def test_a_task_on_the_workers_machine_uses_its_folder_and_another_one_gets_its_own(tmp_path: Path) -> None:
    file = {"path": "/not/here", "filename": "d.csv", "media_type": None, "bytes": 6, "sha256": "x"}
    near = Task(tmp_path, "echo")
    near.rest()
    far = Task(tmp_path, "echo", host="elsewhere", input=file, parts=[b"abc", b"def"])
    far.rest()

    assert near.result()["cwd_is_workdir"]
    assert (far.result()["cwd_is_workdir"], far.result()["workdir_entries"]) == (True, [])
    assert (far.result()["content"], far.result()["stored_as"]) == ("abcdef", "job-1.input")
    assert [path for path in (tmp_path / "node").rglob("*") if "job" in path.name] == []


def test_a_task_passes_on_what_is_printed(tmp_path: Path) -> None:
    task = Task(tmp_path, "prints", closes=True)

    assert task.rest()["code"] == 0
    assert b"plain text\n" in task.output
    assert b"from a subprocess\n" in task.output


def test_a_word_in_the_control_pipe_asks_the_analysis_to_stop(tmp_path: Path) -> None:
    task = Task(tmp_path, "cooperates")
    while not task.frames:
        task.step()

    assert ray_pump.poke(task.hello["control"], ray_pump.STOP)
    task.rest()

    assert task.said()[-1][0] is Tag.CANCELED
    assert not ray_pump.poke(task.hello["control"], ray_pump.STOP)


@pytest.mark.parametrize(
    ("analysis", "asked", "code", "starved"),
    [
        ("segfault", {}, -signal.SIGSEGV, False),
        ("eats", {"way": "mmap", "memory_bytes": 128 * 2**20}, -signal.SIGKILL, True),
        ("stubborn", {"overdue_seconds": 0.2}, -signal.SIGKILL, False),
        ("stubborn", {"ignore": False, "overdue_seconds": 0.2}, -signal.SIGTERM, False),
    ],
)
def test_a_task_ends_its_child_for_memory_and_long_after_its_time_and_says_how(
    tmp_path: Path, analysis: str, asked: dict[str, Any], code: int, starved: bool
) -> None:
    end = Task(tmp_path, analysis, **asked).rest()

    assert (end["code"], end["starved"]) == (code, starved)


def test_a_child_that_closed_its_connection_is_not_waited_for(tmp_path: Path) -> None:
    asked_at = time.monotonic()

    end = Task(tmp_path, "closes-everything").rest()

    assert end["code"] == -signal.SIGKILL
    assert time.monotonic() - asked_at < 10.0


def test_what_a_killed_task_left_is_killed_and_removed(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    root = ray_pump.private(tmp_path / "node")
    (root / "dead" / "job-1").mkdir(parents=True)
    (root / "dead.lock").touch()
    try:
        began = processes.started_at(left.pid)
        assert began is not None

        assert ray_pump.reap([(left.pid, began), (os.getpid(), began - 1)], str(root))

        assert left.wait(10) == -signal.SIGKILL
        assert list(root.iterdir()) == []
    finally:
        left.kill()
        left.wait()


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)

    with pytest.raises(PermissionError, match="belongs to somebody else"):
        ray_pump.private(tmp_path / "node")


class Lame:
    """A forkserver's rules under which no bridge can start."""

    keep_env = ()
    sys_path = ("/nowhere",)


def test_without_a_bridge_nothing_is_taken_and_the_failure_is_told(make_world: MakeWorld) -> None:
    told = make_world().told
    executor = RayExecutor(Lame(), {}, None, kill_seconds=1, overdue_seconds=1)  # type: ignore[arg-type]
    executor.start()
    try:
        failed = eventually(lambda: told("ray.failed"), "nobody says that Ray cannot be reached")

        assert "No module named 'async_delivery'" in failed[0]["error"]
        assert not executor.ready
        with pytest.raises(ForkError):
            executor.fork({"timeout_seconds": 1})
    finally:
        executor.close()
    assert not [child for child in psutil.Process().children() if "ray_bridge" in " ".join(child.cmdline())]


def unavailable(infos: list[AnalysisInfo], name: str) -> list[AnalysisInfo]:
    why = "needs ray, which is not installed"
    return [
        replace(info, executor=Executor.RAY, available=False, unavailable_reason=why)
        if info.name == name
        else info
        for info in infos
    ]


def test_a_worker_without_ray_says_which_analyses_it_cannot_run_and_runs_the_others(
    make_world: MakeWorld, infos: list[AnalysisInfo]
) -> None:
    world = make_world(infos=unavailable(infos, "echo")).start()

    assert world.told("ray.missing") == [{"analyses": "echo"}]
    with pytest.raises(ValidationError) as refused:
        world.submit("echo")
    assert "needs ray" in refused.value.details[0].issue
    assert world.output("fine", value=3)["value"] == 3
    assert "ray" not in sys.modules


def test_slots_for_children_leave_the_rest_to_ray_and_take_what_nobody_knows_any_more(
    make_world: MakeWorld, infos: list[AnalysisInfo]
) -> None:
    world = make_world()
    job = world.submit("echo")
    known = Catalogue([info for info in infos if info.name != "echo"])
    part = RaySlots(Runtime(world.store, known, world.rt.policy), world.settings, ["fine"])

    others = part.others(None)

    assert job.analysis in others
    assert "fine" not in others
    assert "fine-fresh" in others
    assert part.others(["fine", "eats"]) == ["eats"]
    assert current().ready
