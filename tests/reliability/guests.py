"""Analyses for these tests: one that stays until it is ended from outside, and one that kills its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from async_delivery.plugins import Context, analysis

HOLD = "tests.reliability.guests:hold"
POISON = "tests.reliability.guests:poison"
OPTIONS = ("--analysis", HOLD, "--analysis", POISON)

_SLEEPER = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)


@analysis("hold", max_attempts=3)
def hold(
    *, seconds: float = 60.0, stubborn: bool = False, spin: bool = False, offspring: int = 0, context: Context
) -> dict[str, Any]:
    """Publishes its pid and stays, at the first attempt for ``seconds``, at later ones not at all.

    stubborn   ignores SIGTERM and the wish to cancel
    spin       computes in C, holding the interpreter's lock
    offspring  processes of its own, each of which ignores SIGTERM
    """
    if context.attempt > 1:
        return {"attempt": context.attempt}
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started = [
        subprocess.Popen([sys.executable, "-c", _SLEEPER], stdout=subprocess.PIPE) for _ in range(offspring)
    ]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()  # from here on it ignores SIGTERM
    context.partial({"pid": os.getpid(), "pids": [os.getpid(), *(one.pid for one in started)]})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if spin:
            pow(3, 2_000_000)  # one call, some tenths of a second
        elif stubborn:
            time.sleep(0.05)
        else:
            context.progress(50)
            time.sleep(0.05)
    return {"attempt": context.attempt}


@analysis("poison", max_attempts=3, retry_base_seconds=0.05)
def poison() -> None:
    """Kills its process."""
    os.kill(os.getpid(), signal.SIGKILL)
