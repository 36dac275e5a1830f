"""The command line: one file per group of commands; each parses, calls one function, and prints.

What a command does lives in ``client`` (for those that ask a server) and in ``wiring`` and below (for those that work
on a store). Heavy imports wait for the command that needs them, so that ``submit`` starts at once.
"""

import sys


def main() -> None:
    """The program ``async-delivery``."""
    from async_delivery.cli.process import INTERRUPTED, interruptible, prepare, uninterruptible

    prepare()
    from async_delivery.cli.app import run

    try:
        interruptible()
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command or after it
        code = INTERRUPTED
    uninterruptible()
    sys.exit(code)
