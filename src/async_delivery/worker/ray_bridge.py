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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from async_delivery.worker import processes, ray_pump
from async_delivery.worker.ray_local import LocalRay
from async_delivery.worker.ray_run import Run

_MAX_MESSAGE_BYTES = 1 << 18
_TICK_MS = 500
_FAREWELL_SECONDS = 3.0
_NODES_SECONDS = 2.0
_SETTLE_SECONDS = 1.0
_PROBE_SECONDS = 5.0
_REMOTE_SECONDS = 15.0
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
    bridge = Bridge(control, json.loads(control.recv(_MAX_MESSAGE_BYTES)))
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


class Bridge:
    def __init__(self, control: socket.socket, setup: Mapping[str, Any]) -> None:
        self._control = control
        self._address: str | None = setup["address"]
        self.refs: dict[str, str] = setup["refs"]
        self.keep_env: list[str] = setup["keep_env"]
        self.host: str = setup["host"] or processes.host_id()
        self._local: LocalRay | None = None
        self._runs: dict[int, Run] = {}

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
        threading.Thread(target=self._watch_nodes, daemon=True).start()
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
            run = self._runs[number] = Run(self, request["order"], *fds)
            threading.Thread(target=self._see_through, args=(number, run), daemon=True).start()
        elif number in self._runs:
            # Not here: a word to another node waits for that node, and other words must not wait for it.
            threading.Thread(target=self._runs[number].ask, args=(request["do"],), daemon=True).start()
        return True

    def _see_through(self, number: int, run: Run) -> None:
        try:
            run.run()
        finally:
            del self._runs[number]

    def node_lives(self, hello: Mapping[str, Any]) -> bool:
        """Whether the node of an attempt whose Ray worker process died is still there: that it died with its node
        takes a moment to show, and the cluster many seconds to notice."""
        threading.Event().wait(_SETTLE_SECONDS)
        if hello["host"] == self.host:
            pid, began = hello["raylet"]
            return bool(processes.started_at(pid) == began)
        return self._there(self._poke, hello, _PROBE_SECONDS, "", b"")

    def _watch_nodes(self) -> None:
        """On a thread: end the attempts of nodes that the cluster has given up."""
        import ray

        while True:
            threading.Event().wait(_NODES_SECONDS)
            running = [run for run in list(self._runs.values()) if run.node is not None]
            if not running:
                continue
            try:
                gone = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
            except Exception:  # noqa: BLE001, S112  without the cluster's word nothing is known; its end ends the bridge
                continue
            for run in running:
                if run.node in gone:
                    run.abandon()

    def poke(self, hello: Mapping[str, Any], what: bytes) -> None:
        """Leave word with a running attempt, wherever it runs."""
        if hello["host"] == self.host:
            ray_pump.poke(hello["control"], what)
        else:
            self._there(self._poke, hello, _REMOTE_SECONDS, hello["control"], what)

    def reap(self, hello: Mapping[str, Any]) -> None:
        """See to it that the processes of an attempt are gone, and what they left."""
        if hello["host"] == self.host:
            ray_pump.reap(hello["pids"], hello["root"])
        else:
            self._there(self._reap, hello, _REMOTE_SECONDS, hello["pids"], hello["root"])

    @staticmethod
    def _there(function: Any, hello: Mapping[str, Any], seconds: float, *arguments: Any) -> bool:
        """Call it on the node of an attempt; False if that node does not answer in so many seconds."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(hello["node"], soft=False)
        asked = function.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(*arguments)
        try:
            ray.get(asked, timeout=seconds)
        except Exception:  # noqa: BLE001  it is gone, and with it all that ran there
            return False
        return True
