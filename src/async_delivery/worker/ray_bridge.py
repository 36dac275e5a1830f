"""The bridge: a process between a worker and Ray, whose threads, signal handlers and faults are thus not the server's.

It holds no database and no secret of the service. The worker (``ray_executor``) hands it attempts as it hands them
to the forkserver: a socket for frames, a pipe for output, one for the end. A thread for each carries what the Ray
task (``ray_pump``) yields into them. When the worker is gone the bridge ends, and Ray ends the tasks of a driver
that has ended. Runs in a process of its own: ``python -c`` with a call of ``main``. Imports Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from async_delivery.worker import processes, ray_pump
from async_delivery.worker.child import EXIT_BROKEN
from async_delivery.worker.frames import Tag, pack, receive, split
from async_delivery.worker.ray_local import LocalRay

_MAX_MESSAGE_BYTES = 1 << 18
_TICK_MS = 500
_FAREWELL_SECONDS = 3.0
_REMOTE_SECONDS = 15.0
_PART_BYTES = 32 * 2**20
_BACKPRESSURE = 16
_WAIT_WORTH_TELLING_SECONDS = 2.0
_WAITING = "waiting for resources of the Ray cluster"
# A Ray worker process serves so many attempts: each runs in a child of its own, so only its forkserver ages.
_ATTEMPTS_PER_PROCESS = 100


def main(control_fd: int, parent_pid: int) -> None:
    """Serve until the worker at the other end of ``control_fd`` is gone."""
    if os.getppid() != parent_pid:
        os._exit(1)
    processes.set_name("ad-ray")
    os.umask(0o077)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    bridge = _Bridge(control, json.loads(control.recv(_MAX_MESSAGE_BYTES)))
    threading.Thread(target=bridge.outlive_nobody, daemon=True).start()
    try:
        ready = bridge.connect()
    except Exception as exc:  # noqa: BLE001  whatever Ray raises here, the worker is told and tries again later
        bridge.close()
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": f"{type(exc).__name__}: {exc}"[:2000]}).encode())
        os._exit(1)
    # A service manager may signal the whole tree; when to end is the worker's word. Ray has put its own handlers in.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    control.send(json.dumps(ready).encode())
    bridge.serve()
    bridge.close()
    os._exit(0)


class _Bridge:
    def __init__(self, control: socket.socket, setup: Mapping[str, Any]) -> None:
        self._control = control
        self._address: str | None = setup["address"]
        self.refs: dict[str, str] = setup["refs"]
        self.keep_env: list[str] = setup["keep_env"]
        self.host: str = setup["host"] or processes.host_id()
        self._local: LocalRay | None = None
        self._runs: dict[int, _Run] = {}

    def connect(self) -> dict[str, Any]:
        """Reach the cluster, or start one. What is told about it."""
        address = self._address
        if address is None:
            self._local = LocalRay(ray_pump.private(Path(tempfile.gettempdir()) / f"ad-ray-{os.getuid()}"))
            address = self._local.start()
        # Not before: it takes a second and has threads, and reads what the local Ray has put into the environment.
        import ray

        ray.init(address=address, log_to_driver=False, configure_logging=False)
        self.task = ray.remote(max_calls=_ATTEMPTS_PER_PROCESS)(ray_pump.task)
        self._poke, self._reap = ray.remote(ray_pump.poke), ray.remote(ray_pump.reap)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return {"ready": True, "address": address, "nodes": len(nodes), "local": self._local is not None}

    def close(self) -> None:
        """Leave Ray, which ends what still runs there, and end one that was started here."""
        if (ray := sys.modules.get("ray")) is not None:
            with contextlib.suppress(Exception):
                ray.shutdown()
        if self._local is not None:
            self._local.stop()

    def outlive_nobody(self) -> None:
        """On a thread: when the worker is gone, end, also when the main thread waits for Ray and hears of nothing."""
        poll = select.poll()
        poll.register(self._control, 0)
        while not poll.poll():
            pass
        # The main thread goes in good order, if it can; with this process its tasks end too.
        threading.Event().wait(_FAREWELL_SECONDS)
        if self._local is not None:
            self._local.stop()
        os._exit(1)

    @property
    def root(self) -> str | None:
        """Where tasks keep their folders; None: each node's own temporary folder."""
        return str(self._local.folder / "work") if self._local else None

    @property
    def shares_files(self) -> bool:
        """Every task surely sees this machine's files."""
        return self._local is not None and self.host == processes.host_id()

    def serve(self) -> None:
        """Until the worker is gone, or the Ray that was started here."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while self._local is None or self._local.runs:
            if poll.poll(_TICK_MS) and not self._obey():
                return
            for run in list(self._runs.values()):
                run.tell_of_waiting()

    def _obey(self) -> bool:
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                _MAX_MESSAGE_BYTES, socket.CMSG_SPACE(3 * 4), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False
        if not data:
            return False
        request = json.loads(data)
        number = request["number"]
        if request["do"] == "attempt":
            fds = [fd for _, _, blob in ancillary for (fd,) in struct.iter_unpack("i", blob)]
            run = self._runs[number] = _Run(self, request["order"], *fds)
            threading.Thread(target=self._see_through, args=(number, run), daemon=True).start()
        elif number in self._runs:
            # Not here: a word to another node waits for that node, and other words must not wait for it.
            threading.Thread(target=self._runs[number].ask, args=(request["do"],), daemon=True).start()
        return True

    def _see_through(self, number: int, run: _Run) -> None:
        try:
            run.run()
        finally:
            del self._runs[number]

    def poke(self, hello: Mapping[str, Any], what: bytes) -> None:
        """Leave word with a running attempt, wherever it runs."""
        if hello["host"] == self.host:
            ray_pump.poke(hello["control"], what)
        else:
            self._there(self._poke, hello, hello["control"], what)

    def reap(self, hello: Mapping[str, Any]) -> None:
        """See to it that the processes of an attempt are gone, and what they left."""
        if hello["host"] == self.host:
            ray_pump.reap(hello["pids"], hello["root"])
        else:
            self._there(self._reap, hello, hello["pids"], hello["root"])

    @staticmethod
    def _there(function: Any, hello: Mapping[str, Any], *arguments: Any) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(hello["node"], soft=False)
        asked = function.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(*arguments)
        # A node that does not answer is gone, and with it all that ran there.
        with contextlib.suppress(Exception):
            ray.get(asked, timeout=_REMOTE_SECONDS)


class _Run:
    """One attempt on its way."""

    def __init__(
        self, bridge: _Bridge, order: dict[str, Any], channel: int, output: int, status: int
    ) -> None:
        self._bridge = bridge
        self._order = order
        self._channel = socket.socket(fileno=channel)
        self._output = output
        self._status = status
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._began = monotonic()
        self._hello: dict[str, Any] | None = None
        self._told_of_waiting = False
        self._stream: Any = None
        self._killed = False

    def run(self) -> None:
        """See it through; writes its end into the status pipe and lets go of everything."""
        end: dict[str, Any] = {"code": EXIT_BROKEN}
        try:
            frame = receive(self._channel)
            end = {"code": 0} if frame is None else self._carry(frame.payload)
        except Exception as exc:  # noqa: BLE001  told as the failure of an attempt: it may come again, and not for ever
            self._print(f"Ray: {type(exc).__name__}: {exc}")
            end = {"code": EXIT_BROKEN}
        finally:
            if self._killed and self._hello is not None:
                # Only now: whoever hears of the end may take it for certain that nothing runs any more.
                self._bridge.reap(self._hello)
            self._channel.close()
            os.close(self._output)
            with contextlib.suppress(OSError):
                os.write(self._status, json.dumps(end).encode())
            os.close(self._status)

    def ask(self, what: str) -> None:
        """Pass a wish of the worker on: ``stop``, ``terminate`` or ``kill``."""
        if what == "kill":
            self._kill()
        elif self._hello is not None:
            self._bridge.poke(self._hello, ray_pump.STOP if what == "stop" else ray_pump.TERMINATE)
        else:
            # It waits for its resources: there is nobody to ask yet.
            self._kill()

    def tell_of_waiting(self) -> None:
        """Say what it waits for, once, if that takes long."""
        if self._hello or self._told_of_waiting or monotonic() - self._began < _WAIT_WORTH_TELLING_SECONDS:
            return
        self._told_of_waiting = True
        import ray

        try:
            there = {name: there for name, there in ray.cluster_resources().items() if ":" not in name}
            self._print(f"Ray: waiting for {self._wants()}; the cluster has {there} in all")
            self._say(Tag.PROGRESS, {"message": _WAITING})
        except Exception:  # noqa: BLE001  it is only a word
            return

    def _kill(self) -> None:
        import ray

        with self._lock:
            self._killed = True
            stream = self._stream
        # What has been sent stays readable; who waits to send more, waits no longer.
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        if stream is not None:
            with contextlib.suppress(Exception):
                ray.cancel(stream, force=True)

    def _carry(self, payload: bytes) -> dict[str, Any]:
        """Have Ray run it, and carry what it says; how it ended."""
        from ray import exceptions

        try:
            for item in self._items(payload):
                if item[:1] == ray_pump.EXIT:
                    end: dict[str, Any] = json.loads(item[1:])
                    return end
                self._take(item[:1], item[1:])
        except exceptions.TaskCancelledError:
            return {"code": -signal.SIGKILL}
        except exceptions.OutOfMemoryError as exc:
            self._print(_first_line(exc))
            return {"code": -signal.SIGKILL, "starved": True}
        except exceptions.WorkerCrashedError as exc:
            if not self._killed:
                self._print(_first_line(exc))
            return {"code": -signal.SIGKILL}
        except exceptions.RayTaskError as exc:
            return self._fault_of_task(exc)
        except exceptions.RayError as exc:
            # The node, or the way to it.
            self._print(_first_line(exc))
            return {"code": -signal.SIGKILL} if self._killed else {"lost": True}
        return {"lost": True}

    def _items(self, payload: bytes) -> Iterator[bytes]:
        import ray

        order = {
            **{key: self._order[key] for key in ("name", "memory_bytes", "nice")},
            **{key: self._order[key] for key in ("overdue_seconds", "kill_seconds")},
            "refs": self._bridge.refs,
            "keep_env": self._bridge.keep_env,
            "path": sys.path,
            "root": self._bridge.root,
            "host": self._bridge.host,
        }
        parts = self._parts(payload)
        with self._lock:
            if self._killed:
                return
            self._stream = self._bridge.task.options(**self._options()).remote(order, payload, parts)
        for reference in self._stream:
            yield ray.get(reference)

    def _options(self) -> dict[str, Any]:
        resources = dict(self._order["resources"])
        own = {name: resources.pop(name) for name in ("num_cpus", "num_gpus", "memory") if name in resources}
        return {
            "num_cpus": 1,
            **own,
            "resources": resources,
            "name": f"async-delivery {self._order['name']}",
            "num_returns": "streaming",
            "max_retries": 0,
            "_generator_backpressure_num_objects": _BACKPRESSURE,
        }

    def _parts(self, payload: bytes) -> list[Any]:
        """The uploaded file in Ray's object store, for nodes that do not see this machine's files."""
        file = json.loads(split(payload)[0])["input"]
        if file is None or self._bridge.shares_files:
            return []
        import ray

        with open(file["path"], "rb") as source:
            return [ray.put(part) for part in iter(lambda: source.read(_PART_BYTES), b"")]

    def _take(self, kind: bytes, data: bytes) -> None:
        if kind == ray_pump.FRAMES:
            self._write(data)
        elif kind == ray_pump.OUTPUT:
            self._write_output(data)
        elif kind == ray_pump.HELLO:
            self._hello = json.loads(data)
            self._say(Tag.STARTED, {})
            if self._told_of_waiting:
                self._say(Tag.PROGRESS, {"message": ""})

    def _say(self, tag: Tag, words: dict[str, Any]) -> None:
        self._write(pack(tag, json.dumps(words).encode()))

    def _write(self, data: bytes) -> None:
        try:
            with self._sending:
                self._channel.sendall(data)
        except OSError:
            # The worker listens no more; it has let go of the attempt.
            self._kill()

    def _write_output(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._output, data) :]

    def _print(self, line: str) -> None:
        self._write_output(f"{line}\n".encode(errors="backslashreplace"))

    def _wants(self) -> str:
        wanted = {"num_cpus": 1, **self._order["resources"]}
        return " ".join(f"{name}={amount:g}" for name, amount in wanted.items())

    def _fault_of_task(self, exc: Any) -> dict[str, Any]:
        """The task itself raised: before the analysis began, or for a reason of its node."""
        cause = f"{type(exc.cause).__name__}: {exc.cause}" if getattr(exc, "cause", None) else str(exc)
        self._print(f"Ray: the task failed: {cause}")
        if self._hello is None and ("failed to import" in cause or "ModuleNotFoundError" in cause):
            message = f"{self._order['name']}: this service is not installed on a node of the Ray cluster"
            self._say(Tag.ERROR, {"code": "analysis_unavailable", "message": message, "again": False})
        return {"code": EXIT_BROKEN}


def _first_line(exc: BaseException) -> str:
    return f"Ray: {str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__}"
