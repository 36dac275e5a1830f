"""What runs inside a Ray task: one attempt in a child of its own, and all it says on its way to the worker.

The analysis does not run in Ray's own worker process. That one keeps a forkserver and has it fork a child, as a
worker does (``forkserver``, ``child``), so limits, captured output, exit codes and what is cleared away afterwards
are the same everywhere; limits of the kernel are set in the child and never here, where they outlast the task and
have hung whole nodes. The task is a generator of byte strings, each with its kind in front: Ray hands them on in
order, as they come. Imports Ray in functions only, and nothing of the store: it runs on any node of a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from async_delivery.worker import processes
from async_delivery.worker.context import FLAG
from async_delivery.worker.forkserver import Child, ForkServer, scrubbed
from async_delivery.worker.frames import Tag, join, pack, split
from async_delivery.worker.workdirs import Workdirs, remove_tree

# Kinds of what the task yields.
HELLO, FRAMES, OUTPUT, EXIT = b"H", b"F", b"O", b"E"
# What may be written into the attempt's control pipe.
STOP, TERMINATE = b"s", b"t"

# Ray sends values below 100 KiB along with its own messages; larger ones take the way through its object store.
_CHUNK_BYTES = 64 * 1024
# Words that come faster are sent together.
_PAUSE_SECONDS = 0.02
_POLL_SECONDS = 0.1
_SEND_SECONDS = 10.0
_DEATH_SECONDS = 5.0
_REAP_SECONDS = 5.0
_HANGUP_SECONDS = 1.0
# Ray tells a task by these which of the node's devices are its own.
_DEVICES = (
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("ONEAPI_DEVICE_SELECTOR", "ASCEND_RT_VISIBLE_DEVICES", "HABANA_VISIBLE_MODULES"),
    *("NEURON_RT_VISIBLE_CORES", "TPU_VISIBLE_CHIPS", "OMP_NUM_THREADS"),
)
# An analysis that uses Ray itself finds the cluster by these; the token is the operator's to give, by keep_env.
_NESTED = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED")

Pids = Sequence[tuple[int, int]]


def task(order: Mapping[str, Any], payload: bytes, parts: Sequence[Any]) -> Iterator[bytes]:
    """The Ray task. ``parts``: references to the pieces of the uploaded file, for a node that does not see it."""
    import ray

    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    node = ray.get_runtime_context().get_node_id()
    yield from attempt(order, payload, parts, ray.get, node)


def attempt(
    order: Mapping[str, Any], payload: bytes, parts: Sequence[Any], fetch: Callable[[Any], bytes], node: str
) -> Iterator[bytes]:
    """Run one attempt; yields HELLO, then FRAMES and OUTPUT as they come, last EXIT.

    order     name, refs, memory_bytes, nice, keep_env, path, root, host, overdue_seconds, kill_seconds
    payload   of the JOB frame, made for the worker's machine
    Raises ForkError, OSError.
    """
    head, params = split(payload)
    job = json.loads(head)
    with contextlib.ExitStack() as stack:
        home = _home(order["root"])
        name = f"{job['job_id']}-{job['attempt']}"
        if order["host"] != processes.host_id():
            _settle_in(home, name, job, parts, fetch, stack)
        control = home.make(f"{name}.control") / "pipe"
        stack.callback(remove_tree, control.parent)
        os.mkfifo(control, 0o600)
        # For reading and writing, so that it does not end when a writer leaves.
        listening = os.open(control, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, listening)
        server = _server_for(order)
        child = server.fork(
            {"task": "serve", **{key: order[key] for key in ("name", "memory_bytes", "nice")}}
        )
        stack.callback(child.end, _DEATH_SECONDS)
        pids = [pid for pid in (os.getpid(), server.pid, child.pid) if pid]
        yield (
            HELLO
            + json.dumps(
                {
                    "node": node,
                    "host": processes.host_id(),
                    "control": str(control),
                    "root": str(home.root),
                    "raylet": (os.getppid(), processes.started_at(os.getppid())),
                    "pids": [(pid, processes.started_at(pid)) for pid in pids],
                }
            ).encode()
        )
        pump = _Pump(child, listening, FLAG.pack(job["run"]), order)
        pump.send(pack(Tag.JOB, join(job, params)))
        yield from pump.items()


def poke(control: str, what: bytes) -> bool:
    """Write into the control pipe of an attempt on this node; False if it is over."""
    try:
        fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with contextlib.suppress(BlockingIOError):
        os.write(fd, what)
    os.close(fd)
    return True


def reap(pids: Pids, root: str) -> bool:
    """Wait until these processes of this node are gone, kill those that stay, remove what they left.

    False if one would not die.
    """
    asked_at = monotonic()
    killed = False
    while left := [pid for pid, began in pids if processes.started_at(pid) == began]:
        waited = monotonic() - asked_at
        if waited > _REAP_SECONDS:
            return False
        if waited > _REAP_SECONDS / 2 and not killed:
            killed = True
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        sleep(0.005)
    sweep(root)
    return True


def sweep(root: str) -> None:
    """Remove the folders that dead tasks of this node left."""
    sweeper = Workdirs(Path(root), f"sweep-{os.getpid()}-{monotonic()}")
    sweeper.remove_orphans()
    sweeper.close()


def private(root: Path) -> Path:
    """``root``, made where there is none, and surely this user's alone. Raises OSError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to somebody else")
    root.chmod(0o700)
    return root


