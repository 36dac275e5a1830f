"""A process that has imported everything and forks one child per run, so that a kill point costs milliseconds.

Reads ``NAME FOLDER`` per line, answers ``PID`` once the child is ready to be attached to and ``ended PID STATUS``
when it has ended. The child waits for the FIFO ``go`` in its folder. Run as a module, from the root of the checkout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from async_delivery.storage import migrate  # noqa: F401  imported before the fork: Alembic costs half a second
from tests.reliability.killpoints import PATHS


def child(name: str, folder: Path, say: int) -> None:
    path = PATHS[name]
    opened = path.ready(folder)
    acks = os.open(folder / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(say, f"{os.getpid()}\n".encode())
    with (folder / "go").open() as go:
        go.read()
    path.act(opened, lambda line: _ack(acks, line))


def _ack(acks: int, line: str) -> None:
    os.write(acks, f"{line}\n".encode())


def main() -> None:
    say = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        name, folder = line.rstrip("\n").split(" ", 1)
        pid = os.fork()
        if pid == 0:
            try:
                child(name, Path(folder), say)
            except BaseException as exc:  # noqa: BLE001  told by the exit code and the text
                sys.stderr.write(f"{name}: {exc!r}\n")
                sys.stderr.flush()
                os._exit(70)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        os.write(say, f"ended {pid} {status}\n".encode())


if __name__ == "__main__":
    main()
