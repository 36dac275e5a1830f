"""Questions to the kernel about processes, and the few flags that tie them together. Linux only.

Reads /proc directly, because it is asked ten times a second for every busy child. Where the kernel does not list
the children of a thread, the parents of all processes are looked at instead. Imports nothing of the house.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CHILDREN_LISTED = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def signal_when_parent_dies(number: int) -> None:
    """Have the kernel send this process ``number`` when the thread that made it ends. Not inherited by fork."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Descendants whose own parent has died become children of this process, daemons included."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """What ps and top show; 15 bytes of it."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``, dead ones that nobody has waited for included."""
    if not _CHILDREN_LISTED:
        return _children_by_parent(pid)
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        found.extend(map(int, _read(f"/proc/{pid}/task/{task}/children").split()))
    return found


def _children_by_parent(pid: int) -> list[int]:
    return [
        child
        for child in map(int, filter(str.isdigit, os.listdir("/proc")))
        if (fields := _stat_fields(child)) and int(fields[1]) == pid
    ]


def _stat_fields(pid: int) -> list[bytes]:
    """/proc/PID/stat behind the name, which may hold anything: state, parent and so on; empty when it is gone."""
    stat = _read(f"/proc/{pid}/stat")
    return stat[stat.rindex(b")") + 2 :].split() if stat else []


def started_at(pid: int) -> int | None:
    """When a process began, in ticks since the boot: with its number it names it once and for all. None: it is dead."""
    fields = _stat_fields(pid)
    return None if not fields or fields[0] in (b"Z", b"X") else int(fields[19])


def host_id() -> str:
    """Equal in two processes if paths and process numbers mean the same in both: one boot, the same namespaces."""
    parts = [_read("/proc/sys/kernel/random/boot_id").decode().strip()]
    return " ".join(parts + [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid")])


def session(leader: int) -> list[int]:
    """The processes of the session that ``leader`` leads or led, itself among them."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        fields = _stat_fields(pid)
        if fields and fields[0] not in (b"Z", b"X") and int(fields[3]) == leader:
            found.append(pid)
    return found


class Seen(NamedTuple):
    """One look at a process; nothing but zeros once it has ended and was waited for."""

    rss_bytes: int
    threads: int
    has_children: bool


class Footprint:
    """A process that is looked at again and again: what /proc says of it stays open, as to open it costs more than to
    read it. Another process that gets the number later is never taken for it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stat = _open(f"/proc/{pid}/stat")
        self._limits = _open(f"/proc/{pid}/limits")
        self._children = _open(f"/proc/{pid}/task/{pid}/children") if _CHILDREN_LISTED else -1

    def look(self) -> Seen:
        """What it takes up now."""
        stat = _again(self._stat)
        if not stat:
            return Seen(0, 0, False)
        # From the third field on: the 20th counts threads, the 24th resident pages.
        fields = stat[stat.rindex(b")") + 2 :].split(maxsplit=22)
        threads, rss = int(fields[17]), int(fields[21]) * _PAGE_BYTES
        if _CHILDREN_LISTED and threads == 1:
            return Seen(rss, threads, bool(_again(self._children)))
        return Seen(rss, threads, bool(children(self._pid)))

    def limits(self) -> bytes:
        """Its limits as /proc/PID/limits tells them; empty when it is gone."""
        return _again(self._limits)

    def close(self) -> None:
        """Let go of it. Idempotent."""
        for fd in (self._stat, self._limits, self._children):
            if fd >= 0:
                os.close(fd)
        self._stat = self._limits = self._children = -1


def _open(path: str) -> int:
    """A file of /proc, or -1 when the process is gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _again(fd: int) -> bytes:
    try:
        return os.pread(fd, 4096, 0)
    except OSError:
        return b""


def _read(path: str) -> bytes:
    """A small file of /proc; empty when the process is gone."""
    fd = _open(path)
    if fd < 0:
        return b""
    try:
        return os.read(fd, 65_536)
    except OSError:
        return b""
    finally:
        os.close(fd)


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    found: list[int] = []
    seen = {pid}
    todo = [pid]
    while todo:
        fresh = [child for child in children(todo.pop()) if child not in seen]
        seen.update(fresh)
        found.extend(fresh)
        todo.extend(fresh)
    return found


def rss_bytes(pid: int) -> int:
    """Resident memory of one process; 0 when it is gone."""
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE_BYTES if fields else 0


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and all below it. Pages they share count for each."""
    return rss_bytes(pid) + sum(map(rss_bytes, descendants(pid)))


def signal_group(pid: int, number: int) -> None:
    """Send a signal to the process group that ``pid`` leads; to ``pid`` alone while it leads none yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
    except PermissionError:
        # Everything left in the group has changed its user; there is nothing more that may be done.
        return


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
