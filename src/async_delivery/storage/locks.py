"""The lock file beside a database: who may write now, who serves, who cleans up, over all processes.

SQLite from 3.7.0 to 3.51.2 can corrupt a database when two connections write or checkpoint at the same moment
(https://sqlite.org/wal.html#walresetbug), so here a writer of any process holds the writer lock around its
transaction and the checkpoint in it. Nothing here touches the database file itself: to open and close that with
plain file calls would drop SQLite's own locks on it.

The locks are open-file-description locks on single bytes (Linux): they belong to this open file, not to the
process, and vanish with it, also by kill -9. They survive in a forked child that keeps the file open, so only
processes that exec may be started (Python opens the file close-on-exec).

A file can be removed, and a lock file made anew is free. So a server also binds a name in the kernel that is made of
the database's device and inode (an abstract socket): it stands as long as the process, whatever happens to files.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import struct
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType

from async_delivery.domain.errors import StoreBusyError, StoreFileError, UnavailableError

# Known to the fcntl module on Linux only since Python 3.9; the numbers are the kernel's.
_F_OFD_GETLK = getattr(fcntl, "F_OFD_GETLK", 36)
_F_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", 37)
# struct flock of a 64-bit Linux.
_FLOCK = "hhqqi4x"

# Bytes far behind the text of the file, one per role.
_BASE = 1 << 30
_TURNSTILE, _WRITER, _SERVER, _CLEANUP = range(_BASE, _BASE + 4)
_LOCK_TURNSTILE_AND_WRITER = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _TURNSTILE, 2, 0)
_UNLOCK_TURNSTILE = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, _TURNSTILE, 1, 0)
_UNLOCK_WRITER = struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, _WRITER, 1, 0)
_POLL_SECONDS = 0.0003
_MAX_TEXT = 4096


class LockFile:
    """One open lock file. Its locks exclude every other open of it, in this process as well."""

    def __init__(self, path: Path) -> None:
        """Open it, creating it where it is missing. Raises StoreFileError."""
        self.path = path
        self._serves = False
        try:
            # Not to be kept waiting by a pipe in its place.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(path, flags, 0o644)
        except OSError as exc:
            raise StoreFileError(
                f"{path}: cannot open the lock file of the database: {exc.strerror}"
            ) from exc
        opened = os.fstat(self._fd)
        if not stat.S_ISREG(opened.st_mode):
            os.close(self._fd)
            raise StoreFileError(f"{path}: the lock file of the database is not a file; remove what is there")
        self.identity = opened.st_dev, opened.st_ino
        self._name: socket.socket | None = None

    def close(self) -> None:
        """Let go of every lock. Idempotent."""
        if self._name is not None:
            self._name.close()
            self._name = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ------------------------------------------------------------ the right to write
    def take_writer(self, timeout_seconds: float) -> None:
        """Wait for the right to write. Raises UnavailableError after ``timeout_seconds``.

        First through the turnstile, then to the writer: one who waits for the writer keeps the turnstile, so
        the writer who is busy again and again cannot pass it a second time. Where nobody is, both at once.
        """
        if self._ask(_LOCK_TURNSTILE_AND_WRITER):
            self._ask(_UNLOCK_TURNSTILE)
            return
        deadline = monotonic() + timeout_seconds
        self._wait(_TURNSTILE, deadline)
        try:
            self._wait(_WRITER, deadline)
        finally:
            self._set(_TURNSTILE, fcntl.F_UNLCK)

    def release_writer(self) -> None:
        """Give up the right to write; nothing happens if it is not held."""
        self._ask(_UNLOCK_WRITER)

    def _wait(self, byte: int, deadline: float) -> None:
        # Polled, not F_OFD_SETLKW: that one could neither time out nor be ended by close.
        while not self._set(byte, fcntl.F_WRLCK):
            if monotonic() >= deadline:
                raise UnavailableError("another process has held the right to write for too long")
            sleep(_POLL_SECONDS)

    # ------------------------------------------------------------ one server, one cleanup
    def take_server(self, database: Path) -> None:
        """Become the one process that serves ``database``. Raises StoreBusyError naming the one that does."""
        if not self._set(_SERVER, fcntl.F_WRLCK):
            raise StoreBusyError(
                f"{self.path}: the store is served already by {self._holder()}; stop that server first, or serve"
                " another store with --store-file"
            )
        self._name = _bind_name(database, self.path)
        self._serves = True
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def is_served(self) -> bool:
        """True while some process serves, this one included. Only asks: to try would keep a server from starting."""
        if self._serves:
            return True
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _SERVER, 1, 0)
        try:
            answer = fcntl.fcntl(self._fd, _F_OFD_GETLK, asked)
        except OSError:
            return False
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

    def _holder(self) -> str:
        try:
            said = json.loads(os.pread(self._fd, _MAX_TEXT, 0))
            return f"process {int(said['pid'])} on {str(said['host'])[:255]}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def take_cleanup(self) -> bool:
        """Take the one place for a cleanup; False if another has it."""
        return self._set(_CLEANUP, fcntl.F_WRLCK)

    def _set(self, byte: int, kind: int) -> bool:
        return self._ask(struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))

    def _ask(self, flock: bytes) -> bool:
        try:
            fcntl.fcntl(self._fd, _F_OFD_SETLK, flock)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as exc:
            raise StoreFileError(
                f"{self.path}: this file system cannot lock ({exc.strerror}); keep the store on a local disk"
            ) from exc
        return True


_PEER = struct.Struct("3i")


def _bind_name(database: Path, lock: Path) -> socket.socket:
    """Bind the server's name for the file ``database``. Raises StoreBusyError naming the process that has it."""
    found = database.stat()
    name = f"\0async-delivery-server-{found.st_dev:x}-{found.st_ino:x}"
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(name)
        # Nobody is ever accepted: who connects only learns from the kernel which process listens.
        bound.listen()
    except OSError as exc:
        bound.close()
        if exc.errno != errno.EADDRINUSE:
            raise StoreFileError(f"{database}: cannot register as its server: {exc.strerror}") from exc
        raise StoreBusyError(
            f"{database}: served already by {_listener(name)}, although its lock file {lock} was removed or replaced;"
            " stop that server first"
        ) from exc
    return bound


def _listener(name: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
            peer = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            return "another process"
    return f"process {_PEER.unpack(peer)[0]} on this machine"


class CleanupLock:
    """Holds the one place for a cleanup over all processes. Each has its own open file, so two in one process
    exclude each other as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: LockFile | None = None

    def __enter__(self) -> CleanupLock:
        file = LockFile(self._path)
        if not file.take_cleanup():
            file.close()
            raise StoreBusyError("another cleanup of this store is running; wait for it to end")
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
