"""Readiness: whether this process can do its work, as a list of named checks.

Not only its own pulse: a queue that nobody drains and a store that takes no writes are found here too. What a check
needs is asked for by the caller, so each is a plain function of it. Imports engine and domain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.domain.reserve import Reserve
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.stock import Look

PROBE_FRESH_SECONDS = 5.0
# A store that is back should soon be seen to be.
PROBE_AGAIN_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
# Loops turn every second at least, and every attempt's heartbeat within its interval; more means that one hangs.
MAX_LOOP_AGE_SECONDS = 30.0


class WorkerState(Protocol):
    """How the worker of this process is now."""

    @property
    def slots(self) -> int:
        """Attempts it can run at a time."""

    @property
    def busy(self) -> int:
        """Attempts it runs."""

    @property
    def loop_age_seconds(self) -> float:
        """Since the slowest of its loops last turned."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer. One that is not ``required`` is told, and does not make the process unready."""

    name: str
    ok: bool
    detail: str
    required: bool = True

    def to_json(self) -> dict[str, Any]:
        """As the body of ``/health/ready`` lists it."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "required": self.required}


def ready(checks: Sequence[Check]) -> bool:
    """True if everything that is required is well."""
    return all(check.ok for check in checks if check.required)


class WriteProbe:
    """Writes one small row now and then, to see that the store takes writes. Safe to use from any thread."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._lock = threading.Lock()
        self._probed_at = float("-inf")
        self._fault: str | None = None

    def fault(self) -> str | None:
        """Why the store takes no writes; None if the last probe went well."""
        with self._lock:
            fresh = PROBE_FRESH_SECONDS if self._fault is None else PROBE_AGAIN_SECONDS
            if monotonic() - self._probed_at >= fresh:
                self._fault = self._probe()
                self._probed_at = monotonic()
            return self._fault

    def _probe(self) -> str | None:
        now = self._rt.clock.now()
        try:
            written: Future[None] = self._rt.store.write_soon(lambda tx: tx.probe(now))
            written.result(PROBE_TIMEOUT_SECONDS)
        except FutureTimeoutError:
            return f"a small write has not ended within {PROBE_TIMEOUT_SECONDS:g} s"
        except AsyncDeliveryError as exc:
            return exc.message
        return None


def check_store(probe: WriteProbe) -> Check:
    """The store takes writes."""
    fault = probe.fault()
    return Check("store_writable", fault is None, fault or "a small write succeeded")


def check_schema(look: Look | None, wanted: str | None) -> Check:
    """The store can be read, and its schema is the one this version wants."""
    if look is None:
        return Check("schema_current", False, "the store cannot be read")
    found = look.facts.schema_revision
    right = wanted is None or found == wanted
    return Check("schema_current", right, f"revision {found}" + ("" if right else f", wanted {wanted}"))


def check_worker(state: Callable[[], WorkerState] | None) -> Check:
    """The worker of this process turns; a process without workers has the role api."""
    if state is None:
        return Check("worker_alive", True, "role api: this process runs no workers")
    now = state()
    detail = f"{now.busy} of {now.slots} slots busy, slowest loop turned {now.loop_age_seconds:.1f} s ago"
    return Check("worker_alive", now.loop_age_seconds <= MAX_LOOP_AGE_SECONDS, detail)


def check_queue(look: Look | None, max_seconds: float) -> Check:
    """The job that waits longest has not waited too long: somebody drains the queue. 0 is no limit."""
    if look is None:
        return Check("queue_drained", False, "the store cannot be read")
    waited = look.oldest_queued_seconds()
    if not max_seconds:
        detail = f"the oldest queued job has waited {waited:.0f} s; no limit is set"
        return Check("queue_drained", True, detail, required=False)
    detail = f"the oldest queued job has waited {waited:.0f} s, at most {max_seconds:g} s are fine"
    return Check("queue_drained", waited <= max_seconds, detail)


def check_disk(look: Look | None, min_bytes: int) -> Check:
    """There is space left where the store is: below ``min_bytes`` the next upload or checkpoint may not fit."""
    if look is None or look.free_bytes is None:
        return Check("disk_space", True, "not known here", required=False)
    detail = f"{look.free_bytes // 2**20} MiB free, at least {min_bytes // 2**20} MiB wanted"
    return Check("disk_space", look.free_bytes >= min_bytes, detail)


def check_reserve(reserve: Reserve) -> Check:
    """What the store keeps of the disk is there. For information: without it new jobs are refused, and told so."""
    if not reserve.wanted_bytes:
        return Check("disk_reserve", True, "none is kept", required=False)
    kept = f"{reserve.held_bytes // 2**20} of {reserve.wanted_bytes // 2**20} MiB kept in reserve"
    if reserve.is_whole:
        return Check("disk_reserve", True, kept, required=False)
    again = (
        f"new jobs are taken while {-(-reserve.needed_bytes // 2**20)} MiB are free or unused in the database"
    )
    return Check("disk_reserve", False, f"{kept}; {again}", required=False)


def check_pause(look: Look | None) -> Check:
    """Cleanups are not paused. For information: a paused cleanup hurts nobody today."""
    pause = look.pause if look else None
    if pause is None:
        return Check("cleanup_not_paused", True, "cleanups run", required=False)
    return Check("cleanup_not_paused", False, f"paused by {pause.by}: {pause.why}", required=False)


def check_draining(draining: bool) -> Check:
    """The process is not about to stop."""
    return Check("not_draining", not draining, "stopping: new jobs are refused" if draining else "serving")
