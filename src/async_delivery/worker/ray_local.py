"""A Ray of one machine, for a worker that was given no cluster: loopback only, with a token of its own.

Started and ended by the bridge (``ray_bridge``), whose death takes it along. Does not import Ray: its command line
is told all there is to say.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

from async_delivery.worker import processes
from async_delivery.worker.workdirs import Workdirs, remove_tree

_START_SECONDS = 90.0
_STOP_SECONDS = 5.0
# Results and partials do not go through the object store; what an analysis itself puts there spills to disk.
_OBJECT_STORE_BYTES = 128 * 2**20
_LAST_WORDS = 500
# On SIGTERM it ends its own children in good order, and they have a word with the kernel themselves.
_PROGRAM = """
import os, sys
sys.path[:] = {path!r}
from async_delivery.worker.processes import signal_when_parent_dies
signal_when_parent_dies(15)
if os.getppid() != {parent}:
    os._exit(1)
from ray.scripts.scripts import main
main()
"""


class LocalRayError(Exception):
    """Ray could not be started here; says why in one line."""


class LocalRay:
    """One node on this machine, with all its cores and devices. The process that starts it leads its session."""

    def __init__(self, root: Path) -> None:
        """``root``: a private folder with a short name, as the paths of sockets may have 107 characters."""
        self._root = root
        self._folders: Workdirs | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = root

    def start(self) -> str:
        """Start it; its address. Belongs on the main thread. Raises LocalRayError, OSError."""
        self._folders = Workdirs(self._root, f"{os.getpid()}")
        self._folders.remove_orphans()
        self.folder = self._folders.make("ray")
        # What names another Ray is not meant for this one.
        os.environ.pop("RAY_ADDRESS", None)
        # Only for those who inherit it: nobody else on this machine may hand this Ray a task.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # Ray then takes the loopback address for its own and listens nowhere else, whatever the system.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        with (self.folder / "out").open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROGRAM.format(path=sys.path, parent=os.getpid())),
                    *("start", "--head", "--block"),
                    *("--port=0", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}"),
                    *("--no-monitor", "--include-log-monitor=false", "--include-dashboard=false"),
                    *("--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return self._address()

    def _address(self) -> str:
        until = monotonic() + _START_SECONDS
        while monotonic() < until:
            with contextlib.suppress(OSError):
                if address := (self.folder / "ray_current_cluster").read_text().strip():
                    return address
            if not self.runs:
                break
            sleep(0.02)
        said = (self.folder / "out").read_text(errors="replace").strip()
        raise LocalRayError(f"Ray did not start: {said[-_LAST_WORDS:] or 'it said nothing'}")

    @property
    def runs(self) -> bool:
        """False once it has ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it and remove what it kept. Idempotent; from any thread."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        # Some of its helpers outlive a Ray that died before its time.
        for pid in processes.session(os.getsid(0)):
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._folders is not None:
            remove_tree(self.folder)
            self._folders.close()
            self._folders = None
