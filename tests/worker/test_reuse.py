"""Which child serves which attempt: warm ones again after a success, all others never."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from async_delivery.domain.job import JobStatus
from async_delivery.engine import jobs
from async_delivery.worker.serving import ServingChild
from tests.worker.support import ORG, World, alive, eventually


class Watched:
    """A transaction that notes the states in which it saves jobs, in their order."""

    def __init__(self, tx: Any, saved: list[str]) -> None:
        self._tx, self._saved = tx, saved
        # The store may run a transaction again.
        saved.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def save(self, change: Any) -> None:
        self._tx.save(change)
        self._saved.append(change.job.status.value)


@pytest.fixture
def one(make_world: Any) -> World:
    """A worker with one slot."""
    world: World = make_world(slots=1)
    return world.start()


def test_a_warm_child_serves_the_next_attempt_after_a_success(one: World) -> None:
    pids = {one.output("fine")["pid"] for _ in range(5)}

    assert len(pids) == 1


def test_a_fresh_analysis_gets_a_child_of_its_own_each_time(one: World) -> None:
    pids = [one.output("fine-fresh")["pid"] for _ in range(3)]

    assert len(set(pids)) == 3
    eventually(lambda: not any(map(alive, pids)), "they live on")


def test_a_warm_child_serves_one_analysis_only(one: World) -> None:
    first = one.output("fine")["pid"]
    one.run("echo")

    assert one.output("fine")["pid"] != first
    assert [ended["reason"] for ended in one.told("child.ended")] == ["other analysis", "other analysis"]


@pytest.mark.parametrize("what", ["value", "own", "memory"])
def test_a_child_is_not_used_again_after_a_failure(one: World, what: str) -> None:
    one.run("raises", what=what)
    first = one.told("child.started")[0]["pid"]

    one.run("raises", what=what)

    assert one.told("child.started")[1]["pid"] != first
    assert not alive(first)


def test_a_child_is_replaced_after_so_many_attempts(make_world: Any) -> None:
    world: World = make_world(slots=1, max_attempts_per_child=3).start()

    pids = [world.output("fine")["pid"] for _ in range(7)]

    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_a_child_that_left_processes_behind_is_not_used_again(one: World) -> None:
    first = one.output("leaves-daemon")

    second = one.output("leaves-daemon")

    assert first["pid"] != second["pid"]
    assert one.told("child.ended")[0]["reason"] == "left processes"


def test_a_child_that_has_grown_a_lot_is_not_used_again(one: World) -> None:
    small = [one.output("grows", mebibytes=1)["pid"] for _ in range(2)]
    big = one.output("grows", mebibytes=300)["pid"]
    after = one.output("grows", mebibytes=1)["pid"]

    assert small[0] == small[1] == big
    assert after != big
    assert one.told("child.ended")[0]["reason"] == "grown"


def test_a_child_that_died_while_idle_costs_nobody_an_attempt(one: World) -> None:
    pid = one.output("fine")["pid"]
    psutil.Process(pid).kill()
    eventually(lambda: not alive(pid), "it lives on")

    job = one.run("fine")

    assert job.status is JobStatus.COMPLETED
    assert job.attempt == 1


def test_threads_left_behind_cannot_speak_for_the_next_attempt(one: World) -> None:
    first = one.run("talks-later")
    second = one.run("talks-later")

    assert one.result(first)["pid"] == one.result(second)["pid"]
    assert one.job(first).status is one.job(second).status is JobStatus.COMPLETED


def test_an_untouched_folder_serves_the_next_attempt_and_names_no_job(one: World) -> None:
    told = [one.output("uses-folder") for _ in range(3)]

    assert len({seen["workdir"] for seen in told}) == 1
    assert not any(seen["job_id"] in told[0]["workdir"] for seen in told)
    assert all(seen["entries"] == [] for seen in told)


@pytest.mark.parametrize("how", ["file", "thread", "object", "removed"])
def test_a_folder_that_was_used_or_is_still_known_serves_no_other_attempt(one: World, how: str) -> None:
    used = one.output("uses-folder", how=how)
    after = one.output("uses-folder")

    assert used["pid"] == after["pid"]
    assert used["workdir"] != after["workdir"]
    assert after["entries"] == []
    eventually(lambda: not os.path.lexists(used["workdir"]), "the folder is still there")


def test_a_folder_that_was_swept_away_while_nobody_used_it_costs_no_attempt(one: World) -> None:
    before = one.output("uses-folder")
    folders = one.settings.work_root / one.supervisor.worker_id
    eventually(lambda: not one.supervisor.snapshot().busy, "the slot is still busy")
    for folder in (Path(before["workdir"]), folders):
        folder.rmdir()

    job = one.run("uses-folder")

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)


def test_folders_may_lie_where_no_text_can_say(make_world: Any, tmp_path: Path) -> None:
    world: World = make_world(slots=1, work_root=tmp_path / os.fsdecode(b"\xff")).start()

    told = [world.run("fine").status for _ in range(2)]

    assert told == [JobStatus.COMPLETED] * 2


def test_whether_a_child_may_stay_is_found_out_while_the_end_is_written(
    one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    write, look = one.store._store.write_soon, ServingChild.look

    def slow(fn: Any) -> Any:
        saved: list[str] = []

        def and_wait(tx: Any) -> Any:
            value = fn(Watched(tx, saved))
            assert "completed" not in saved or looked.wait(20)
            return value

        return write(and_wait)

    def watched(serving: ServingChild, max_attempts: int) -> Any:
        looked.set()
        return look(serving, max_attempts)

    monkeypatch.setattr(one.store._store, "write_soon", slow)
    monkeypatch.setattr(ServingChild, "look", watched)

    assert one.run("fine").status is JobStatus.COMPLETED


def test_children_do_not_share_their_random_numbers(one: World) -> None:
    numbers = {one.output("dices") for _ in range(3)}
    one.run("fine")
    numbers |= {one.output("dices") for _ in range(3)}

    assert len(numbers) == 6


def test_children_come_and_go_without_a_trace_in_the_server(one: World) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        one.output("fine-fresh")
    before = open_files()

    for _ in range(20):
        one.output("fine-fresh")

    eventually(lambda: open_files() <= before, "descriptors are left open")
    assert not list((one.settings.work_root / one.supervisor.worker_id).glob("*.input"))


def test_a_busy_slot_takes_each_further_job_with_the_end_of_the_one_before(one: World) -> None:
    first = one.submit("cooperates")
    one.first_partial(first)
    waiting = [one.submit("fine") for _ in range(4)]
    commits: list[list[str]] = []
    write = one.store._store.write_soon

    def watched(fn: Any) -> Any:
        saved: list[str] = []
        commits.append(saved)
        return write(lambda tx: fn(Watched(tx, saved)))

    one.store._store.write_soon = watched  # type: ignore[method-assign]

    jobs.cancel(one.rt, ORG, first.job_id, by="tests", reason=None)
    ended = [one.ended(job) for job in waiting]

    assert {job.status for job in ended} == {JobStatus.COMPLETED}
    assert [one.events(job) for job in ended] == [["job.queued", "job.running", "job.completed"]] * 4
    # The end of each of the first three and the start of the next are one commit; the fourth has none to start.
    ends = [saved for saved in commits if "completed" in saved]
    assert ends == [["completed", "running"]] * 3 + [["completed"]]
