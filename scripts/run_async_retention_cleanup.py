#!/usr/bin/env python3
"""Cleans up a store from a checkout: see --help, and `async-delivery cleanup` for the installed form.

Works with whatever python3 is on the PATH: if that one lacks the dependencies, the checkout's own .venv takes over.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

# Through symbolic links: a folder of scripts may be linked to from elsewhere.
SCRIPT = os.path.realpath(__file__)
CHECKOUT = os.path.dirname(os.path.dirname(SCRIPT))
NAME = os.path.basename(SCRIPT)
OWN_PYTHON = os.path.join(CHECKOUT, ".venv", "bin", "python")
# Set for the second try, so that there is no third.
MARK = "_ASYNC_DELIVERY_CLEANUP_SECOND_TRY"


# What the exit code of a run that was stopped is; see `async-delivery cleanup`.
STOPPED = 2


def stopped_early(number: int, frame: FrameType | None) -> None:
    """Asked to stop while the program was still being loaded, which takes longer than anything else at the start."""
    # No exception: in the middle of an import it would be told as a traceback.
    os.write(2, f"{NAME}: stopped on request before anything was deleted\n".encode())
    os._exit(STOPPED)


def on_stop(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """What SIGTERM and SIGINT do from here; what this process was started to ignore, it ignores."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def load() -> Callable[[Sequence[str], str], int]:
    """The program, from this checkout. Raises ImportError where Python or the dependencies do not fit."""
    if sys.version_info < (3, 11):  # noqa: UP036  whatever python3 is, it gets an answer
        raise ImportError(f"it needs Python 3.11 or newer, and this is {sys.version.split()[0]}")
    sys.path.insert(0, os.path.join(CHECKOUT, "src"))
    from async_delivery.cli.retention import script
    from async_delivery.wiring import cleaning  # noqa: F401  what a run imports later must be there now

    return script


def main() -> int:
    """Run with this Python, or become the checkout's own."""
    on_stop(stopped_early)
    try:
        script = load()
    except ImportError as exc:
        if MARK not in os.environ and os.access(OWN_PYTHON, os.X_OK):
            os.environ[MARK] = "1"
            os.execv(OWN_PYTHON, [OWN_PYTHON, SCRIPT, *sys.argv[1:]])  # noqa: S606
        print(
            f"{NAME}: cannot run with {sys.executable}: {exc}; `make setup` in {CHECKOUT} mends it",
            file=sys.stderr,
        )
        return 1
    code = script(sys.argv[1:], NAME)
    # All is told: there is nothing left that could be stopped.
    on_stop(signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
