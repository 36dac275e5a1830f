"""The program: its commands, and the one place where what went wrong becomes a line on stderr and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage; 130 after Ctrl-C and 141 when the reader of a pipe went away, as shells
expect. ``cleanup`` has its own meaning of 2 and 3, see ``cli.retention``.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from async_delivery import __version__
from async_delivery.cli.analyses import analyses
from async_delivery.cli.doctor import doctor
from async_delivery.cli.jobs import cancel, jobs, wait, watch
from async_delivery.cli.output import Failed, say
from async_delivery.cli.process import INTERRUPTED, silence
from async_delivery.cli.results import result
from async_delivery.cli.retention import cleanup
from async_delivery.cli.serve import serve
from async_delivery.cli.signals import signals
from async_delivery.cli.smoke import smoke
from async_delivery.cli.store import store
from async_delivery.cli.submit import retry, submit
from async_delivery.cli.triage import triage
from async_delivery.cli.worker import worker
from async_delivery.domain.errors import AsyncDeliveryError
from async_delivery.settings import SettingsError

PROGRAM = "async-delivery"
COMPLETION_VARIABLE = "_ASYNC_DELIVERY_COMPLETE"
DONE, FAILED, WRONG_USAGE, PIPE_CLOSED = 0, 1, 2, 141

_CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Run long analyses in the background and have them delivered."""


for _command in (
    serve,
    worker,
    submit,
    wait,
    watch,
    result,
    jobs,
    cancel,
    retry,
    analyses,
    cleanup,
    signals,
    smoke,
    triage,
    doctor,
    store,
):
    cli.add_command(_command)


def run(args: Sequence[str]) -> int:
    """Run one command; the exit code."""
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered has no reader; without this the interpreter would complain on its way out.
        silence(sys.stdout)
        silence(sys.stderr)
        return PIPE_CLOSED
    except OSError as exc:  # all others are told where they come up
        silence(sys.stdout)
        say(f"{PROGRAM}: cannot write the output: {exc.strerror}")
        return FAILED
    return code


def _run(args: Sequence[str]) -> int:
    try:
        done = _invoke(args)
    except click.exceptions.NoArgsIsHelpError as exc:
        print(exc.ctx.get_help(), file=sys.stderr)
        return WRONG_USAGE
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else PROGRAM
        say(f"{path}: {exc.format_message()} (see {path} --help)")
        return WRONG_USAGE
    except click.ClickException as exc:
        say(f"{PROGRAM}: {exc.format_message()}")
        return FAILED
    except SettingsError as exc:
        say(f"{PROGRAM}: {exc}")
        return WRONG_USAGE
    except Failed as exc:
        say(f"{PROGRAM}: {exc}")
        return exc.exit_code
    except AsyncDeliveryError as exc:
        say(f"{PROGRAM}: {exc.message}")
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        say(f"{PROGRAM}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as exc:  # people get a line; whoever looks for the fault gets it with python -X dev
        if sys.flags.dev_mode or _is_of_output(exc):
            raise
        return _unexpected(exc)
    return done if isinstance(done, int) else DONE


def _invoke(args: Sequence[str]) -> object:
    """What click's own ``main`` does, but for its way to end the process when a pipe breaks."""
    if asked := os.environ.get(COMPLETION_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, PROGRAM, COMPLETION_VARIABLE, asked)
    try:
        with cli.make_context(PROGRAM, list(args)) as ctx:
            return cli.invoke(ctx)
    except click.exceptions.Exit as exc:
        return exc.exit_code


def _is_of_output(exc: Exception) -> bool:
    # Files that commands open have names; the standard ones have none.
    return isinstance(exc, OSError) and exc.filename is None and exc.errno in _CANNOT_WRITE


def _unexpected(exc: Exception) -> int:
    # Only a command that speaks to a server has imported these.
    client = sys.modules.get("async_delivery.client")
    if client is not None and isinstance(exc, client.ClientError):
        say(f"{PROGRAM}: {exc}")
    else:
        say(
            f"{PROGRAM}: unexpected {type(exc).__name__}: {exc} (run it with python -X dev -m async_delivery for more)"
        )
    return FAILED
