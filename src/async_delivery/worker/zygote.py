"""The forkserver's own process: imports the analyses once, then forks children from that state on request.

It holds no secret and no database, runs one thread, and does four things: fork, pass on signals, report how each
child ended, and clear away what a child leaves behind. It adopts orphans, and so does each child; a process that
has become the forkserver's own child without having been forked here is therefore what a dead child left, however
far it had run from its session, and is killed. When the serving process is gone, everything below is killed and
the forkserver ends.

Runs in a process of its own: ``python -c`` with a call of ``main``. Imports plugins and domain, and what the
analyses import.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Mapping
from time import monotonic
from typing import Any, NoReturn

from async_delivery.plugins import preload_modules
from async_delivery.worker import child, processes

READY = b"ready"
STATUS_PID = struct.Struct("!q")
STATUS_EXIT = struct.Struct("!qq")

_MAX_MESSAGE_BYTES = 1 << 18
_STRAY_POLL_MS = 20
_LAST_WORDS_SECONDS = 2.0


def main(control_fd: int, parent_pid: int) -> None:
    """Serve until the process at the other end of ``control_fd`` is gone."""
    # An analysis's import may hang in C: until the loop runs, the kernel alone must be able to end this process.
    processes.signal_when_parent_dies(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    processes.set_name("ad-forkserver")
    processes.adopt_orphans()
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    setup = json.loads(control.recv(_MAX_MESSAGE_BYTES))
    _preload(setup["refs"])
    # What is here now is shared with every child; the collector must not copy it by touching it.
    gc.collect()
    gc.freeze()
    zygote = _Zygote(control, parent_pid)
    control.send(READY)
    # From here on the loop is always at hand, and tidies up before it ends.
    processes.signal_when_parent_dies(signal.SIGTERM)
    zygote.serve()
    # Libraries that were imported for the children need no farewell here, and some are noisy about it.
    os._exit(0)


def _preload(refs: Mapping[str, str]) -> None:
    for module in preload_modules(refs):
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as exc:  # noqa: BLE001  children try again, and their jobs say what is wrong
            sys.stderr.write(f"async-delivery: cannot import {module} ahead: {exc!r}\n")


class _Zygote:
    def __init__(self, control: socket.socket, parent_pid: int) -> None:
        self._control = control
        self._parent_pid = parent_pid
        self._children: dict[int, int] = {}  # pid -> where to report its end
        self._strays = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # the wakeup fd tells the loop
        # A service manager or a terminal may signal the whole tree; when to end is the serving process's word.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def serve(self) -> None:
        """Until the serving process is gone; then end everything below."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while os.getppid() == self._parent_pid:
            ready = {fd for fd, _ in poll.poll(_STRAY_POLL_MS if self._strays else None)}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            self._reap()
            if self._control.fileno() in ready and not self._obey():
                break
        self._end_everything()

    def _obey(self) -> bool:
        """Carry out one request; False when the other end is gone."""
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                _MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        if not data:
            return False
        request = json.loads(data)
        if request["do"] == "signal":
            if request["pid"] in self._children:
                processes.signal_group(request["pid"], request["signal"])
            return True
        fds = [fd for _, _, blob in ancillary for (fd,) in struct.iter_unpack("i", blob)]
        self._fork(request["order"], fds)
        return True

    def _fork(self, order: dict[str, Any], fds: list[int]) -> None:
        channel, output, flag, status = fds
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # newer Pythons warn of threads that an analysis's import started
                pid = os.fork()
        except OSError as exc:
            _report(status, STATUS_PID.pack(-(exc.errno or 1)))
            os.close(status)
        else:
            if pid == 0:
                self._become(order, channel, output, flag, status)
            self._children[pid] = status
            _report(status, STATUS_PID.pack(pid))
        for fd in (channel, output, flag):
            os.close(fd)

    def _become(self, order: dict[str, Any], channel: int, output: int, flag: int, status: int) -> NoReturn:
        code = child.EXIT_BROKEN
        try:
            parent = os.getppid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # A child that held another's status pipe would hide from the parent that the forkserver has died.
            for fd in (status, self._wake_read, self._wake_write, *self._children.values()):
                os.close(fd)
            self._control.close()
            code = child.run(order, channel, output, flag, parent)
        except BaseException:  # noqa: BLE001  nothing may unwind into the forkserver's frames
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Report the children that have ended, and clear away what they left."""
        while True:
            try:
                # Not waited for yet: until then no new process can get this number, so the group is still its own.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            pid = ended.si_pid
            status = self._children.pop(pid, None)
            if status is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, wait_status, usage = os.wait4(pid, 0)
            if status is not None:
                code = os.waitstatus_to_exitcode(wait_status)
                _report(status, STATUS_EXIT.pack(code, usage.ru_maxrss * 1024))
                os.close(status)
        self._kill_strays()

    def _kill_strays(self) -> None:
        strays = [pid for pid in processes.children(os.getpid()) if pid not in self._children]
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # They may have children, which come here next.
        self._strays = bool(strays)

    def _end_everything(self) -> None:
        until = monotonic() + _LAST_WORDS_SECONDS
        for pid in self._children:
            processes.signal_group(pid, signal.SIGKILL)
        while processes.children(os.getpid()) and monotonic() < until:
            self._reap()
            select.select([self._wake_read], [], [], _STRAY_POLL_MS / 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)


def _report(fd: int, record: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, record)
