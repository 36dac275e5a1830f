"""What the figures were measured on, and when: a figure without it says nothing."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.load import find_wrk

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "sqlalchemy")


def describe(scratch: Path) -> dict[str, str]:
    """Facts by name, all of them text."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "file system": _file_system(scratch),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    facts |= {name: version(name) for name in _PACKAGES}
    wrk = find_wrk()
    facts["wrk"] = _wrk_version(wrk) if wrk else "not installed; the load came from Python"
    return facts


class Neighbours:
    """How much of the machine's cores other processes used since this was made: noise that no median takes away."""

    def __init__(self) -> None:
        self._busy, self._own = _busy_seconds(), _own_seconds()
        self._began = time.perf_counter()

    def percent(self) -> float:
        """Of all cores together. What this process started counts as its own once it has ended."""
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        cores = psutil.cpu_count() or 1
        return max(0.0, others / (time.perf_counter() - self._began) / cores * 100)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _own_seconds() -> float:
    return sum(os.times()[:4])


def _processor() -> str:
    try:
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _file_system(path: Path) -> str:
    """Type of the file system that ``path`` is on."""
    mounts = [mount for mount in psutil.disk_partitions(all=True) if path.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],  # noqa: S607 - the git of whoever runs the benchmark
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _wrk_version(wrk: str) -> str:
    # It prints its version and its usage, and exits with 1.
    told = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"wrk\s+(?:debian/)?(\S+)", told.stdout + told.stderr)
    return found[1] if found else "unknown"
