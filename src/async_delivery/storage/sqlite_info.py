"""What ``store info`` says of an SQLite file. Its counts go over whole indexes: not for a health check."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from async_delivery.storage.contract import StoreInfo
from async_delivery.storage.counts import counts
from async_delivery.storage.reading import SqlReader
from async_delivery.storage.sqlite_files import size_of

SQLITE_VERSION = sqlite3.sqlite_version
DURABILITY = "a write is acknowledged after it is synced to disk (WAL, synchronous=FULL)"
_LOCAL_MEMORY = frozenset({"tmpfs", "ramfs"})
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "lustre"})


def describe(reader: SqlReader, path: Path, revision: str) -> StoreInfo:
    """The facts of the store behind ``reader``."""
    return StoreInfo(
        dialect="sqlite",
        database=str(path),
        schema_revision=revision,
        durability=DURABILITY,
        size_bytes=sum(size_of(path.with_name(path.name + suffix)) for suffix in ("", "-wal")),
        counts=counts(reader),
        warnings=tuple(_warnings(path)),
    )


def _warnings(path: Path) -> list[str]:
    kind = _file_system(path)
    found = []
    if kind in _LOCAL_MEMORY:
        found.append(f"the store lies on {kind}: a restart of the machine loses all of it")
    if kind in _NETWORK:
        found.append(f"the store lies on {kind}: SQLite's locks and syncs cannot be relied on there")
    if sqlite3.sqlite_version_info < (3, 51, 3):
        found.append(
            f"SQLite {sqlite3.sqlite_version} may corrupt a database with two writers at once (WAL reset); change"
            " this file only with programs that take its lock file, not with the sqlite3 shell beside a server"
        )
    return found


def _file_system(path: Path) -> str | None:
    """The type of the file system that ``path`` lies on, where Linux tells."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", None
    target = str(path.resolve())
    for line in mounts:
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind
