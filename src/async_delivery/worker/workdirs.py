"""Private folders for attempts below ``work_root``, and the removal of what dead workers left there.

A folder that an attempt has not touched serves the next one: on a disk, to make one and to remove it again costs as
much as half of what a slot does for an attempt. Each worker has a folder named by its id and holds a lock on a file
beside it; a folder whose lock is free belongs to nobody any more. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic

_LOCK = ".lock"
# The times that a file system keeps are no finer than its clock's ticks; FAT has the coarsest.
_COARSE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Workdir:
    """A folder as it was when it was made.

    made      what the kernel said of it: which one it is, who may enter, and when anything of it was changed last
    made_at   by the monotonic clock
    """

    path: Path
    made: tuple[int, ...]
    made_at: float

    def untouched(self, since: float) -> bool:
        """True if it is still the same folder, and nothing was done in it or to it by what began ``since`` (monotonic).

        It was as it was made then.
        """
        try:
            if _signature(self.path) != self.made:
                return False
            # A change so soon after the making may bear the same time.
            return since > self.made_at + _COARSE_SECONDS or not os.listdir(self.path)
        except OSError:
            return False

    def remove(self) -> bool:
        """Delete it with all that is in it; True if nothing of it is left."""
        return remove_tree(self.path)


def _signature(path: Path) -> tuple[int, ...]:
    found = os.lstat(path)
    return (found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_mtime_ns, found.st_ctime_ns)


class Workdirs:
    """The folders of one worker."""

    def __init__(self, work_root: Path, worker_id: str) -> None:
        """Raises OSError if ``work_root`` cannot be made or written."""
        self.root = work_root.absolute()
        self.root.mkdir(parents=True, exist_ok=True)
        self._home = self.root / worker_id
        self._lock: int | None = _hold_new(self.root / f"{worker_id}{_LOCK}")
        self._home.mkdir(mode=0o700)
        # No name says whose attempt the folder was made for: an attempt of somebody else may be the next in it.
        self._numbers = count(1)

    def remove_orphans(self) -> int:
        """Delete the folders of workers that are gone; how many there were."""
        count = 0
        for lock in self.root.glob(f"*{_LOCK}"):
            if lock.name == f"{self._home.name}{_LOCK}":
                continue
            fd = _hold_orphan(lock)
            if fd is None:
                continue
            if remove_tree(lock.with_suffix("")):
                lock.unlink(missing_ok=True)
                count += 1
            os.close(fd)
        return count

    def make(self, name: str) -> Path:
        """An empty folder that only this user can enter."""
        path = self._home / name
        try:
            path.mkdir(mode=0o700)
        except FileNotFoundError:
            # Somebody swept the temporary folder; an attempt need not fail for that.
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        return path

    def new(self) -> Workdir:
        """An empty folder under a name that no other has had."""
        path = self.make(str(next(self._numbers)))
        return Workdir(path, _signature(path), monotonic())

    def beside(self, name: str) -> Path:
        """Where a file may lie that belongs to an attempt, but not into its folder."""
        return self._home / name

    def close(self) -> None:
        """Remove all of it. Idempotent."""
        if self._lock is None:
            return
        remove_tree(self._home)
        (self.root / f"{self._home.name}{_LOCK}").unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None


def remove_tree(path: Path) -> bool:
    """Delete a folder whatever is in it, also where it forbids to; True if nothing of it is left."""
    try:
        path.rmdir()  # nearly always empty, and this is the hot path
        return True
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        # A file in its place, or a link, which must not lead the walk elsewhere.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return not os.path.lexists(path)
    except OSError:
        pass
    with suppress(OSError):
        path.chmod(stat.S_IRWXU)
    # Each folder is opened up before the walk enters it; links are not followed.
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                with suppress(OSError):
                    os.chmod(inner, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)
    return not os.path.lexists(path)


def _hold_new(path: Path) -> int:
    """Make a lock file and hold it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.fstat(fd).st_ino == path.stat().st_ino:
                return fd
        except FileNotFoundError:
            pass
        # Another worker took it for an orphan's before it was locked, and removed it.
        os.close(fd)


def _hold_orphan(path: Path) -> int | None:
    """Hold a lock file that nobody holds; None if somebody does, or it is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
