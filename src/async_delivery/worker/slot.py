"""One slot: a thread that takes the next due job, has a child run it, writes how it ended, and takes the next.

Imports engine, telemetry and domain.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import orjson

from async_delivery import telemetry
from async_delivery.domain.analysis import AnalysisInfo
from async_delivery.domain.errors import NotFoundError, UnavailableError
from async_delivery.domain.failure import FailureCode
from async_delivery.engine import runs
from async_delivery.engine.inputs import fetch_input
from async_delivery.engine.runs import Claimer, Run
from async_delivery.worker import processes
from async_delivery.worker.ahead import Ahead, tell_lost
from async_delivery.worker.attempt import Attempt, Waker
from async_delivery.worker.bell import Wake
from async_delivery.worker.dialogue import Dialogue
from async_delivery.worker.ending import Ending, EndKind, failed
from async_delivery.worker.floor import Floor
from async_delivery.worker.forkserver import ForkError
from async_delivery.worker.frames import Tag, join_bytes, pack
from async_delivery.worker.heartbeat import lease_until
from async_delivery.worker.serving import ServingChild
from async_delivery.worker.settle import Success, UnsettledError, persist, settle
from async_delivery.worker.workdirs import Workdir

_TROUBLE_PAUSE_SECONDS = 1.0
# A service manager that signals the whole tree reaches the child before the server has begun to drain.
_DRAIN_NEWS_SECONDS = 0.5
_ENDED_FROM_OUTSIDE = frozenset({-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})


class Slot:
    """Runs on a thread of its own: ``run`` returns when the worker drains."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._rt = floor.rt
        self._waker = Waker()
        self._serving: ServingChild | None = None
        self._ahead = Ahead(
            floor.rt,
            Claimer(floor.worker_id, floor.claims),
            floor.line,
            floor.bell,
            floor.roster,
            self._waker,
        )
        # The folder of the attempt that runs, or one that the attempt before has left as it was.
        self._workdir: Workdir | None = None
        self._keeps_workdir = False
        # The attempt was taken when the one before had ended: child and folder were looked at a moment ago.
        self._taken_on = False
        # The rings that had been heard when the queue was last asked.
        self._seen = 0
        self.busy = False
        self.turned_at = monotonic()

    def run(self) -> None:
        """Take jobs until the drain; the attempt that runs then is seen through."""
        woken = Wake.POLL  # at the start nobody rings for what waits already
        try:
            while not self._floor.draining.is_set():
                if self._take_one():
                    if woken is Wake.POLL:
                        # What a poll found nobody rang for; there may be more of it.
                        self._floor.bell.ring()
                    woken = Wake.RING
                    continue
                while (woken := self._floor.bell.wait(self._seen)) is Wake.TICK:
                    self.turned_at = monotonic()
        finally:
            try:
                self._give_back_line()
            finally:
                self.busy = False
                self._end_child("closed")
                self._remove_workdir()
                self._waker.close()

    def _take_one(self) -> bool:
        """One turn; False if no job was due. Nothing that happens in it ends the slot."""
        self.turned_at = monotonic()
        attempt = None
        try:
            attempt = self._next()
            if attempt is None:
                return False
            self.busy = True
            self._execute(attempt)
        except Exception as exc:  # noqa: BLE001  a fault of ours must not silence the slot; it is told, and waited out
            telemetry.emit("slot.failed", error=repr(exc), job_id=attempt.job_id if attempt else None)
            self._end_child("fault")
            if attempt is not None and not self._ahead.writes(attempt):
                self._floor.roster.leave(attempt)
            # What cannot be given back now is left to the heartbeat.
            with contextlib.suppress(Exception):
                self._ahead.release(self._floor.line.take_all())
                self._ahead.send_held()
            self._floor.draining.wait(_TROUBLE_PAUSE_SECONDS)
        finally:
            self.busy = attempt is not None and self._ahead.writing
            if attempt is not None and not self._ahead.writes(attempt):
                self._floor.roster.remove(attempt)
        return attempt is not None

    def _give_back_line(self) -> None:
        """Nothing that waits may wait for this slot."""
        self._ahead.await_all()
        self._ahead.release(self._floor.line.take_all())

    def _next(self) -> Attempt | None:
        """What runs now: what waits in the line, else what comes with an end that is being written, else what is due.

        None if that is nothing; then ``_seen`` says when it was asked.
        """
        floor, ahead = self._floor, self._ahead
        ahead.look()
        if floor.draining.is_set() or not floor.source.ready:
            self._give_back_line()
        while True:
            if (attempt := floor.line.take()) is not None:
                attempt.goes_to(self._waker)
                return attempt
            if not ahead.await_oldest():
                break
        self._taken_on = False
        if floor.draining.is_set():
            return None
        seen, ahead.seen = ahead.seen, None
        if seen is not None:
            self._seen = seen
            return None
        self._seen = floor.bell.rings
        attempt = self._claim()
        if attempt is not None:
            floor.roster.add(attempt)
        return attempt

    def _claim(self) -> Attempt | None:
        floor = self._floor
        if not floor.source.ready:
            return None
        asked_at = monotonic()
        try:
            claimed = runs.claim(self._rt, floor.worker_id, 1, floor.claims)
        except UnavailableError as exc:
            floor.claim_failed.tell(exc.message)
            floor.draining.wait(_TROUBLE_PAUSE_SECONDS)
            return None
        return Attempt(claimed[0], lease_until(self._rt, asked_at), self._waker) if claimed else None

    def _is_over(self, attempt: Attempt) -> bool:
        """True if the attempt was lost, canceled or is to be given back before it began; that is done then."""
        if not attempt.held(monotonic()):
            tell_lost(self._floor.roster, attempt)
        elif attempt.cancel_requested:
            self._settle(attempt, Ending(EndKind.CANCELED), None)
        elif attempt.drain:
            self._settle(attempt, Ending(EndKind.RELEASED), None)
        else:
            return False
        return True

    def _execute(self, attempt: Attempt) -> None:
        if self._is_over(attempt):
            return
        job = attempt.run.job
        info = self._rt.catalogue.find(job.analysis)
        if info is None or not info.available:
            why = info.unavailable_reason if info else "it is not installed"
            self._settle(attempt, failed(FailureCode.ANALYSIS_UNAVAILABLE, f"{job.analysis}: {why}"), None)
            return
        workdir = self._folder()
        try:
            file = self._fetch(attempt)
            self._converse(attempt, info, workdir, file)
        except NotFoundError:
            self._settle(attempt, failed(FailureCode.INPUT_NOT_FOUND, "the uploaded file is gone"), None)
        except ForkError as exc:
            telemetry.emit("fork.failed", error=str(exc))
            self._settle(attempt, Ending(EndKind.RELEASED), None)
            self._give_back_line()
            self._floor.draining.wait(_TROUBLE_PAUSE_SECONDS)
        finally:
            if attempt.run.input is not None:
                self._input_path(attempt).unlink(missing_ok=True)
            if not self._keeps_workdir:
                self._remove_workdir()

    def _folder(self) -> Path:
        """An empty one for the attempt that begins."""
        if self._workdir is not None and not (
            self._taken_on or self._workdir.untouched(self._workdir.made_at)
        ):
            # While the slot was idle somebody swept the temporary folder.
            self._remove_workdir()
        self._keeps_workdir = False
        if self._workdir is None:
            self._workdir = self._floor.workdirs.new()
        return self._workdir.path

    def _remove_workdir(self) -> None:
        workdir, self._workdir = self._workdir, None
        if workdir is not None and not workdir.remove():
            telemetry.emit("workdir.kept", path=str(workdir.path))

    def _input_path(self, attempt: Attempt) -> Path:
        # Never the path of another attempt's: what an analysis remembers of one path must not be somebody else's.
        return self._floor.workdirs.beside(f"{attempt.job_id}-{attempt.fence.attempt}.input")

    def _fetch(self, attempt: Attempt) -> dict[str, Any] | None:
        """Bring the uploaded file; the analysis reads it beside its folder, which stays empty for its own use."""
        file = attempt.run.input
        if file is None:
            if attempt.run.request.input_id is not None:
                raise NotFoundError("input")
            return None
        path = self._input_path(attempt)
        self._ahead.send_held()

        def fetch() -> None:
            path.unlink(missing_ok=True)
            fetch_input(self._rt, file, path)

        persist(attempt, fetch)
        path.chmod(0o400)
        return {
            "path": str(path),
            "filename": file.filename,
            "media_type": file.media_type,
            "bytes": file.size_bytes,
            "sha256": file.sha256,
        }

    def _converse(
        self, attempt: Attempt, info: AnalysisInfo, workdir: Path, file: Mapping[str, Any] | None
    ) -> None:
        serving = self._child_for(attempt, info)
        serving.served += 1
        dialogue = Dialogue(self._rt, self._floor.settings, attempt, serving, serving.served, self._ahead)
        order = self._order(attempt, info, serving, workdir, file)
        began = monotonic()
        with attempt.leashed(lambda: serving.child.signal(signal.SIGKILL)):
            ending = dialogue.run(order)
        lasted = monotonic() - began
        if attempt.lost:
            self._abandon(attempt)
            return
        if ending.kind is EndKind.COMPLETED:
            self._complete(attempt, ending, serving.output.text())
            # The tenant waits for that; whether the child may stay is looked at while the store writes.
            reason, untouched = self._look(serving)
            if reason is not None or dialogue.stopped:
                self._ahead.lasted(None)
                # What was claimed is to be looked after by then: a child may take its time to die.
                self._ahead.await_all()
                self._end_child(reason or "stopped")
            else:
                self._ahead.lasted(lasted)
                self._taken_on = True
                self._keeps_workdir = untouched
            return
        self._ahead.lasted(None)
        # A child may take its time to die.
        self._ahead.look_after(monotonic())
        exit_code = serving.child.exit.code if serving.child.exit else None
        # Dead before the end is written: from then on another attempt may start.
        self._end_child(ending.reason.code if ending.reason else str(ending.kind))
        if (
            exit_code in _ENDED_FROM_OUTSIDE
            and ending.crashed
            and self._floor.draining.wait(_DRAIN_NEWS_SECONDS)
        ):
            ending = Ending(EndKind.RELEASED)
        self._settle(attempt, ending, serving.output.text())

    def _look(self, serving: ServingChild) -> tuple[str | None, bool]:
        """Why the child must not serve another attempt, None if it may; and whether the folder may."""
        reason, alone = serving.look(self._floor.settings.max_attempts_per_child)
        # A thread that the attempt has left behind may know the folder.
        workdir = self._workdir if reason is None and alone else None
        return reason, workdir is not None and workdir.untouched(self.turned_at)

    def _order(
        self,
        attempt: Attempt,
        info: AnalysisInfo,
        serving: ServingChild,
        workdir: Path,
        file: Mapping[str, Any] | None,
    ) -> bytes:
        run: Run = attempt.run
        root = self._floor.settings.data_root
        head = {
            "run": serving.served,
            "first": serving.served == 1,
            "source": info.source,
            "job_id": run.job.job_id,
            "attempt": run.job.attempt,
            "query": run.request.query,
            "timeout_seconds": run.job.timeout_seconds,
            "max_result_bytes": info.limits.max_result_bytes,
            "workdir": str(workdir),
            "data_root": str(root.absolute()) if root else None,
            "fault_injection": self._rt.policy.fault_injection,
            "input": file,
        }
        try:
            text = orjson.dumps(head)
        except TypeError:  # a path that is no UTF-8
            text = json.dumps(head).encode()
        return pack(Tag.JOB, join_bytes(text, run.request.params_json))

    def _child_for(self, attempt: Attempt, info: AnalysisInfo) -> ServingChild:
        """The warm child, if it serves this analysis and lives; else a new one. Raises ForkError."""
        if self._serving is not None:
            if self._serving.info is info and (self._taken_on or self._serving.lives):
                return self._serving
            self._ahead.send_held()
            self._end_child("other analysis" if self._serving.info is not info else "died idle")
        began = perf_counter()
        child = self._floor.source.fork(
            {
                "task": "serve",
                "name": info.name,
                "memory_bytes": info.limits.memory_bytes,
                "nice": self._floor.settings.child_nice,
                "resources": dict(info.resources),
                "timeout_seconds": attempt.run.job.timeout_seconds,
            }
        )
        self._serving = ServingChild(child, info, self._waker, self._floor.settings.log_bytes)
        self._serving.first_rss_bytes = processes.rss_bytes(child.pid)
        telemetry.emit("child.started", analysis=info.name, pid=child.pid, seconds=perf_counter() - began)
        return self._serving

    def _end_child(self, reason: str) -> None:
        serving, self._serving = self._serving, None
        if serving is None:
            return
        dead = serving.end()
        telemetry.emit(
            "child.ended", analysis=serving.info.name, reason=reason, attempts=serving.served, dead=dead
        )

    def _abandon(self, attempt: Attempt) -> None:
        """The lease was taken, or could not be renewed: end the child and write nothing."""
        self._end_child("lost")
        tell_lost(self._floor.roster, attempt)

    def _complete(self, attempt: Attempt, ending: Ending, log: str | None) -> None:
        """Begin to write a success, and take what comes next with it: one commit for each job of a busy slot, or for
        several, instead of two."""
        if ending.body is None:
            raise AssertionError("completed without a body")
        self._ahead.end(Success(attempt, ending.body, log), takes_next=self._takes_next())

    def _takes_next(self) -> bool:
        floor, rt = self._floor, self._rt
        # Where others claim as well, each waits for its turn under a cap, and the end would wait with it.
        may_wait = not rt.store.exclusive and rt.policy.max_running_per_tenant is not None
        return not may_wait and floor.source.ready and not floor.draining.is_set()

    def _settle(self, attempt: Attempt, ending: Ending, log: str | None) -> None:
        try:
            job = settle(self._rt, attempt, ending, log)
        except UnsettledError:
            self._floor.roster.leave(attempt)
            return
        if job is not None and job.due_at is not None and not job.status.terminal:
            self._floor.bell.expect((job.due_at - self._rt.clock.now()).total_seconds())
