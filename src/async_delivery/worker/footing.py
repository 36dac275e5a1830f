"""What a warm child's process must be like whenever an attempt begins, whatever the attempt before has made of it.

A child serves the jobs of many tenants. What the operating system keeps for a process (environment, limits, timers,
signals, processors) is put back after each attempt; what an analysis keeps in its own modules is its own affair.
Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
# A child sets these itself, narrower than they were: RLIMIT_CORE and RLIMIT_DATA, as the kernel names them.
_OWN_NAMES = (b"Max core file size ", b"Max data size ")
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# SIGTERM is how the service asks a child to end. The others come from timers of an analysis.
_SIGNALS = (signal.SIGTERM, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)


class Footing:
    """Of the process that makes it, at the time it is made; to be put back before the parent hears of an end."""

    def __init__(self) -> None:
        # By what the mapping keeps its bytes in: compared as a mapping, it decodes each of them anew.
        self._mapping = os.environ
        self._entries: dict[bytes, bytes] = vars(os.environ)["_data"]
        self._environ = dict(self._entries)
        self._limits = {which: resource.getrlimit(which) for which in _LIMITS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._processors = os.sched_getaffinity(0)

    def set_variable(self, name: str, value: str) -> None:
        """Have the environment say ``value`` from now on, and after each attempt again."""
        key, entry = os.fsencode(name), os.fsencode(value)
        if self._environ.get(key) != entry:
            os.environb[key] = self._environ[key] = entry

    def put_back(self) -> None:
        """Make it so again. What a process without rights cannot undo is for the parent to see: ``is_narrowed``."""
        # First what could still strike while the rest is done. A handler stays until nothing is on its way to it.
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for which, limits in self._limits.items():
            if resource.getrlimit(which) != limits:
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(which, limits)
        if os.sched_getaffinity(0) != self._processors:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._processors)
        os.environ = self._mapping  # noqa: B003  the mapping itself, in case another has its place
        if self._entries != self._environ:
            # One or two of many.
            for name in [name for name in self._entries if name not in self._environ]:
                del os.environb[name]
            for name, value in self._environ.items():
                if self._entries.get(name) != value:
                    os.environb[name] = value


def is_narrowed(limits: bytes) -> bool:
    """Whether a child has given up limits that it had from this process, and cannot take them back.

    limits   what /proc/PID/limits says of it; empty when it is gone
    """
    with open("/proc/self/limits", "rb") as own:
        return _given(limits) != _given(own.read())


def _given(limits: bytes) -> list[bytes]:
    """The hard limits, behind a name of 25 characters and the soft limit."""
    return [line[:25] + line[46:67] for line in limits.splitlines() if not line.startswith(_OWN_NAMES)]
