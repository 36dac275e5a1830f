"""The parent's side of the forkserver: start it clean, have it fork, start it again when it dies.

It is the house's own and not multiprocessing's, which cannot be given an environment (and is started again from
whichever thread comes first), has children run the parent's main module again, hands every child the pipe whose
closing is to tell that the parent died, and leaves alone what a dead child has started: see
docs/decisions/0003-children-and-isolation.md. What runs in its process is in ``zygote``; this module never imports
plug-in code. Imports telemetry.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from async_delivery import telemetry
from async_delivery.worker import processes

_KEEP_ENV = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    | {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE"}
    | {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8"}
)
_PRELOAD_SECONDS = 120.0
_ANSWER_SECONDS = 10.0
_PID_BYTES = 8
_EXIT_BYTES = 16


class Signals(Protocol):
    """Whoever passes signals on to a child."""

    def signal(self, pid: int, number: int) -> None:
        """Send ``number`` to the child's process group."""


class ForkError(Exception):
    """No child could be made: the machine is out of processes or memory, or the forkserver cannot be started."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a child ended.

    code      negative for a signal; None if the forkserver died with it
    lost      the machine it ran on is gone, through no fault of its own
    starved   it was ended because it, or its machine, ran out of memory
    """

    code: int | None
    max_rss_bytes: int = 0
    lost: bool = False
    starved: bool = False


def scrubbed(environ: Mapping[str, str], keep: Iterable[str] = ()) -> dict[str, str]:
    """The part of an environment that analyses may see: where programs and language are, and what is named."""
    named = _KEEP_ENV.union(keep)
    return {name: value for name, value in environ.items() if name in named or name.startswith("LC_")}


class Child:
    """A forked process as its slot sees it. One thread uses it.

    channel   frames both ways, non-blocking
    output    read end of its stdout and stderr, non-blocking
    status    becomes readable when it has ended, or the forkserver has
    """

    def __init__(
        self, server: Signals, pid: int, channel: socket.socket, output: int, status: int, flag: mmap.mmap
    ) -> None:
        self._server = server
        self.pid = pid
        self.channel = channel
        self.output = output
        self.status = status
        self._flag = flag
        self._poll = select.poll()
        self._poll.register(status, select.POLLIN)
        self.exit: ExitStatus | None = None

    def ask_to_stop(self, mark: bytes) -> None:
        """Set the flag that the running attempt sees as ``context.canceled``."""
        self._flag[: len(mark)] = mark

    def signal(self, number: int) -> None:
        """Send a signal to the child and its process group; nothing happens if it has ended."""
        if self.exit is None:
            self._server.signal(self.pid, number)

    def wait(self, seconds: float) -> ExitStatus | None:
        """How it ended, waiting at most so long; None while it runs."""
        if self.exit is None and self._poll.poll(max(0, round(1000 * seconds))):
            record = os.read(self.status, _EXIT_BYTES)
            if len(record) == _EXIT_BYTES:
                code = int.from_bytes(record[:8], "big", signed=True)
                self.exit = ExitStatus(code, int.from_bytes(record[8:], "big"))
            else:
                # The forkserver is dead and the kernel has killed the child; what the child had started lives.
                processes.signal_group(self.pid, signal.SIGKILL)
                self.exit = ExitStatus(None)
        return self.exit

    def end(self, seconds: float) -> bool:
        """Kill it and let go of it; False if it did not die in so long (the kernel then owes us its death)."""
        if self.exit is None:
            self.signal(signal.SIGKILL)
            if self.wait(seconds) is None:
                # The forkserver does not act. As long as it does not, it has not waited for the child either, so
                # the number is still the child's.
                processes.signal_group(self.pid, signal.SIGKILL)
        self.channel.close()
        os.close(self.output)
        os.close(self.status)
        self._flag.close()
        return self.exit is not None


