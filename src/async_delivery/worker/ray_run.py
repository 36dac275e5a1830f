"""One attempt on its way over the bridge: from its order to a Ray task, and all that comes back.

Runs on threads of the bridge's process (``ray_bridge``). Imports Ray in functions.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

from async_delivery.worker import ray_pump
from async_delivery.worker.child import EXIT_BROKEN
from async_delivery.worker.frames import Tag, pack, receive, split

if TYPE_CHECKING:
    from async_delivery.worker.ray_bridge import Bridge

_PART_BYTES = 32 * 2**20
# Items that wait to be taken; a task that is ahead by so many waits with the next one.
_BACKPRESSURE = 16
_WAIT_WORTH_TELLING_SECONDS = 2.0
_LOOK_UP_MS = 200
_WAITING = "waiting for resources of the Ray cluster"


class Run:
    """One attempt on its way."""

    def __init__(self, bridge: Bridge, order: dict[str, Any], channel: int, output: int, status: int) -> None:
        self._bridge = bridge
        self._order = order
        self._channel = socket.socket(fileno=channel)
        # Objects and not numbers: a number that was closed may be somebody else's by the time it is written to.
        self._output = open(output, "wb", buffering=0)  # noqa: SIM115  closed with the run
        self._status = open(status, "wb", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._began = monotonic()
        self._hello: dict[str, Any] | None = None
        self._told_of_waiting = False
        self._stream: Any = None
        self._killed = False
        self._lost = False
        self._finished = False

    @property
    def node(self) -> str | None:
        """Where it runs; None while it waits for its resources."""
        return self._hello["node"] if self._hello else None

    def run(self) -> None:
        """See it through."""
        end: dict[str, Any] = {"code": EXIT_BROKEN}
        try:
            frame = receive(self._channel)
            end = {"code": 0} if frame is None else self._carry(frame.payload)
        except Exception as exc:  # noqa: BLE001  told as the failure of an attempt: it may come again, and not for ever
            self._print(f"Ray: {type(exc).__name__}: {exc}")
            end = {"code": EXIT_BROKEN}
        if self._lost:
            end = {"lost": True}
        if self._killed and self._hello is not None and not self._lost:
            # First: whoever hears of the end may take it for certain that nothing runs any more.
            self._bridge.reap(self._hello)
        self._finish(end)

    def abandon(self) -> None:
        """Its node is gone. What Ray has to say about it may never come, for all it knows is a silent connection."""
        self._lost = True
        self._print("Ray: the node is gone")
        self._kill()
        if self._hello is not None and self._hello["host"] == self._bridge.host:
            self._bridge.reap(self._hello)
        self._finish({"lost": True})

    def _finish(self, end: dict[str, Any]) -> None:
        """Write how it ended into the status pipe and let go of everything, once."""
        with self._lock:
            finished, self._finished = self._finished, True
        if finished:
            return
        self._channel.close()
        self._output.close()
        with self._status, contextlib.suppress(OSError):
            self._status.write(json.dumps(end).encode())

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
                # No code of the analysis runs in that process. Mostly its whole node is gone.
                self._print(_first_line(exc))
                if self._hello is None or not self._bridge.node_lives(self._hello):
                    return {"lost": True}
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
        view, poll = memoryview(data), select.poll()
        try:
            with self._sending:
                poll.register(self._channel, select.POLLOUT)
                # The channel stays open until all is over: to the worker its end means a child that has closed it.
                while view and not self._killed:
                    if poll.poll(_LOOK_UP_MS):
                        with contextlib.suppress(BlockingIOError):
                            view = view[self._channel.send(view, socket.MSG_DONTWAIT) :]
        except (OSError, ValueError):
            # The worker listens no more; it has let go of the attempt.
            self._kill()

    def _write_output(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data:
                data = data[self._output.write(data) or 0 :]

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
