"""The worker's side of Ray: keeps a bridge process alive and hands it attempts, each of which looks like a child.

Ray itself is imported in the bridge only. Imports telemetry.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from itertools import count
from time import monotonic, perf_counter
from typing import Any

from async_delivery import telemetry
from async_delivery.worker import processes
from async_delivery.worker.forkserver import Child, Ends, ExitStatus, ForkError, ForkServer, scrubbed
from async_delivery.worker.output import OutputRing

_CONNECT_SECONDS = 120.0
_SEND_SECONDS = 10.0
_LEAVE_SECONDS = 12.0
_LAST_WORDS_SECONDS = 1.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_TICK_SECONDS = 0.2
_RECORD_BYTES = 4096
_KEEP_BYTES = 2048
_ASKS = {signal.SIGTERM: "terminate", signal.SIGKILL: "kill"}


class RayChild(Child):
    """An attempt on Ray as its slot sees it. ``pid`` is the bridge's: that of the attempt may be another machine's."""

    def __init__(self, executor: RayExecutor, bridge_pid: int, number: int, ends: Ends) -> None:
        super().__init__(executor, bridge_pid, ends.channel, ends.output, ends.status, ends.flag)
        self._executor = executor
        self._number = number

    def ask_to_stop(self, mark: bytes) -> None:
        """Have the flag set that the attempt sees as ``context.canceled``."""
        self._executor.ask(self._number, "stop")

    def signal(self, number: int) -> None:
        """SIGTERM goes to the attempt's process, SIGKILL ends its Ray task. From any thread."""
        if self.exit is None and number in _ASKS:
            self._executor.ask(self._number, _ASKS[signal.Signals(number)])

    def wait(self, seconds: float) -> ExitStatus | None:
        """How it ended; lost with the bridge, if that is gone."""
        if self.exit is None and self._poll.poll(max(0, round(1000 * seconds))):
            record = os.read(self.status, _RECORD_BYTES)
            self.exit = _status(json.loads(record)) if record else ExitStatus(None, lost=True)
        return self.exit

    def end(self, seconds: float) -> bool:
        """Let go of it; if it does not end by itself, as it does after its answer, end its task."""
        if self.wait(_LAST_WORDS_SECONDS) is None:
            self.signal(signal.SIGKILL)
            self.wait(seconds)
        self.channel.close()
        os.close(self.output)
        os.close(self.status)
        self._flag.close()
        return self.exit is not None


def _status(record: Mapping[str, Any]) -> ExitStatus:
    return ExitStatus(
        code=record.get("code"),
        max_rss_bytes=int(record.get("rss") or 0),
        lost=bool(record.get("lost")),
        starved=bool(record.get("starved")),
    )


