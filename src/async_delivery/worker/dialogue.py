"""One attempt between a slot and its child: hear its frames, watch its clock and memory, stop it when asked.

Nothing is written here but through ``reports``; how it ended goes back to the slot as an Ending. Imports engine
and domain.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from time import monotonic

from async_delivery.domain.errors import NotFoundError, UnavailableError
from async_delivery.domain.placement import Executor
from async_delivery.engine import runs
from async_delivery.engine.runtime import Runtime
from async_delivery.worker import ending as endings
from async_delivery.worker import processes
from async_delivery.worker.ahead import Ahead
from async_delivery.worker.attempt import Attempt, StopReason
from async_delivery.worker.context import FLAG
from async_delivery.worker.ending import Ending, EndKind
from async_delivery.worker.frames import BrokenFrameError, Frame, FrameTooLargeError, Tag
from async_delivery.worker.limits import WorkerSettings
from async_delivery.worker.reports import Reports
from async_delivery.worker.serving import DEATH_SECONDS, ServingChild

# A drain gives back what does not end, so there is little to tidy up for.
_DRAIN_GRACE_SECONDS = 1.0
_HANGUP_SECONDS = 1.0
_LONGEST_POLL_SECONDS = 1.0


@dataclass(slots=True)
class _Stop:
    """A stop under way: the signals that are still to be sent, each with its instant."""

    reason: StopReason
    steps: list[tuple[float, int]]
    give_up_at: float


class Dialogue:
    """One attempt on one child."""

    def __init__(
        self,
        rt: Runtime,
        settings: WorkerSettings,
        attempt: Attempt,
        serving: ServingChild,
        mark: int,
        ahead: Ahead,
    ) -> None:
        self._settings = settings
        self._rt = rt
        self._attempt = attempt
        self._serving = serving
        self._child = serving.child
        self._mark = FLAG.pack(mark)
        now = monotonic()
        self._deadline = now + attempt.run.job.timeout_seconds
        # On Ray an attempt may wait for its resources, which is not its own time; and its memory is watched there.
        on_ray = serving.info.executor is Executor.RAY
        self._waiting = on_ray
        self._memory_bytes = None if on_ray else serving.info.limits.memory_bytes
        self._memory_at = now + settings.rss_poll_seconds if self._memory_bytes else math.inf
        self._log_at = now + rt.policy.heartbeat_seconds
        self._hangup_at = math.inf
        self._ahead = ahead
        self._ahead_at = ahead.look_at(now)
        self._reports = Reports(rt, attempt, settings.progress_interval_seconds, now)
        self._stop: _Stop | None = None

    @property
    def stopped(self) -> bool:
        """True if a stop was begun, whatever came of it."""
        return self._stop is not None

    def run(self, order: bytes) -> Ending:
        """Send the order and see it through. The child may be alive or dead afterwards."""
        serving, child = self._serving, self._child
        serving.output.start()
        ending = None if serving.send(order) else self._after_exit()
        ready: set[int] = set()
        while ending is None:
            ready = serving.wait(self._pause())
            if child.channel.fileno() in ready:
                ending = self._hear()
            if child.output in ready:
                serving.output.read()
            if ending is None and child.status in ready:
                ending = self._after_exit()
            if ending is None:
                ending = self._tick(monotonic())
        # Before a child sends its result, it has sent all that was printed, and it is asked for both at a time: what
        # did not come together with the result will not come.
        if ending.kind is not EndKind.COMPLETED or child.output in ready or serving.muted(child.output):
            serving.output.drain()
        if not self._attempt.lost:
            self._reports.flush(monotonic())
        return ending

    def _pause(self) -> float:
        """Seconds until something is to be done without being told."""
        at = min(self._memory_at, self._log_at, self._hangup_at, self._ahead_at, self._reports.due_at())
        if self._stop is None:
            at = min(at, self._deadline)
        else:
            at = min(at, self._stop.give_up_at, *(step[0] for step in self._stop.steps[:1]))
        pause = at - monotonic()
        held_back = self._serving.output.pause_seconds()
        self._serving.mute(self._child.output, held_back > 0 or self._serving.output.at_end)
        if held_back > 0:
            pause = min(pause, held_back)
        return max(0.0, min(pause, _LONGEST_POLL_SECONDS))

    def _hear(self) -> Ending | None:
        """Take in one portion of frames."""
        reader = self._serving.reader
        reader.read()
        ending = self._take_frames()
        if ending is None and reader.at_end:
            self._serving.mute(self._child.channel.fileno(), True)
            self._hangup_at = monotonic() + _HANGUP_SECONDS
        return ending

    def _take_frames(self) -> Ending | None:
        try:
            for frame in self._serving.reader.frames():
                if (ending := self._take(frame)) is not None:
                    return ending
        except FrameTooLargeError as exc:
            if exc.tag in (Tag.RESULT, Tag.PARTIAL):
                what = "result" if exc.tag is Tag.RESULT else "partial result"
                return endings.of_too_large(what, exc.size, exc.limit)
            return endings.of_breach()
        except BrokenFrameError:
            return endings.of_breach()
        return None

    def _take(self, frame: Frame) -> Ending | None:
        match frame.tag:
            case Tag.PROGRESS:
                self._reports.progress(frame.payload)
                return None
            case Tag.PARTIAL:
                return self._reports.partial(frame.payload)
            case Tag.RESULT:
                # Also when a stop was under way: the work is done, and is delivered.
                return endings.of_result(frame.payload)
            case Tag.ERROR:
                return self._stop_ending() or endings.of_error(frame.payload, self._serving.info)
            case Tag.CANCELED:
                return self._stop_ending() or endings.of_unasked_cancel()
            case Tag.STARTED if self._waiting:
                self._waiting = False
                self._deadline = monotonic() + self._attempt.run.job.timeout_seconds
                return None
            case Tag.JOB | Tag.DESCRIPTION | Tag.STARTED:
                return endings.of_breach()

    def _stop_ending(self) -> Ending | None:
        if self._stop is None:
            return None
        if self._waiting and self._stop.reason is StopReason.TIMEOUT:
            return endings.of_vain_wait(self._attempt.run.job, self._serving.info)
        return endings.of_stop(self._stop.reason, self._attempt.run.job, self._serving.info)

    def _after_exit(self) -> Ending:
        """The child has ended: what it said before that counts first."""
        reader = self._serving.reader
        while reader.read():
            if (ending := self._take_frames()) is not None:
                return ending
        status = self._child.wait(_HANGUP_SECONDS)
        if (ending := self._stop_ending()) is not None:
            return ending
        return endings.of_hangup() if status is None else endings.of_exit(status, self._serving.info)

    def _tick(self, now: float) -> Ending | None:
        """What is to be done by the clock, and on request of other threads."""
        if self._stop is None or (self._attempt.lost and self._stop.reason is not StopReason.LOST):
            reason = self._reason_to_stop(now)
            if reason is not None:
                self._begin_stop(reason, now)
        if self._stop is not None:
            if self._too_big(now):
                self._stop.steps = [(now, int(signal.SIGKILL))]
            while self._stop.steps and self._stop.steps[0][0] <= now:
                self._child.signal(self._stop.steps.pop(0)[1])
            if now >= self._stop.give_up_at:
                return self._stop_ending()
        if now >= self._hangup_at:
            return self._stop_ending() or endings.of_hangup()
        self._reports.tick(now)
        self._keep_log(now)
        if now >= self._ahead_at:
            self._ahead_at = self._ahead.look_after(now)
        return None

    def _reason_to_stop(self, now: float) -> StopReason | None:
        attempt = self._attempt
        if not attempt.held(now):
            attempt.ask(StopReason.LOST)
            return StopReason.LOST
        if attempt.cancel_requested:
            return StopReason.CANCEL
        if attempt.drain:
            return StopReason.DRAIN
        if now >= self._deadline:
            return StopReason.TIMEOUT
        return StopReason.MEMORY if self._too_big(now) else None

    def _too_big(self, now: float) -> bool:
        """The watchdog's look at the memory of the child and all it has started, when it is time for one."""
        if self._memory_bytes is None or now < self._memory_at:
            return False
        self._memory_at = now + self._settings.rss_poll_seconds
        return processes.tree_rss_bytes(self._child.pid) > self._memory_bytes

    def _begin_stop(self, reason: StopReason, now: float) -> None:
        settings = self._settings
        if reason in (StopReason.LOST, StopReason.MEMORY):
            steps = [(now, int(signal.SIGKILL))]
        else:
            self._child.ask_to_stop(self._mark)
            grace = settings.cancel_grace_seconds
            if reason is StopReason.DRAIN:
                grace = min(grace, _DRAIN_GRACE_SECONDS)
            term_at = now + grace
            steps = [
                (term_at, int(signal.SIGTERM)),
                (term_at + settings.kill_grace_seconds, int(signal.SIGKILL)),
            ]
        self._stop = _Stop(reason, steps, steps[-1][0] + DEATH_SECONDS)

    def _keep_log(self, now: float) -> None:
        """Keep what was printed so far; here and not in the heartbeat, so that it cannot overtake the end's."""
        if now < self._log_at:
            return
        self._log_at = now + self._rt.policy.heartbeat_seconds
        if self._serving.output.dirty and (text := self._serving.output.text()) is not None:
            attempt = self._attempt
            try:
                runs.keep_log(self._rt, attempt.org_id, attempt.job_id, attempt.fence.attempt, text)
            except (UnavailableError, NotFoundError):
                return  # the end of the attempt brings it again
