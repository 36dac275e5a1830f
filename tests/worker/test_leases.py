"""The lease: renewed by the parent, given up when it cannot be renewed, and never written past."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from async_delivery.domain.job import Job, JobStatus
from async_delivery.engine import jobs
from async_delivery.engine.rescue import rescue
from async_delivery.engine.runtime import Policy
from async_delivery.worker.workdirs import Workdirs
from tests.worker.support import ORG, World, alive, eventually


def fast(**changes: Any) -> Policy:
    return Policy(**{"lease_seconds": 1.5, "heartbeat_seconds": 0.3, "default_analysis": "fine", **changes})


def expires_at(world: World, job: Job) -> Any:
    lease = world.job(job).lease
    return lease.expires_at if lease else None


def test_the_lease_is_renewed_while_a_child_holds_its_interpreter(make_world: Any) -> None:
    world: World = make_world(policy=fast()).start()
    job = world.submit("holds-gil")
    world.first_partial(job)
    first = expires_at(world, job)

    eventually(lambda: expires_at(world, job) > first, "the lease was not renewed")

    assert world.job(job).attempt == 1


def test_an_attempt_that_was_taken_over_is_stopped_and_writes_nothing(make_world: Any) -> None:
    world: World = make_world(policy=fast()).start()
    job = world.submit("cooperates", steps=100_000)
    pid = world.first_partial(job)["pid"]

    # Another node's rescue believes this worker dead; the job then runs anew, here or there.
    assert [taken.job_id for taken in rescue(world.rt, [])] == [job.job_id]

    eventually(lambda: not alive(pid), "the first attempt's child lives on")
    eventually(lambda: world.job(job).partial_count == 2, "no second attempt")
    second = world.job(job)
    assert second.attempt == 2
    assert second.status is JobStatus.PARTIAL
    assert second.error_count == 0
    assert "job.attempt_lost" in world.events(job)


def test_a_store_that_refuses_for_a_moment_delays_the_end_and_loses_nothing(world: World) -> None:
    job = world.submit("cooperates", steps=50)
    world.first_partial(job)
    world.store.refusing.set()
    eventually(lambda: world.told("claim.failed"), "the other slot did not notice")

    time.sleep(0.3)  # the child's end falls into the time without a store; only time can bring that
    world.store.refusing.clear()

    done = world.ended(job)
    assert done.status is JobStatus.COMPLETED
    assert done.attempt == 1


def test_an_attempt_that_cannot_renew_its_lease_stops_and_is_given_back_later(make_world: Any) -> None:
    world: World = make_world(policy=fast()).start()
    job = world.submit("cooperates", steps=100_000)
    pid = world.first_partial(job)["pid"]

    world.store.refusing.set()

    eventually(lambda: not alive(pid), "it went on without a lease")
    assert world.told("heartbeat.failed")
    assert world.job(job).attempt == 1
    world.store.refusing.clear()
    eventually(lambda: world.job(job).attempt == 2, "not given back")
    assert world.job(job).error_count == 0
    assert world.events(job).count("job.requeued") == 1


def test_a_child_dies_with_its_lease_although_the_store_lets_every_write_hang(make_world: Any) -> None:
    world: World = make_world(policy=fast()).start()
    job = world.submit("cooperates", steps=100_000)
    pid = world.first_partial(job)["pid"]

    world.store.flowing.clear()

    # Slot and heartbeat wait for the store; neither can look at the clock.
    eventually(lambda: not alive(pid), "it went on without a lease")
    world.store.flowing.set()
    eventually(lambda: world.job(job).attempt == 2, "not given back")
    assert world.told("lease.lost")[0]["reason"] == "not_renewed"
    assert world.job(job).error_count == 0


def test_an_attempt_that_was_taken_over_is_told_of_once(make_world: Any) -> None:
    world: World = make_world(policy=fast(), slots=1).start()
    job = world.submit("cooperates", steps=100_000)
    pid = world.first_partial(job)["pid"]

    rescue(world.rt, [])

    eventually(lambda: not alive(pid), "the first attempt's child lives on")
    eventually(lambda: world.job(job).attempt == 2, "no second attempt")
    assert [said["reason"] for said in world.told("lease.lost")] == ["taken"]
    assert world.told("write.refused") == []


def test_a_cancel_that_no_signal_tells_of_is_found_within_a_second_or_two(make_world: Any) -> None:
    world: World = make_world()  # whose heartbeat comes every ten seconds
    world.store.exclusive = False
    world.start()
    job = world.submit("cooperates", steps=100_000)
    world.first_partial(job)
    world.store.silent.set()

    began = time.monotonic()
    jobs.cancel(world.rt, ORG, job.job_id, "tenant", None)

    eventually(lambda: world.job(job).status is JobStatus.CANCELED, "not canceled", seconds=8)
    assert time.monotonic() - began < 8


def test_a_new_worker_takes_back_what_a_dead_one_held(make_world: Any) -> None:
    world: World = make_world()
    job = world.submit("fine", value=5)
    from async_delivery.engine import runs

    (run,) = runs.claim(world.rt, "w-dead", 1)
    assert run.job.job_id == job.job_id

    world.start()

    assert world.result(world.ended(job))["value"] == 5
    assert world.job(job).attempt == 2
    assert "job.attempt_lost" in world.events(job)


def test_a_folder_is_untouched_until_anything_is_done_in_it_or_to_it(tmp_path: Path) -> None:
    home = Workdirs(tmp_path, "w-1")

    def again(path: Path) -> None:
        path.rmdir()
        path.mkdir(mode=0o700)

    def elsewhere(path: Path) -> None:
        path.rmdir()
        path.symlink_to(tmp_path)

    deeds: list[Callable[[Path], object]] = [
        lambda path: (path / "file").write_text("x"),
        lambda path: (path / ".hidden").symlink_to("/"),
        lambda path: path.chmod(0o755),
        Path.rmdir,
        again,
        elsewhere,
    ]
    for deed in deeds:
        folder = home.new()
        before = folder.untouched(folder.made_at)

        deed(folder.path)

        assert (before, folder.untouched(folder.made_at)) == (True, False)
        assert folder.remove()
    assert tmp_path.exists()
    assert len({home.new().path for _ in range(3)}) == 3
    home.close()


def test_folders_of_dead_workers_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    living, dead = Workdirs(tmp_path, "w-living"), Workdirs(tmp_path, "w-dead")
    kept = living.make("job-1")
    left = dead.make("job-1")
    (left / "file").write_text("x")
    assert dead._lock is not None
    import os

    os.close(dead._lock)  # what the kernel does when a process dies

    fresh = Workdirs(tmp_path, "w-fresh")

    assert fresh.remove_orphans() == 1
    assert kept.exists()
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        "w-living",
        "w-living.lock",
        "w-fresh",
        "w-fresh.lock",
    }
    living.close()
    fresh.close()
    fresh.close()
    assert list(tmp_path.iterdir()) == []


def test_output_can_be_read_while_the_attempt_runs(make_world: Any) -> None:
    world: World = make_world(policy=fast(fault_injection=True)).start()
    job = world.submit("hums")

    eventually(lambda: "still here" in world.log(job), "nothing was kept")

    assert not world.job(job).status.terminal


def test_every_worker_has_an_id_of_its_own(make_world: Any) -> None:
    world: World = make_world()
    first = world.supervisor.worker_id

    second = world.restarted().supervisor.worker_id

    assert first != second
    assert ORG not in first


def test_an_attempt_taken_back_from_its_own_worker_ends_when_the_next_one_begins(world: World) -> None:
    # With the usual lease of half a minute; nothing but the second claim tells the first attempt.
    job = world.submit("cooperates", steps=100_000)
    pid = world.first_partial(job)["pid"]

    rescue(world.rt, [])

    eventually(lambda: not alive(pid), "two attempts of one job at a time", seconds=10)
    assert world.job(job).attempt == 2
