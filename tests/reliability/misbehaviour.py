"""Analyses that harm what they run in, beyond those of the worker's own tests; and one that looks at what is left."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from async_delivery.plugins import Context, analysis

MIB = 2**20
_kept: list[Any] = []


@analysis("leaks-descriptors")
def leaks_descriptors() -> dict[str, Any]:
    """Opens files until there are no more to be had."""
    while True:
        _kept.append(os.open("/dev/null", os.O_RDONLY))


@analysis("starts-threads")
def starts_threads(*, count: int = 100) -> dict[str, Any]:
    """Starts threads that never end."""
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return {"pid": os.getpid()}


@analysis("leaves-thread")
def leaves_thread() -> dict[str, Any]:
    """Leaves a thread that the interpreter would wait for, and something to be done at its exit that hangs."""
    atexit.register(time.sleep, 600)
    threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
    return {"pid": os.getpid()}


@analysis("blocks-signals")
def blocks_signals() -> None:
    """Hears of no signal that can be blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


@analysis("sleeps-in-c")
def sleeps_in_c() -> None:
    """Holds the interpreter's lock and does nothing."""
    ctypes.PyDLL(None).sleep(600)


@analysis("stops-itself")
def stops_itself() -> None:
    """Is stopped, and nobody lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


@analysis("becomes-another")
def becomes_another() -> None:
    """Gives its process to another program."""
    os.execvp("sleep", ["sleep", "600"])  # noqa: S606  a bare program is the point


@analysis("kills-parent", retry_base_seconds=0.05, max_attempts=2)
def kills_parent(*, way: str) -> None:
    """Strikes at what it was started by."""
    parent = os.getppid()
    match way:
        case "session":
            os.killpg(0, signal.SIGKILL)
        case "forkserver":
            os.killpg(parent, signal.SIGKILL)
        case "stop":
            # Nothing answers any more, and nothing has ended.
            os.kill(parent, signal.SIGSTOP)
    time.sleep(600)


@analysis("rubbish-on-pipe")
def rubbish_on_pipe() -> None:
    """Writes into every descriptor it has, wherever it leads."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_blocking(int(name), False)
                os.write(int(name), b"\xde\xad\xbe\xef" * 4096)
    time.sleep(600)


@analysis("returns-oddly", max_result_bytes=1 * MIB, memory_bytes=512 * MIB)
def returns_oddly(*, what: str) -> Any:
    """Results that look like JSON, and are none or no good one."""
    if what == "deep":
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        return deep
    if what == "gigabyte":
        return "x" * 2**30
    values: dict[str, Any] = {
        "deep-enough": _nested(900),
        "digits": 10**6000,
        "infinite": [float("inf")],
        "generator": {"rows": (n for n in range(3))},
        "lambda": lambda: 1,
        "true-key": {True: 1},
        "escapes": "\x00\x1b[2J\u202e</script>" + "\x7f",
        "big-int": 2**70,
        "liar": _Liar(),
    }
    return values[what]


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class _Liar(dict[str, Any]):
    """Says something else each time it is asked."""

    def __len__(self) -> int:
        return 10**9

    def items(self) -> NoReturn:
        raise RuntimeError("not today")


@analysis("raises-much")
def raises_much(*, what: str = "long") -> None:
    """Errors that are hard to keep or to show."""
    if what == "long":
        raise ValueError("x" * (64 * MIB))
    if what == "chain":
        error: BaseException = ValueError("the first")
        for number in range(5_000):
            nxt = ValueError(str(number))
            nxt.__cause__ = error
            error = nxt
        raise error
    if what == "base":
        raise BaseExceptionGroup("many", [KeyboardInterrupt(), SystemExit(3)])
    if what == "generator":
        raise GeneratorExit
    raise ValueError('\x1b[31m\r\n{"level":"error","event":"forged"}\u2028\u202e')


@analysis("fills-disk")
def fills_disk(*, context: Context) -> dict[str, Any]:
    """Many files, some of them large, in its own folder; then without that folder."""
    for number in range(2_000):
        (context.workdir / f"file-{number}").write_bytes(b"x")
    with (context.workdir / "large").open("wb") as file:
        file.write(b"x" * (32 * MIB))
        file.truncate(2**40)
    os.mkfifo(context.workdir / "fifo")
    return {"workdir": str(context.workdir)}


@analysis("removes-workdir")
def removes_workdir(*, context: Context) -> dict[str, Any]:
    """Takes its own folder away, and returns from a place that is not there."""
    shutil.rmtree(context.workdir)
    return {"workdir": str(context.workdir)}


@analysis("traces-itself")
def traces_itself() -> None:
    """Slows everything down for whoever comes after, and never ends."""
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)
    while True:
        time.sleep(0.001)


SECRET_NAME = "LEFT_BEHIND"


@analysis("changes-surroundings")
def changes_surroundings() -> dict[str, Any]:
    """Succeeds, and leaves its process in another state than it was given."""
    os.chdir("/")
    os.environ[SECRET_NAME] = "by another tenant"
    os.environ.pop("PATH", None)
    os.umask(0)
    # 64 files are enough to go on, and too few for much.
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.stdout = None
    os.close(0)
    return {"pid": os.getpid(), **surroundings_now()}


@analysis("looks-around")
def looks_around() -> dict[str, Any]:
    """What this process is like when an attempt begins."""
    return {"pid": os.getpid(), **surroundings_now()}


@analysis("acts-or-looks", memory_bytes=512 * MIB)
def acts_or_looks(*, act: bool, seconds: float = 0.0) -> dict[str, Any]:
    """One of the two above, in the same warm child; what was there at the beginning."""
    before = surroundings_now()
    if act:
        changes_surroundings()
    time.sleep(seconds)
    return {"pid": os.getpid(), **before}


def surroundings_now() -> dict[str, Any]:
    """What of a process outlives an attempt, unless somebody puts it right."""
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "cwd_is_own": Path.cwd() == Path(os.environ["TMPDIR"]),
        "cwd_is_empty": not os.listdir(),
        "left_behind": os.environ.get(SECRET_NAME),
        "path": os.environ.get("PATH"),
        "umask": mask,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "sigterm": str(signal.getsignal(signal.SIGTERM)),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "stdout": sys.stdout is not None,
        "stdin": os.path.lexists("/proc/self/fd/0"),
        "processors": len(os.sched_getaffinity(0)),
    }