class RayExecutor:
    """Runs attempts on the Ray at ``address``, or on one of its own where that is None.

    server           whose rules for the environment of analyses hold on Ray too
    refs             name -> module:function of the analyses that run there
    overdue_seconds  how long after its deadline a task ends itself that nobody ends
    host             for tests: a machine other than the one this is, so that tasks see no file of it
    """

    def __init__(
        self,
        server: ForkServer,
        refs: Mapping[str, str],
        address: str | None,
        *,
        kill_seconds: float,
        overdue_seconds: float,
        host: str | None = None,
    ) -> None:
        self._server = server
        self._refs = dict(refs)
        self._address = address
        self._kill_seconds = kill_seconds
        self._overdue_seconds = overdue_seconds
        self._host = host
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._numbers = count(1)
        self.ready = False

    @property
    def pid(self) -> int | None:
        """Of the bridge that runs now."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Begin to start the bridge and, where there is no address, Ray; ``ready`` says when that is done."""
        self._keeper = threading.Thread(target=self._keep, name="ray", daemon=True)
        self._keeper.start()

    def fork(self, order: Mapping[str, Any]) -> RayChild:
        """An attempt on Ray; its order follows on the channel, as a child's does. Raises ForkError."""
        number = next(self._numbers)
        order = {
            **order,
            "kill_seconds": self._kill_seconds,
            "overdue_seconds": order["timeout_seconds"] + self._overdue_seconds,
        }
        ends = Ends()
        try:
            with self._lock:
                if not self.ready or self._control is None or self._process is None:
                    raise ForkError("Ray cannot be reached")
                channel, output, _, status = ends.theirs()
                request = {"do": "attempt", "number": number, "order": order}
                socket.send_fds(self._control, [json.dumps(request).encode()], [channel, output, status])
                pid = self._process.pid
        except (OSError, ForkError) as exc:
            ends.close_ours()
            raise ForkError(f"the bridge to Ray takes no attempt: {exc}") from exc
        finally:
            ends.close_theirs()
        return RayChild(self, pid, number, ends)

    def signal(self, pid: int, number: int) -> None:
        """Not used: see ``RayChild.signal``, which knows the attempt."""

    def ask(self, number: int, what: str) -> None:
        """Leave word for an attempt; nothing happens if it has ended."""
        with self._lock:
            if self._control is not None:
                try:
                    self._control.send(json.dumps({"do": what, "number": number}).encode())
                except OSError:
                    # It is dead, which its attempts see; or it takes nothing any more, and must not stay.
                    self._kill()

    def close(self) -> None:
        """End the bridge and with it every attempt. Idempotent."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _keep(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            was_ready, why = False, ""
            try:
                control, process, said = self._launch()
            except OSError as exc:
                why = f"no process can be started: {exc}"
            else:
                was_ready, why = self._serve(control, process, said)
                ended = _end(control, process, said)
                why = why or ended
            if self._closing.is_set():
                return
            if was_ready:
                telemetry.emit("ray.lost", error=why)
                pause = _FIRST_PAUSE_SECONDS
            else:
                telemetry.emit("ray.failed", error=why)
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _serve(
        self, control: socket.socket, process: subprocess.Popen[bytes], said: OutputRing
    ) -> tuple[bool, str]:
        """One bridge until it hangs up or all ends: whether it had reached Ray, and what it says was in the way."""
        began = perf_counter()
        try:
            control.settimeout(_SEND_SECONDS)
            setup = {"address": self._address, "host": self._host, "refs": self._refs}
            control.send(json.dumps({**setup, "keep_env": self._server.keep_env}).encode())
            answer = self._answer(control, said)
            if "ready" not in answer:
                return False, str(answer.get("failed", ""))
            with self._lock:
                self._control, self._process, self.ready = control, process, True
            told = {name: answer[name] for name in ("address", "nodes", "local")}
            telemetry.emit("ray.ready", pid=process.pid, seconds=perf_counter() - began, **told)
            # It says nothing more: what can be heard is that it hangs up.
            while not self._closing.is_set() and not self._listen(control, said):
                pass
            return True, ""
        except OSError:
            return False, ""
        finally:
            with self._lock:
                self.ready, self._control, self._process = False, None, None

    def _answer(self, control: socket.socket, said: OutputRing) -> dict[str, Any]:
        until = monotonic() + _CONNECT_SECONDS
        while not self._closing.is_set() and monotonic() < until:
            if self._listen(control, said):
                data = control.recv(_RECORD_BYTES)
                answer: dict[str, Any] = json.loads(data) if data else {}
                return answer
        return {"failed": f"Ray did not answer for {_CONNECT_SECONDS:g} s"}

    @staticmethod
    def _listen(control: socket.socket, said: OutputRing) -> bool:
        """Wait a little, taking in what the bridge prints; True if it has an answer, or hung up."""
        said.drain()
        poll = select.poll()
        poll.register(control, select.POLLIN)
        return bool(poll.poll(1000 * _TICK_SECONDS))

    def _launch(self) -> tuple[socket.socket, subprocess.Popen[bytes], OutputRing]:
        """A new bridge: the way to it, itself, and what it prints. Raises OSError."""
        path = self._server.sys_path
        environ = scrubbed(os.environ, self._server.keep_env)
        environ |= {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
        # Nothing is reported to Ray's makers, whatever else is set.
        environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        printed, out = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(printed, False)
        program = (
            f"import sys; sys.path[:] = {path!r}; "
            f"from async_delivery.worker.ray_bridge import main; main({theirs.fileno()}, {os.getpid()})"
        )
        try:
            with theirs, open(out, "wb") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            os.close(printed)
            raise
        return ours, process, OutputRing(printed, _KEEP_BYTES)


def _end(control: socket.socket, process: subprocess.Popen[bytes], said: OutputRing) -> str:
    """Let a bridge end, and all that it started; its last words."""
    control.close()
    try:
        process.wait(_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # What one that was killed could not end itself.
    for pid in processes.session(process.pid):
        processes.signal_group(pid, signal.SIGKILL)
    said.drain()
    said.close()
    lines = (said.text() or "").strip().splitlines()
    return f"the bridge ended with code {process.returncode}{': ' + lines[-1] if lines else ''}"
