"""Analyses that do what analyses should not, each in one way; run in real children by the tests beside this file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from async_delivery.plugins import (
    AnalysisError,
    CancelRequested,
    Context,
    InvalidInputError,
    RetryableError,
    analysis,
)

MIB = 2**20


@analysis("fine", retry_base_seconds=0.05)
def fine(*, value: int = 0, seconds: float = 0.0, context: Context) -> dict[str, Any]:
    """Behaves."""
    time.sleep(seconds)
    return {"value": value, "pid": os.getpid(), "attempt": context.attempt}


@analysis("fine-fresh", isolation="fresh")
def fine_fresh(*, value: int = 0) -> dict[str, Any]:
    """Behaves, in a child of its own."""
    return {"value": value, "pid": os.getpid()}


@analysis("echo", input="optional")
def echo(*, context: Context) -> dict[str, Any]:
    """What the context says."""
    file = context.input
    return {
        "job_id": context.job_id,
        "attempt": context.attempt,
        "query": context.query,
        "workdir_entries": sorted(entry.name for entry in context.workdir.iterdir()),
        "workdir_mode": oct(context.workdir.stat().st_mode & 0o777),
        "cwd_is_workdir": Path.cwd() == context.workdir,
        "umask": oct(_umask()),
        "data_root": str(context.data_root) if context.data_root else None,
        "fault_injection": context.fault_injection,
        "seconds_left": context.deadline_seconds_left,
        "content": file.path.read_text() if file else None,
        "filename": file.filename if file else None,
        "stored_as": file.path.name if file else None,
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@analysis("surroundings")
def surroundings() -> dict[str, Any]:
    """What can be seen of the world from inside."""
    limits = {}
    import resource

    limits["core"] = resource.getrlimit(resource.RLIMIT_CORE)[0]
    status = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    return {
        "environ": dict(os.environ),
        "own_block": Path("/proc/self/environ").read_bytes().decode(errors="replace"),
        "forkserver_block": status.decode(errors="replace"),
        "pid": os.getpid(),
        "sid": os.getsid(0),
        "nice": os.nice(0),
        "core": limits["core"],
        "stdin": os.readlink("/proc/self/fd/0"),
        "path": sys.path,
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "open": sorted(
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)
        ),
    }


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@analysis("segfault", retry_base_seconds=0.05)
def segfault() -> None:
    """Reads address 0."""
    ctypes.string_at(0)


@analysis("kills-itself-once")
def kills_itself_once(*, context: Context) -> dict[str, Any]:
    """Dies on the first attempt."""
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempt": context.attempt}


@analysis("exits")
def exits(*, code: int = 0, raw: bool = False) -> None:
    """Ends the process as if all were well."""
    if raw:
        os._exit(code)
    sys.exit(code)


@analysis("overflows")
def overflows() -> None:
    """Recurses in C until the stack is full."""
    sys.setrecursionlimit(10**9)

    def deeper(_: int) -> Any:
        return sorted([1], key=deeper)

    deeper(0)


@analysis("eats", memory_bytes=256 * MIB)
def eats(*, way: str = "python") -> None:
    """Wants all the memory there is."""
    if way == "mmap":
        import mmap

        # Shared memory counts for no RLIMIT_DATA: only the watchdog sees it.
        chunks = []
        while True:
            chunk = mmap.mmap(-1, 16 * MIB)
            for page in range(0, 16 * MIB, 4096):
                chunk[page] = 1
            chunks.append(chunk)
            time.sleep(0.005)
    if way == "child":
        # Three processes below the limit, which together are beyond it.
        program = "import time; b = [bytearray(b'x') * (16 << 20) for _ in range(8)]; time.sleep(600)"
        for started in [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]:
            started.wait()
    if way == "swallow":
        while True:
            with contextlib.suppress(MemoryError):
                _fill()
    _fill()


def _fill() -> None:
    chunks: list[bytearray] = []
    while True:
        chunks.append(bytearray(b"\x01") * (16 * MIB))


@analysis("forks")
def forks(*, count: int = 20) -> None:
    """A small fork bomb: each generation leaves its group and lives on."""
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
            time.sleep(600)
    time.sleep(600)


@analysis("leaves-daemon")
def leaves_daemon(*, then: str = "complete", context: Context) -> dict[str, Any]:
    """Starts a process that leaves the session, keeps every descriptor open, and outlives the attempt."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            for fd in range(3, 64):
                with contextlib.suppress(OSError):
                    os.set_inheritable(fd, True)
            os.execvp("sleep", ["sleep", "600"])  # noqa: S606  a bare program, as daemons are
        os._exit(0)
    pid = int(os.read(read, 64))
    os.wait()
    context.partial({"daemon": pid})
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "fail":
        raise AnalysisError("as asked")
    return {"daemon": pid, "pid": os.getpid()}