# One Ray worker process runs many tasks, one after the other: what they share is kept from one to the next.
_kept_home: Workdirs | None = None
_kept_server: tuple[Any, ForkServer] | None = None


def _home(root: str | None) -> Workdirs:
    global _kept_home  # noqa: PLW0603
    path = private(Path(root or Path(tempfile.gettempdir()) / f"async-delivery-ray-{os.getuid()}"))
    if _kept_home is None or _kept_home.root != path.absolute():
        _kept_home = Workdirs(path, f"{os.getpid()}-{processes.started_at(os.getpid())}")
        _kept_home.remove_orphans()
    return _kept_home


def _server_for(order: Mapping[str, Any]) -> ForkServer:
    """The forkserver of this process, made anew for other analyses or devices. Raises ForkError."""
    global _kept_server  # noqa: PLW0603
    keep = (*_DEVICES, *_NESTED, *order["keep_env"])
    wanted = (order["refs"], scrubbed(os.environ, keep))
    if _kept_server is not None:
        if _kept_server[0] == wanted:
            return _kept_server[1]
        _kept_server[1].close()
        _kept_server = None
    sys.path.extend(path for path in order["path"] if path not in sys.path and os.path.exists(path))
    server = ForkServer(order["refs"], keep)
    server.start()
    _kept_server = (wanted, server)
    return server


def _settle_in(
    home: Workdirs,
    name: str,
    job: dict[str, Any],
    parts: Sequence[Any],
    fetch: Callable[[Any], bytes],
    stack: contextlib.ExitStack,
) -> None:
    """Give the attempt a folder on this node, and its file: it does not see those of the worker's machine."""
    folder = home.make(name)
    stack.callback(remove_tree, folder)
    job["workdir"] = str(folder)
    if job["input"] is None:
        return
    path = folder.with_name(f"{name}.input")
    stack.callback(path.unlink, missing_ok=True)
    with path.open("wb") as file:
        for part in parts:
            file.write(fetch(part))
    path.chmod(0o400)
    job["input"]["path"] = str(path)


