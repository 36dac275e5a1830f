"""Questions to the kernel about processes, and the few flags that tie them together. Linux only.

Reads /proc directly, because it is asked ten times a second for every busy child. Where the kernel does not list
the children of a thread, the parents of all processes are looked at instead. Imports nothing of the house.
"""

from __future__ import annotations

import ctypes
import os
import signal

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


class Footprint:
    """A process that is looked at again and again: what /proc says of it stays open, as to open it costs more than to
    read it. Another process that gets the number later is never taken for it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._files = [_open(f"/proc/{pid}/stat")]
        if _CHILDREN_LISTED:
            self._files.append(_open(f"/proc/{pid}/task/{pid}/children"))

    def look(self) -> tuple[int, bool]:
        """Resident bytes now, and whether it has children; nothing once it has ended and was waited for."""
        stat = _again(self._files[0])
        if not stat:
            return 0, False
        fields = stat[stat.rindex(b")") + 2 :].split()
        # The 18th field counts threads, the 22nd resident pages.
        rss = int(fields[21]) * _PAGE_BYTES
        if _CHILDREN_LISTED and fields[17] == b"1":
            return rss, bool(_again(self._files[1]))
        return rss, bool(children(self._pid))

    def close(self) -> None:
        """Let go of it. Idempotent."""
        files, self._files = self._files, [-1, -1]
        for fd in files:
            if fd >= 0:
                os.close(fd)


def _open(path: str) -> int:
    """A file of /proc, or -1 when the process is gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _again(fd: int) -> bytes:
    try:
        return os.pread(fd, 65_536, 0)
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