@analysis("floods")
def floods(*, mebibytes: int = 32) -> str:
    """Prints a lot."""
    line = "x" * 1023 + "\n"
    for _ in range(mebibytes * 1024):
        sys.stdout.write(line)
    print("the end")
    return "done"


@analysis("prints")
def prints(*, closes: bool = False) -> str:
    """Binary, escapes and bad UTF-8; optionally closes the streams afterwards."""
    sys.stdout.write("plain text\n")
    sys.stdout.flush()
    os.write(1, b"\x00\x07\x1b[31mred\x1b[0m \xff\xfe \xe2\x80\xae reversed\r\n50 %\r100 %\n")
    os.write(2, b"to stderr\n")
    subprocess.run(["echo", "from a subprocess"], check=True)
    if closes:
        sys.stdout.close()
        os.close(1)
        os.close(2)
    return "done"


@analysis("stubborn")
def stubborn(*, ignore: bool = True, context: Context) -> None:
    """Ignores everything that can be ignored."""
    if ignore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.partial({"pid": os.getpid()})
    while True:
        time.sleep(0.01)


@analysis("holds-gil")
def holds_gil(*, context: Context) -> None:
    """One C call that holds the interpreter's lock for minutes."""
    context.partial({"pid": os.getpid()})
    re.match(r"(a+)+$", "a" * 60 + "b")


@analysis("cooperates")
def cooperates(*, steps: int = 100_000, result_on_cancel: bool = False, context: Context) -> Any:
    """Looks at the flag."""
    context.partial({"pid": os.getpid()})
    for step in range(steps):
        if context.canceled:
            if result_on_cancel:
                return {"stopped_at": step}
            raise CancelRequested
        time.sleep(0.002)
    return {"stopped_at": steps}


@analysis("raises-through-progress")
def raises_through_progress(*, context: Context) -> None:
    """Never looks at the flag, but reports."""
    while True:
        with contextlib.suppress(Exception):
            context.progress(1)
        time.sleep(0.002)


@analysis("cancels-itself")
def cancels_itself() -> None:
    """Raises what nobody asked for."""
    raise CancelRequested


class UnpicklableError(Exception):
    """Refuses to be copied, printed or shown."""

    def __reduce__(self) -> Any:
        raise TypeError("no")

    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


@analysis("returns-in-a-fork")
def returns_in_a_fork(*, how: str, context: Context) -> dict[str, Any]:
    """Comes back twice, once in a process that it forked."""
    own = os.fork()
    for number in range(5):
        context.partial({"own": own > 0, "number": number}, percent=number)
        context.progress(10 + number, message="own" if own else "fork")
    if own == 0 and how == "raises":
        raise ValueError("in the fork")
    if own == 0 and how == "late":
        time.sleep(0.2)
    if own > 0 and how != "late":
        _, status = os.waitpid(own, 0)
        return {"own": True, "fork_ended_with": os.waitstatus_to_exitcode(status)}
    return {"own": own > 0}


@analysis("reports-oddly")
def reports_oddly(*, context: Context) -> None:
    """Words that are no text to most of the world."""
    context.progress(40, stage="half \ud800", message="nul \0")


@analysis("raises")
def raises(*, what: str) -> None:
    """One error of each kind."""
    if what == "unpicklable":
        raise UnpicklableError(threading.Lock())
    if what == "value":
        raise ValueError("the first line\nthe second line")
    if what == "invalid":
        raise InvalidInputError("params.what", "must be nice")
    if what == "own":
        raise AnalysisError("mine", code="my_own_code")
    if what == "memory":
        raise MemoryError
    if what == "keyboard":
        raise KeyboardInterrupt
    if what == "odd":
        raise ValueError("half \ud800 and \0 nul")
    if what == "own-odd":
        raise AnalysisError("mine \ud800\0", code="my_own_code")
    raise RuntimeError(what)


@analysis("retries", max_attempts=3, retry_base_seconds=0.01)
def retries(*, until: int = 3, after: float | None = None, context: Context) -> dict[str, Any]:
    """Fails until the given attempt."""
    if context.attempt < until:
        raise RetryableError("not yet", retry_after_seconds=after)
    return {"attempt": context.attempt}


@analysis("returns", max_result_bytes=1 * MIB)
def returns(*, what: str) -> Any:
    """Results of every shape but a good one."""
    if what == "cycle":
        loop: list[Any] = []
        loop.append(loop)
        return {"a": loop}
    values: dict[str, Any] = {
        "set": {"rows": [{"x": {1, 2}}]},
        "nan": {"mean": float("nan")},
        "bytes": b"raw",
        "keys": {1: "a"},
        "surrogate": {"text": "\ud800"},
        "object": {"at": object()},
        "huge": "x" * (2 * MIB),
        "none": None,
    }
    return values[what]