class _Pump:
    """Between one child and the stream to the worker."""

    def __init__(self, child: Child, control: int, mark: bytes, order: Mapping[str, Any]) -> None:
        self._child = child
        self._control = control
        self._mark = mark
        self._memory_bytes: int | None = order["memory_bytes"]
        self._largest = 0
        self._starved = False
        # The worker ends the attempt in time. Should it be cut off from here for good, this does.
        self._term_at = monotonic() + order["overdue_seconds"]
        self._kill_at = self._term_at + order["kill_seconds"]
        self._frames = bytearray()
        self._output = bytearray()
        self._next_at = 0.0
        self._poll = select.poll()
        for fd in (child.channel.fileno(), child.output, child.status, control):
            self._poll.register(fd, select.POLLIN)
        self._open = {child.channel.fileno(), child.output}

    def send(self, frame: bytes) -> None:
        """Hand the child its only order. That it does not take it shows in how it ends."""
        channel = self._child.channel
        with contextlib.suppress(OSError):
            channel.settimeout(_SEND_SECONDS)
            channel.sendall(frame)
            # There is no second one: after its answer the child ends by itself.
            channel.shutdown(1)
        channel.setblocking(False)

    def items(self) -> Iterator[bytes]:
        """FRAMES and OUTPUT until the child has ended, then EXIT."""
        while True:
            ended = self._child.status in self._listen()
            if self._full or monotonic() >= self._next_at:
                yield from self._flush()
            if ended:
                break
            self._watch()
        status = self._child.wait(_DEATH_SECONDS)
        # What it said before its end: nobody writes any more, so reading comes to one.
        while self._read_channel() | self._read_output():
            if self._full:
                yield from self._flush()
        yield from self._flush()
        code = status.code if status else None
        largest = max(self._largest, status.max_rss_bytes if status else 0)
        yield EXIT + json.dumps({"code": code, "rss": largest, "starved": self._starved}).encode()

    @property
    def _full(self) -> bool:
        return len(self._frames) >= _CHUNK_BYTES or len(self._output) >= _CHUNK_BYTES

    def _listen(self) -> set[int]:
        pause = _POLL_SECONDS
        if self._frames or self._output:
            pause = min(pause, max(0.0, self._next_at - monotonic()))
        ready = {fd for fd, _ in self._poll.poll(1000 * pause)}
        if self._child.channel.fileno() in ready:
            self._read_channel()
        if self._child.output in ready:
            self._read_output()
        if self._control in ready:
            self._obey()
        return ready

    def _read_channel(self) -> bool:
        try:
            data = self._child.channel.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        return self._take(self._child.channel.fileno(), self._frames, data)

    def _read_output(self) -> bool:
        try:
            data = os.read(self._child.output, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        return self._take(self._child.output, self._output, data)

    def _take(self, fd: int, into: bytearray, data: bytes) -> bool:
        into += data
        if not data and fd in self._open:
            self._open.discard(fd)
            self._poll.unregister(fd)
            if into is self._frames:
                # It can say nothing any more; one that lives on all the same would never be heard of again.
                self._term_at = self._kill_at = min(self._kill_at, monotonic() + _HANGUP_SECONDS)
        return bool(data)

    def _obey(self) -> None:
        words = os.read(self._control, 64)
        if STOP in words:
            self._child.ask_to_stop(self._mark)
        if TERMINATE in words:
            self._child.signal(signal.SIGTERM)

    def _watch(self) -> None:
        now = monotonic()
        if now >= self._term_at:
            self._child.signal(signal.SIGKILL if now >= self._kill_at else signal.SIGTERM)
            self._term_at = self._kill_at
        if self._memory_bytes is None:
            return
        self._largest = max(self._largest, processes.tree_rss_bytes(self._child.pid))
        if self._largest > self._memory_bytes and not self._starved:
            self._starved = True
            self._child.signal(signal.SIGKILL)

    def _flush(self) -> Iterator[bytes]:
        for kind, data in ((FRAMES, self._frames), (OUTPUT, self._output)):
            while data:
                yield kind + bytes(data[:_CHUNK_BYTES])
                del data[:_CHUNK_BYTES]
        self._next_at = monotonic() + _PAUSE_SECONDS
