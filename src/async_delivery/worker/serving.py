"""A child with what its slot reads it by: its channel, its output, what it takes up, and whether it may go on.

Imports domain.
"""

from __future__ import annotations

import math
import select
from time import monotonic

from async_delivery.domain.analysis import AnalysisInfo, Isolation
from async_delivery.domain.placement import Executor
from async_delivery.worker.attempt import Waker
from async_delivery.worker.footing import is_narrowed
from async_delivery.worker.forkserver import Child
from async_delivery.worker.frames import FrameReader, Tag
from async_delivery.worker.limits import MAX_ERROR_BYTES, MAX_REPORT_BYTES
from async_delivery.worker.output import OutputRing
from async_delivery.worker.processes import Footprint

# Until the kernel must have carried out a SIGKILL.
DEATH_SECONDS = 5.0
_SEND_SECONDS = 10.0
# How much a warm child may have grown over its first attempt's start before it is replaced.
_GROWTH_FACTOR, _GROWTH_BYTES = 2, 128 * 2**20


class ServingChild:
    """A child with what the slot reads it by. It serves attempts of one analysis."""

    def __init__(self, child: Child, info: AnalysisInfo, waker: Waker, log_bytes: int) -> None:
        self.child = child
        self.info = info
        self.output = OutputRing(child.output, log_bytes)
        self.reader = FrameReader(child.channel, self._limit)
        self.served = 0
        self.footprint = Footprint(child.pid)
        self.first_rss_bytes = 0
        self._waker = waker
        self._poll = select.poll()
        # The channel comes first: see the end of ``Dialogue.run``.
        for fd in (child.channel.fileno(), child.output, child.status, waker.fd):
            self._poll.register(fd, select.POLLIN)
        self._muted: set[int] = set()
        # What the kernel said of its limits when they were last found to be as they were given.
        self._sound_limits = b""

    def _limit(self, tag: Tag) -> int:
        match tag:
            case Tag.PROGRESS:
                return MAX_REPORT_BYTES
            case Tag.PARTIAL:
                return self.info.limits.max_result_bytes + MAX_REPORT_BYTES
            case Tag.RESULT:
                return self.info.limits.max_result_bytes
            case Tag.ERROR:
                return MAX_ERROR_BYTES
            case Tag.CANCELED:
                return 1
            case Tag.STARTED:
                return MAX_REPORT_BYTES if self.info.executor is Executor.RAY else 0
            case Tag.JOB | Tag.DESCRIPTION:
                return 0

    def wait(self, seconds: float) -> set[int]:
        """Which of its file descriptors have something to say."""
        # Rounded up: a wait that ends a moment early would be repeated at once, over and over.
        ready = {fd for fd, _ in self._poll.poll(math.ceil(1000 * seconds))}
        if self._waker.fd in ready:
            self._waker.clear()
        return ready

    def mute(self, fd: int, muted: bool) -> None:
        """Stop or go on listening to one of them."""
        if muted and fd not in self._muted:
            self._poll.unregister(fd)
            self._muted.add(fd)
        elif not muted and fd in self._muted:
            self._poll.register(fd, select.POLLIN)
            self._muted.discard(fd)

    def muted(self, fd: int) -> bool:
        """True for one that is not listened to."""
        return fd in self._muted

    def send(self, data: bytes) -> bool:
        """Send one order; False if the child does not take it."""
        channel, view, until = self.child.channel, memoryview(data), monotonic() + _SEND_SECONDS
        while view:
            try:
                view = view[channel.send(view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(channel, select.POLLOUT)
                if not poll.poll(max(0, 1000 * (until - monotonic()))):
                    return False
            except OSError:
                return False
        return True

    @property
    def lives(self) -> bool:
        """False once it has died, also before the forkserver has told of it."""
        return self.child.wait(0) is None and self.footprint.look().rss_bytes > 0

    def look(self, max_attempts: int) -> tuple[str | None, bool]:
        """After a success: why it must not serve another attempt, None if it may; and whether it has but one thread."""
        if self.info.isolation is not Isolation.WARM or self.info.executor is not Executor.CHILD:
            return "fresh", False
        if self.served >= max_attempts:
            return "served", False
        if not self.reader.empty:
            return "broken", False
        seen = self.footprint.look()
        if not seen.rss_bytes:
            return "died idle", False
        if seen.has_children:
            return "left processes", False
        limits = self.footprint.limits()
        if limits != self._sound_limits:
            if is_narrowed(limits):
                return "narrowed", False
            self._sound_limits = limits
        first = self.first_rss_bytes
        if seen.rss_bytes > max(_GROWTH_FACTOR * first, first + _GROWTH_BYTES):
            return "grown", False
        return None, seen.threads == 1

    def end(self) -> bool:
        """Kill it and close its connections; False if it would not die."""
        self.footprint.close()
        return self.child.end(DEATH_SECONDS)
