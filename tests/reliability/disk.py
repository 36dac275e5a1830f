"""A small disk of its own for a store, and what fills it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MIB = 1 << 20


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[str]:
    """A file system of ``size_bytes`` at ``folder``, ext4 where that can be had; its kind. Skips without the right."""
    folder.mkdir(parents=True)
    image = folder.with_name(folder.name + ".img")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    made = _run("mkfs.ext4", "-q", "-m", "0", str(image))
    if made and _run("mount", "-o", "loop", str(image), str(folder)):
        kind = "ext4"
        (folder / "lost+found").rmdir()
    elif _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)):
        kind = "tmpfs"
    else:
        pytest.skip("a full disk needs the right to mount a small file system")
    try:
        yield kind
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        image.unlink()


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path) -> Path:
    """Take all the room there is, with one file; more of it when called again."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler
