"""A worker: N slots, their pulse, and an orderly start and end. Imports engine, telemetry and domain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from async_delivery import telemetry
from async_delivery.domain.job import JobId
from async_delivery.engine.rescue import rescue
from async_delivery.engine.runtime import Runtime
from async_delivery.worker import forkserver
from async_delivery.worker.ahead import Line
from async_delivery.worker.bell import Bell, Rings
from async_delivery.worker.complaints import Complaints
from async_delivery.worker.floor import Floor
from async_delivery.worker.heartbeat import Heartbeat, LeaseWatch
from async_delivery.worker.limits import WorkerSettings
from async_delivery.worker.ray_slots import ray_slots, without_ray
from async_delivery.worker.roster import Roster
from async_delivery.worker.slot import Slot
from async_delivery.worker.workdirs import Workdirs

# Beyond the lease nothing is written, so a slot that is later than that hangs in the kernel or the store.
_JOIN_MARGIN_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """How a worker is now.

    loop_age_seconds   since the slowest of its idle loops last turned; large means that one hangs
    """

    slots: int
    busy: int
    draining: bool
    loop_age_seconds: float


class Supervisor:
    """Started and ended once. ``forkserver.prepare`` comes before it."""

    def __init__(self, rt: Runtime, refs: Mapping[str, str], settings: WorkerSettings) -> None:
        # Random per start: an id that came back with the host's name would claim a dead worker's leases.
        self.worker_id = f"w-{rt.new_token()}"
        self._rt = rt
        self._refs = dict(refs)
        self._settings = settings
        self._bell = Bell(settings.poll_seconds, rt.jitter)
        self._ray = ray_slots(rt, settings)
        self._roster = Roster(Rings(self._bell, self._ray.bell) if self._ray else self._bell)
        self._heartbeat = Heartbeat(rt, self.worker_id, self._roster)
        self._watch = LeaseWatch(rt, self._roster)
        self._draining = threading.Event()
        self._slots: list[Slot] = []
        self._threads: list[threading.Thread] = []
        self._pulse: list[threading.Thread] = []
        self._workdirs: Workdirs | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Take back what dead workers of this store held, then begin to take jobs.

        Raises ForkError, UnavailableError, and OSError if ``work_root`` cannot be used.
        """
        server = forkserver.current_or_prepared(self._refs)
        self._workdirs = Workdirs(self._settings.work_root, self.worker_id)
        orphans = self._workdirs.remove_orphans()
        rescued = rescue(self._rt, [self.worker_id])
        self._unsubscribe = self._rt.store.subscribe(self._roster.hear)
        floor = Floor(
            rt=self._rt,
            settings=self._settings,
            worker_id=self.worker_id,
            source=server,
            workdirs=self._workdirs,
            bell=self._bell,
            line=Line(),
            roster=self._roster,
            draining=self._draining,
            claims=self._claims(),
            claim_failed=Complaints("claim.failed"),
        )
        self._slots = [Slot(floor) for _ in range(self._settings.slots)]
        if self._ray is not None:
            self._slots += self._ray.start(floor, server)
        self._threads = [
            threading.Thread(target=slot.run, name=f"slot-{number}", daemon=True)
            for number, slot in enumerate(self._slots, 1)
        ]
        self._pulse = [
            threading.Thread(target=self._heartbeat.run, name="heartbeat", daemon=True),
            threading.Thread(target=self._watch.run, name="leases", daemon=True),
        ]
        for thread in (*self._pulse, *self._threads):
            thread.start()
        telemetry.emit(
            "worker.started",
            worker_id=self.worker_id,
            slots=len(self._slots),
            rescued=len(rescued),
            orphaned_workdirs=orphans,
        )
        if missing := without_ray(self._rt):
            telemetry.emit("ray.missing", analyses=", ".join(missing))

    def _claims(self) -> Sequence[str] | None:
        """What the slots for children take."""
        return self._ray.others(self._takes()) if self._ray else self._takes()

    def _takes(self) -> Sequence[str] | None:
        """Where others may serve the store, take only what can run here; alone, take all and say what cannot."""
        if self._rt.store.exclusive:
            return None
        if self._settings.takes is not None:
            return self._settings.takes
        return [info.name for info in self._rt.catalogue if info.available]

    def held(self) -> set[JobId]:
        """The jobs that this worker has; from any thread."""
        return self._roster.held()

    def snapshot(self) -> WorkerSnapshot:
        """How it is now; cheap, from any thread."""
        turns = [slot.turned_at for slot in self._slots if not slot.busy]
        now = monotonic()
        beat_age = max(0.0, now - self._heartbeat.turned_at - self._rt.policy.heartbeat_seconds)
        return WorkerSnapshot(
            slots=len(self._slots) or self._settings.slots,
            busy=sum(slot.busy for slot in self._slots),
            draining=self._draining.is_set(),
            loop_age_seconds=max(beat_age, now - min(turns, default=now)),
        )

    def drain(self) -> None:
        """Take no more jobs; wait for running attempts, at most drain_grace_seconds; give the others back.

        Returns when nothing runs any more. What is given back costs its job nothing.
        """
        self._end_slots(self._settings.drain_grace_seconds)

    def close(self) -> None:
        """Stop at once what still runs, giving it back, and end. Idempotent."""
        self._end_slots(0.0)
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._pulse:
            self._heartbeat.stop()
            self._watch.stop()
            for thread in self._pulse:
                thread.join()
            self._pulse = []
            self._heartbeat.give_back()
        if self._ray is not None:
            self._ray.close()
        if self._workdirs is not None:
            self._workdirs.close()
            self._workdirs = None
            telemetry.emit("worker.ended", worker_id=self.worker_id)

    def _end_slots(self, grace_seconds: float) -> None:
        self._draining.set()
        self._bell.close()
        if self._ray is not None:
            self._ray.bell.close()
        until = monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))
        self._roster.drain()
        settings = self._settings
        until = monotonic() + (
            settings.cancel_grace_seconds
            + settings.kill_grace_seconds
            + self._rt.policy.lease_seconds
            + _JOIN_MARGIN_SECONDS
        )
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
