"""Work ahead of a busy slot: ends that are being written while the next attempt runs, and attempts that were claimed
with them and wait for a slot.

How many are claimed ahead is decided here, and what becomes of those that wait too long. Imports engine, telemetry and
domain.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

from async_delivery import telemetry
from async_delivery.domain.lifecycle import MAX_STARTS
from async_delivery.engine.runs import Claimer
from async_delivery.engine.runtime import Runtime
from async_delivery.worker.attempt import Attempt, Waker
from async_delivery.worker.bell import Bell
from async_delivery.worker.heartbeat import lease_until
from async_delivery.worker.roster import Roster
from async_delivery.worker.settle import EndsUnderWay, Success, give_back

# So much work is claimed ahead, judged by the last attempts of the slot, and at most so many attempts.
_AHEAD_SECONDS = 0.010
_MAX_AHEAD = 8
# Fewer than so many short attempts in a row say nothing of the next; more of them where long ones come in between.
_LEAST_KNOWN, _LEAST_KNOWN_MIXED = 4, 32
_KNOWN = 8
# Ends of short attempts are written together, at most so many, and the first of them waits at most so long.
_MAX_HELD, _HELD_SECONDS = 4, 0.005
_MAX_UNDER_WAY = 4
# While an attempt lasts, its slot looks so often after what it keeps waiting; and after so long that is given back.
_LOOK_SECONDS = 0.005
_AGAIN_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 0.050
# A start that was none counts as well. A job that was given back so often waits for its slot instead.
_MAX_STARTS_GIVEN_BACK = MAX_STARTS // 2


class Line:
    """Attempts that wait for any slot of a worker, each with the instant since when. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, Attempt]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, attempts: Iterable[Attempt]) -> None:
        """Let them wait, behind those that do already."""
        now = monotonic()
        with self._lock:
            self._waiting.extend((now, attempt) for attempt in attempts)

    def take(self) -> Attempt | None:
        """The one that waits longest."""
        with self._lock:
            return self._waiting.popleft()[1] if self._waiting else None

    def take_all(self) -> list[Attempt]:
        """All of them."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        return [attempt for _, attempt in taken]

    def take_overdue(self, now: float) -> list[Attempt]:
        """Those that wait for too long and may be given back; the others keep their order."""
        with self._lock:
            taken = [waiting for waiting in self._waiting if _is_overdue(*waiting, now)]
            for waiting in taken:
                self._waiting.remove(waiting)
        return [attempt for _, attempt in taken]


def _is_overdue(since: float, attempt: Attempt, now: float) -> bool:
    return now - since >= LONGEST_WAIT_SECONDS and attempt.fence.attempt <= _MAX_STARTS_GIVEN_BACK


@dataclass(frozen=True, slots=True)
class _Sent:
    """``seen`` rings had been heard when the queue was asked with it."""

    writing: EndsUnderWay
    seen: int


class Ahead:
    """What one slot has under way beside the attempt that it runs. Used by the slot's thread alone.

    seen   the rings that had been heard when the queue last had nothing more for this slot; None if it may have
    """

    def __init__(
        self, rt: Runtime, claimer: Claimer, line: Line, bell: Bell, roster: Roster, waker: Waker
    ) -> None:
        self._rt, self._claimer, self._line = rt, claimer, line
        self._bell, self._roster, self._waker = bell, roster, waker
        self._held: list[Success] = []
        self._held_until = 0.0
        self._takes_next = False
        self._sent: deque[_Sent] = deque()
        self._seconds: deque[float] = deque(maxlen=_KNOWN)
        self._in_a_row, self._enough = 0, _LEAST_KNOWN
        self.seen: int | None = None

    def lasted(self, seconds: float | None) -> None:
        """So long the slot's last attempt took; None for one from which nothing follows for others."""
        if seconds is not None and seconds < LONGEST_WAIT_SECONDS:
            self._seconds.append(seconds)
            self._in_a_row += 1
            return
        self._seconds.clear()
        self._in_a_row = 0
        if seconds is not None:
            self._enough = _LEAST_KNOWN_MIXED

    def end(self, success: Success, *, takes_next: bool) -> None:
        """Have a success written; and, with it, claimed what the slot lacks.

        It goes together with those that come next if they come at once.
        """
        now = monotonic()
        if not self._held:
            self._held_until = now + _HELD_SECONDS
        self._held.append(success)
        self._takes_next = takes_next
        more_come = takes_next and self._line and len(self._held) < _MAX_HELD
        if not more_come or self._mean_seconds() > self._held_until - now:
            self._send()

    def _send(self) -> None:
        if not self._held:
            return
        if len(self._sent) >= _MAX_UNDER_WAY:
            self._await_oldest()
        successes, self._held = self._held, []
        seen = self._bell.rings
        asks = self._lacking() if self._takes_next else 0
        self._sent.append(_Sent(EndsUnderWay(self._rt, successes, self._claimer, asks), seen))

    def send_held(self) -> None:
        """Hold nothing back any more: something begins that may take its time."""
        self._send()

    @property
    def writing(self) -> bool:
        """True while an end is on its way."""
        return bool(self._held or self._sent)

    def _lacking(self) -> int:
        known = len(self._line) + sum(sent.writing.asks for sent in self._sent)
        return max(0, self._wanted() - known)

    def _mean_seconds(self) -> float:
        """Of the last attempts; endless while too few are known."""
        known = len(self._seconds)
        return sum(self._seconds) / known if self._in_a_row >= self._enough else math.inf

    def _wanted(self) -> int:
        """How many should be claimed and wait: at least the one that the slot runs next."""
        alone = self._rt.store.exclusive and self._rt.policy.max_running_per_tenant is None
        if not alone or self._bell.waiting:
            # A slot that has nothing to do takes the next job itself.
            return 1
        return max(1, min(_MAX_AHEAD, int(_AHEAD_SECONDS / self._mean_seconds())))

    def writes(self, attempt: Attempt) -> bool:
        """True while the end of ``attempt`` is on its way."""
        on_their_way = (*self._held, *(success for sent in self._sent for success in sent.writing.successes))
        return any(success.attempt is attempt for success in on_their_way)

    def look(self) -> None:
        """Settle the ends that are written."""
        while self._sent and self._sent[0].writing.done:
            self._await_oldest()

    def await_oldest(self) -> bool:
        """Wait for the ends that were sent first; False if there are none."""
        self._send()
        return self._await_oldest()

    def _await_oldest(self) -> bool:
        if not self._sent:
            return False
        sent = self._sent[0]
        try:
            claimed = sent.writing.settle()
        finally:
            self._sent.popleft()
            for success in sent.writing.unsettled:
                self._roster.leave(success.attempt)
            for success in sent.writing.successes:
                self._roster.remove(success.attempt)
        if sent.writing.asks:
            self.seen = sent.seen if len(claimed) < sent.writing.asks else None
        if claimed:
            until = lease_until(self._rt, sent.writing.asked_at)
            taken = [Attempt(run, until, self._waker) for run in claimed]
            for attempt in taken:
                # At once: its lease is to be renewed, and it may be canceled, while it waits.
                self._roster.add(attempt)
            self._line.put(taken)
            if len(taken) > 1 and self._bell.waiting:
                self._bell.ring()
        return True

    def await_all(self) -> None:
        """Wait for every end."""
        while self.await_oldest():
            pass

    def look_at(self, now: float) -> float:
        """When an attempt that begins now should first call ``look_after``."""
        if self._held:
            return self._held_until
        return now + _LOOK_SECONDS if self._sent or self._line else math.inf

    def look_after(self, now: float) -> float:
        """While an attempt takes its time: hand on or give back what waits. When to call it again.

        It waits for no store that refuses: the clock of the attempt must be watched.
        """
        if len(self._sent) < _MAX_UNDER_WAY:
            self._send()
        while self._sent and self._sent[0].writing.done:
            if self._sent[0].writing.failed:
                self._send_again(now)
                return now + _AGAIN_SECONDS
            self._await_oldest()
        self.release(self._line.take_overdue(now))
        for _ in range(min(len(self._line), self._bell.waiting)):
            self._bell.ring()
        if self._sent or self._held:
            return now + _LOOK_SECONDS
        return now + LONGEST_WAIT_SECONDS if self._line else math.inf

    def _send_again(self, now: float) -> None:
        """What could not be written goes once more, each by itself, and without a claim."""
        writing = self._sent.popleft().writing
        for success in writing.successes:
            hopeless = len(writing.successes) == 1 and not writing.refused
            if hopeless or not success.attempt.held(now):
                self._roster.leave(success.attempt)
                self._roster.remove(success.attempt)
            else:
                alone = EndsUnderWay(self._rt, [success], self._claimer, 0)
                self._sent.append(_Sent(alone, self._bell.rings))

    def release(self, attempts: Iterable[Attempt]) -> None:
        """Give back attempts that have not begun."""
        left = deque(attempts)
        try:
            while left:
                if not (left[0].held(monotonic()) and give_back(self._rt, left[0], begun=False)):
                    self._roster.leave(left[0])
                self._roster.remove(left.popleft())
        finally:
            for attempt in left:
                # Its fence sees to it that nobody else's is touched.
                self._roster.leave(attempt)
                self._roster.remove(attempt)


def tell_lost(roster: Roster, attempt: Attempt) -> None:
    """Say that the lease is gone, and see to it that a job whose lease nobody else has is given back."""
    expired = monotonic() >= attempt.lease_until
    telemetry.emit("lease.lost", job=attempt.run.job, reason="not_renewed" if expired else "taken")
    if expired:
        # Perhaps nobody has taken the job yet: then it is given back once the store answers.
        roster.leave(attempt)