class ForkServer:
    """One forkserver process. Safe to use from any thread; ``start`` belongs on the main one.

    refs       name -> module:function of the analyses whose modules it imports ahead
    keep_env   names of environment variables that analyses may see beside the harmless ones
    """

    def __init__(self, refs: Mapping[str, str], keep_env: Sequence[str] = ()) -> None:
        self._refs = dict(refs)
        self._keep_env = tuple(keep_env)
        self._environ = scrubbed(os.environ, keep_env)
        self.sys_path = _sys_path()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._started = False
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the forkserver that runs now."""
        return self._process.pid if self._process else None

    @property
    def ready(self) -> bool:
        """A child can be asked for: where the process has died, asking starts it again."""
        return not self._closed

    @property
    def keep_env(self) -> tuple[str, ...]:
        """Names of environment variables that analyses may see beside the harmless ones."""
        return self._keep_env

    def serves(self, refs: Mapping[str, str], keep_env: Sequence[str]) -> bool:
        """True if it was made for just that."""
        return self._refs == dict(refs) and self._keep_env == tuple(keep_env)

    def start(self) -> None:
        """Start it and wait until the imports are done. Raises ForkError."""
        with self._lock:
            self._ensure_running()

    def fork(self, order: Mapping[str, Any]) -> Child:
        """A new child; see ``child.run`` for its order. Raises ForkError."""
        for _ in range(2):
            ends = Ends()
            try:
                self._ask({"do": "fork", "order": dict(order)}, ends.theirs())
                ends.close_theirs()
                pid = self._answer(ends.status)
            except ForkError:
                ends.close_theirs()
                ends.close_ours()
                raise
            if pid is None:
                # It died before it answered; the next question starts it again.
                ends.close_ours()
                continue
            if pid > 0:
                return Child(self, pid, ends.channel, ends.output, ends.status, ends.flag)
            ends.close_ours()
            raise ForkError(f"fork failed: {os.strerror(-pid)}")
        raise ForkError("the forkserver died twice while it was asked for a child")

    def signal(self, pid: int, number: int) -> None:
        """Have a child's process group signalled by the one who knows whether the number is still that child's."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                processes.signal_group(pid, number)
                return
            try:
                self._send({"do": "signal", "pid": pid, "signal": number}, [])
            except OSError:
                processes.signal_group(pid, number)

    def close(self) -> None:
        """End it and every child. Idempotent."""
        with self._lock:
            self._closed = True
            self._stop()

    def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        with self._lock:
            self._ensure_running()
            try:
                self._send(request, fds)
            except OSError:
                # Dead, or so stuck that its socket is full; either way a new one is needed.
                self._stop()
                self._ensure_running()
                try:
                    self._send(request, fds)
                except OSError as exc:
                    raise ForkError(f"the forkserver does not listen: {exc}") from exc

    def _answer(self, status: int) -> int | None:
        """A pid, minus an errno, or None if the forkserver has died. Raises ForkError if it is silent."""
        if not _readable(status, _ANSWER_SECONDS):
            # Stopped or stuck. Its children die with it and count as crashed; without a new one nothing goes on.
            with self._lock:
                if self._process is not None:
                    self._process.kill()
            raise ForkError(f"the forkserver did not answer for {_ANSWER_SECONDS:g} s")
        record = os.read(status, _PID_BYTES)
        return int.from_bytes(record, "big", signed=True) if len(record) == _PID_BYTES else None

    def _send(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        if self._control is None:
            raise BrokenPipeError("no forkserver")
        socket.send_fds(self._control, [json.dumps(request).encode()], list(fds))

    def _ensure_running(self) -> None:
        if self._closed:
            raise ForkError("the forkserver was closed")
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        began = perf_counter()
        ready = self._launch(self._refs)
        if not ready:
            # An import ended or hung it. Without imports ahead that happens to the children that need it only.
            self._stop()
            ready = self._launch({})
        if not ready:
            self._stop()
            raise ForkError("the forkserver cannot be started")
        telemetry.emit(
            "forkserver.started", pid=self.pid, again=self._started, seconds=perf_counter() - began
        )
        self._started = True

    def _launch(self, refs: Mapping[str, str]) -> bool:
        """Start the process and wait for the end of its imports; False if it died or took too long."""
        # Whole messages, and end of file when either side dies.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = (
            f"import sys; sys.path[:] = {self.sys_path!r}; "
            f"from async_delivery.worker.zygote import main; main({theirs.fileno()}, {os.getpid()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an import prints is no output of the server's commands
                env=self._environ,
                pass_fds=[theirs.fileno()],
                # Ctrl-C in a terminal is for the serving process, which drains.
                start_new_session=True,
            )
        self._control = ours
        try:
            ours.settimeout(_PRELOAD_SECONDS)
            ours.send(json.dumps({"refs": dict(refs)}).encode())
            answer = ours.recv(64)
            ours.settimeout(_ANSWER_SECONDS)
        except OSError:
            return False
        return bool(answer)

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_ANSWER_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class Ends:
    """The four connections of a child; the other ends go to the forkserver and are closed here."""

    def __init__(self) -> None:
        self.channel, self._channel = socket.socketpair()
        self.output, self._output = os.pipe2(os.O_CLOEXEC)
        self.status, self._status = os.pipe2(os.O_CLOEXEC)
        self._memory = os.memfd_create("async-delivery-cancel", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, mmap.PAGESIZE)
        self.flag = mmap.mmap(self._memory, mmap.PAGESIZE)
        self.channel.setblocking(False)
        os.set_blocking(self.output, False)
        self._open = True

    def theirs(self) -> list[int]:
        """Channel, output, flag, status: to be passed on, then closed here."""
        return [self._channel.fileno(), self._output, self._memory, self._status]

    def close_theirs(self) -> None:
        """They have been passed on, or nobody wants them."""
        if self._open:
            self._open = False
            self._channel.close()
            for fd in (self._output, self._memory, self._status):
                os.close(fd)

    def close_ours(self) -> None:
        """There is no child after all."""
        self.channel.close()
        os.close(self.output)
        os.close(self.status)
        self.flag.close()


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, round(seconds * 1000))))


def _sys_path() -> list[str]:
    """Ours, made absolute, and the current folder at its end for ``--analysis module:function``."""
    path = [os.path.abspath(entry) for entry in sys.path]
    here = os.getcwd()
    return path if here in path else [*path, here]


_current: ForkServer | None = None
_current_lock = threading.Lock()


def prepare(refs: Mapping[str, str], keep_env: Sequence[str] = ()) -> None:
    """Start the process's forkserver; called once, on the main thread, before any other thread exists.

    A second call with other arguments replaces it (and ends its children); with the same ones it changes nothing.
    Raises ForkError.
    """
    global _current  # noqa: PLW0603  one forkserver per process, as there is one environment and one sys.path
    with _current_lock:
        if _current is not None and _current.serves(refs, keep_env):
            return
        if _current is not None:
            _current.close()
        _current = ForkServer(refs, keep_env)
        _current.start()


def current() -> ForkServer:
    """The forkserver that ``prepare`` started. Raises ForkError if it was not called."""
    if _current is None:
        raise ForkError("forkserver.prepare() has not been called")
    return _current


def current_or_prepared(refs: Mapping[str, str]) -> ForkServer:
    """The forkserver there is; where there is none, one for ``refs``. Raises ForkError."""
    if _current is None:
        prepare(refs)
    return current()


def close() -> None:
    """End the process's forkserver and every child. Idempotent."""
    global _current  # noqa: PLW0603
    with _current_lock:
        if _current is not None:
            _current.close()
            _current = None


atexit.register(close)
