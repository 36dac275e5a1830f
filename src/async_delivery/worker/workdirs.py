"""One private folder per attempt below ``work_root``, and the removal of what dead workers left there.

Each worker has a folder named by its id and holds a lock on a file beside it; a folder whose lock is free belongs
to nobody any more. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LOCK = ".lock"


class Workdirs:
    """The folders of one worker."""

    def __init__(self, work_root: Path, worker_id: str) -> None:
        """Raises OSError if ``work_root`` cannot be made or written."""
        self._root = work_root.absolute()
        self._root.mkdir(parents=True, exist_ok=True)
        self._home = self._root / worker_id
        self._lock = _hold(self._root / f"{worker_id}{_LOCK}")
        self._home.mkdir(mode=0o700)

    def remove_orphans(self) -> int:
        """Delete the folders of workers that are gone; how many there were."""
        count = 0
        for lock in self._root.glob(f"*{_LOCK}"):
            if lock.name == f"{self._home.name}{_LOCK}":
                continue
            fd = _hold(lock, wait=False)
            if fd is None:
                continue
            remove_tree(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
            os.close(fd)
            count += 1
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

    def close(self) -> None:
        """Remove all of it. Idempotent."""
        if self._lock is None:
            return
        remove_tree(self._home)
        (self._root / f"{self._home.name}{_LOCK}").unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None


def remove_tree(path: Path) -> bool:
    """Delete a folder whatever is in it, also where it forbids to; True if nothing of it is left."""
    try:
        path.rmdir()  # nearly always empty, and this is the hot path
        return True
    except OSError:
        pass

    def insist(function: Callable[..., Any], name: str, _: Any) -> None:
        parent = os.path.dirname(name)
        try:
            for folder in (parent, name):
                if not os.path.islink(folder):
                    os.chmod(folder, stat.S_IRWXU)
            if function is not os.rmdir and os.path.isdir(name) and not os.path.islink(name):
                shutil.rmtree(name, ignore_errors=True)
            else:
                function(name)
        except OSError:
            return

    # Twice: opening up a folder on the first pass lets the second one empty it.
    for _ in range(2):
        if not path.exists():
            return True
        shutil.rmtree(path, onerror=insist)
    return not path.exists()


def _hold(path: Path, *, wait: bool = True) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
