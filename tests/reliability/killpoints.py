"""Kills a process at the k-th call of one kind to the kernel, for every kind and every k, with strace.

The calls are counted by one run under strace, then each is a kill point: SIGKILL on entry, so that the call itself
does not happen. strace counts each kind of call in each thread by itself, which is why a path does its work on one
thread (the store's writer, or the only one).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.reliability.killpoints_documents import DOCUMENT_PATHS
from tests.reliability.killpoints_keyed import KEYED_PATHS
from tests.reliability.killpoints_paths import PATHS as STORE_PATHS
from tests.reliability.killpoints_paths import CommitPath

ROOT = Path(__file__).resolve().parents[2]
PATHS = {**STORE_PATHS, **KEYED_PATHS, **DOCUMENT_PATHS}
# Every call by which a file or a folder changes, or is made durable.
CHANGES = (
    "pwrite64",
    "write",
    "pwritev",
    "writev",
    "fdatasync",
    "fsync",
    "sync_file_range",
    "ftruncate",
    "fallocate",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
)
COMMITS = ("pwrite64", "fdatasync")
_CALL = re.compile(r"^(?P<thread>\d+)\s+(?P<name>\w+)\(")


@dataclass(frozen=True, slots=True)
class Point:
    """The ``number``-th ``call`` of ``path``."""

    path: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.path} at {self.call} {self.number}"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error or a signal that strace puts in the way of a call: ``signal=SIGKILL``, ``error=EIO``."""

    what: str
    call: str
    when: str

    @property
    def option(self) -> str:
        return f"inject={self.call}:{self.what}:when={self.when}"


@cache
def why_not() -> str | None:
    """Why no process can be traced here; None if it can."""
    if shutil.which("strace") is None:
        return "kill points need strace"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return f"strace may not trace here: {tried.stderr.decode()[:200]}" if tried.returncode else None


class Zygote:
    """See ``killpoints_zygote``. One run at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.killpoints_zygote"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, path: str, folder: Path, strace: Sequence[str] = ()) -> int:
        """One child in ``folder``, under strace with these options if any; its status as wait gives it."""
        os.mkfifo(folder / "go")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path} {folder}\n")
        self._process.stdin.flush()
        said = self._answer()
        if said.startswith("ended"):
            raise AssertionError(f"{path} did not even get ready: {said}")
        tracer = _attached(int(said), strace) if strace else None
        try:
            with (folder / "go").open("w"):
                pass
            said = self._answer()
        finally:
            if tracer is not None:
                tracer.wait(60)
                assert tracer.stderr is not None
                tracer.stderr.close()
        (folder / "go").unlink()
        return int(said.split()[2])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said, "the zygote ended"
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=60)


def _attached(pid: int, options: Sequence[str]) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    assert "attached" in line, line
    return tracer


@contextmanager
def zygote() -> Iterator[Zygote]:
    """A zygote that ends with the block."""
    made = Zygote()
    try:
        yield made
    finally:
        made.close()


class Sweep:
    """All kill points of some paths. ``folder`` is for templates and copies."""

    def __init__(self, runs: Zygote, folder: Path) -> None:
        self._runs, self._folder = runs, folder
        self.points = 0

    def wrong(self, names: Iterable[str], calls: Sequence[str] = CHANGES) -> list[str]:
        """What is wrong after a kill at each point; nothing, one hopes."""
        found: list[str] = []
        for name in names:
            path = PATHS[name]
            self._template(path)
            for point in self._count(path, calls, found):
                found += [f"{point}: {fault}" for fault in self._kill(path, point)]
                self.points += 1
        return found

    def wrong_after(self, name: str, error: str, calls: Sequence[str], every: int = 1) -> list[str]:
        """What is wrong after ``error``, such as EIO, at each ``every``-th point; the process lives on."""
        path = PATHS[name]
        if not (self._folder / path.name).exists():
            self._template(path)
        found: list[str] = []
        for point in self._count(path, calls, found)[::every]:
            copy = self.copy(path, f"{error}-{point.call}-{point.number}")
            fault = Fault(f"error={error}", point.call, str(point.number))
            trace = copy.with_name(copy.name + ".trace")
            options = ["-y", "-o", str(trace), "-e", f"trace={point.call},close", "-e", fault.option]
            status = self._runs.run(path.name, copy, options)
            wrong = path.judge(copy, acks_of(copy)) if status == 0 else [f"ended with {status}"]
            wrong += synced_again(trace.read_text(errors="replace"))
            found += [f"{error}, {point}: {fault}" for fault in wrong]
            self.points += 1
            if not wrong:
                shutil.rmtree(copy)
        return found

    def _template(self, path: CommitPath) -> None:
        folder = self._folder / path.name / "template"
        folder.mkdir(parents=True)
        path.prepare(folder)

    def copy(self, path: CommitPath, name: str) -> Path:
        """A fresh copy of the template of ``path``."""
        copy = self._folder / path.name / name
        shutil.copytree(self._folder / path.name / "template", copy)
        return copy

    def _count(self, path: CommitPath, calls: Sequence[str], found: list[str]) -> list[Point]:
        """Its points, by a run that is not harmed; what is wrong even then goes to ``found``."""
        copy = self.copy(path, "counted")
        trace = self._folder / path.name / "trace"
        status = self._runs.run(path.name, copy, ["-o", str(trace), "-e", f"trace={','.join(calls)}"])
        assert status == 0, f"{path.name} ended with {status}, unharmed as it was"
        found += [f"{path.name}, unharmed: {fault}" for fault in path.judge(copy, acks_of(copy))]
        shutil.rmtree(copy)
        lines = trace.read_text(errors="replace").splitlines()
        made = [(call["name"], call["thread"]) for line in lines if (call := _CALL.match(line))]
        threads = Counter(name for name, _ in set(made))
        assert max(threads.values()) <= path.threads, f"{path.name}: too many threads: {set(made)}"
        by_thread = Counter(made)
        numbers = {name: max(by_thread[one] for one in by_thread if one[0] == name) for name in threads}
        return [Point(path.name, call, n + 1) for call in calls for n in range(numbers.get(call, 0))]

    def _kill(self, path: CommitPath, point: Point) -> list[str]:
        copy = self.copy(path, f"{point.call}-{point.number}")
        fault = Fault("signal=SIGKILL", point.call, str(point.number))
        options = ["-o", "/dev/null", "-e", f"trace={point.call}", "-e", fault.option]
        status = self._runs.run(path.name, copy, options)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            return [f"was not killed but ended with {status}"]
        wrong = path.judge(copy, acks_of(copy))
        if not wrong:
            shutil.rmtree(copy)
        return wrong


_SYNC = re.compile(r"\b(?:fdatasync|fsync)\(\d+<([^>]*)>\) += (-1)?")
_CLOSE = re.compile(r"\bclose\(\d+<([^>]*)>\)")


def synced_again(trace: str) -> list[str]:
    """Files that were synced after a sync of them had failed, without having been closed: the kernel has forgotten
    by then what it could not write, and says that all is well."""
    failed: set[str] = set()
    wrong = []
    for line in trace.splitlines():
        if found := _CLOSE.search(line):
            failed.discard(found[1])
        elif found := _SYNC.search(line):
            if found[2]:
                failed.add(found[1])
            elif found[1] in failed:
                wrong.append(f"{found[1]} was synced again after its sync had failed")
    return wrong


def acks_of(folder: Path) -> list[str]:
    """What the process had acknowledged. A line that was cut off by the kill was not heard by anybody."""
    path = folder / "acks"
    return path.read_text().split("\n")[:-1] if path.exists() else []