@analysis("partials", max_result_bytes=1 * MIB)
def partials(*, count: int = 3, what: str = "small", context: Context) -> dict[str, Any]:
    """Publishes."""
    for number in range(count):
        payload: Any = {"number": number}
        if what == "huge":
            payload = "x" * (2 * MIB)
        if what == "set":
            payload = {number}
        context.partial(payload, percent=100 * number / count, stage=f"part {number}")
    return {"count": count}


@analysis("chatters")
def chatters(*, reports: int = 20_000, context: Context) -> dict[str, Any]:
    """Reports progress without measure."""
    for number in range(reports):
        context.progress(99 * number / reports, f"step {number}", "\x1b[2Jmessage \x00")
    context.progress(99, "the last word")
    return {"reports": reports}


@analysis("forges", max_result_bytes=1 * MIB)
def forges(*, what: str) -> dict[str, Any]:
    """Writes its own bytes into the socket to the parent."""
    fd = next(
        int(name)
        for name in os.listdir("/proc/self/fd")
        if int(name) > 2 and os.path.lexists(f"/proc/self/fd/{name}") and _is_socket(name)
    )
    import pickle
    import struct

    def frame(tag: bytes, payload: bytes, size: int | None = None) -> bytes:
        return struct.pack("!cI", tag, len(payload) if size is None else size) + payload

    forged = {
        "garbage": b"\x80\x04garbage" * 10,
        "pickle": frame(b"R", pickle.dumps({"a": 1})),
        "endless": frame(b"R", b"x", 0xFFFFFFFF),
        "downward": frame(b"J", b"{}"),
        "error": frame(b"E", b"[1,2,3]"),
        "progress": frame(b"P", b"\xff{") + frame(b"P", b'{"percent":"x","stage":5}'),
        "partial": frame(b"S", b"\x00\x00\xff\xff{}"),
    }[what]
    os.write(fd, forged)
    if what != "progress":
        time.sleep(600)
    return {"forged": what}


def _is_socket(name: str) -> bool:
    return os.readlink(f"/proc/self/fd/{name}").startswith("socket:")


@analysis("closes-everything")
def closes_everything() -> None:
    """As badly written daemons do; then lives on."""
    os.closerange(3, 256)
    time.sleep(600)


@analysis("litters")
def litters(*, context: Context) -> dict[str, Any]:
    """Leaves files that resist removal, and uses the temporary folder."""
    import tempfile

    locked = context.workdir / "locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    locked.chmod(0o000)
    (context.workdir / "link").symlink_to("/")
    with tempfile.NamedTemporaryFile(delete=False) as file:
        return {"temporary": file.name, "workdir": str(context.workdir)}


@analysis("grows", memory_bytes=1024 * MIB)
def grows(*, mebibytes: int) -> dict[str, Any]:
    """Keeps what it took."""
    _kept.append(bytearray(b"\x01") * (mebibytes * MIB))
    return {"pid": os.getpid()}


_kept: list[bytearray] = []


class _Last:
    """Takes its time, and leaves a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __del__(self) -> None:
        time.sleep(0.1)
        (self._folder / "last words").write_text("of a tenant")


@analysis("uses-folder")
def uses_folder(*, how: str = "not", context: Context) -> dict[str, Any]:
    """Says where it was, having done nothing there, left a file, left a thread, left an object that writes a file when
    it is let go of, or removed the folder."""
    if how == "file":
        (context.workdir / "notes").write_text("of a tenant")
    elif how == "object":
        context.kept = _Last(context.workdir)  # type: ignore[attr-defined]
    elif how == "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif how == "removed":
        context.workdir.rmdir()
    entries = sorted(os.listdir(context.workdir)) if context.workdir.exists() else None
    return {"workdir": str(context.workdir), "entries": entries, "pid": os.getpid(), "job_id": context.job_id}


@analysis("talks-later")
def talks_later(*, context: Context) -> dict[str, Any]:
    """Leaves a thread that goes on talking after the end."""
    said: list[str] = []

    def talk() -> None:
        while True:
            try:
                context.progress(50, "late")
            except RuntimeError:
                said.append("refused")
                return
            time.sleep(0.001)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    return {"pid": os.getpid()}


@analysis("dices")
def dices() -> float:
    """A random number."""
    import random

    return random.random()


@analysis("hums")
def hums(*, context: Context) -> None:
    """Prints now and then."""
    while not context.canceled:
        print("still here")
        time.sleep(0.05)


@analysis("hangs-once")
def hangs_once(*, context: Context) -> dict[str, Any]:
    """Comes to an end on its second attempt only, and tells where it runs."""
    context.partial({"pid": os.getpid(), "attempt": context.attempt})
    if context.attempt == 1:
        time.sleep(600)
    return {"pid": os.getpid(), "attempt": context.attempt}
