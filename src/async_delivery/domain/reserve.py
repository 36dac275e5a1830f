"""The reserve: room on the disk that is kept for what must go on when the disk is full.

To delete rows needs room as well, so a store that has filled its disk could not be cleaned up. The reserve is let go
slice by slice, each when something could not be written for want of room: whatever fills the disk would take more than
that at once. So jobs that were accepted are finished and cleanups run; new jobs wait outside until there is room again.
"""

from __future__ import annotations

from dataclasses import dataclass

_PAGE_BYTES = 4096
_MEBIBYTE = 1 << 20
# Of a small disk at most this share.
_SHARE = 16
# Small, so that little is lost to others; not so small that a large result has to be tried a hundred times.
_SLICES, _SMALLEST_SLICE_BYTES = 32, 64 * 1024
# For the folders of jobs: of this, no room in the database takes the place.
_FOLDERS_BYTES = 16 * _PAGE_BYTES
# Twice the largest result: what one transaction may need in the log, and again in the database.
_TIGHT_BYTES = 32 * _MEBIBYTE


@dataclass(frozen=True, slots=True)
class Reserve:
    """How it stands with the reserve of a store.

    wanted_bytes   how much is to be kept, by the settings and the size of the disk; 0 if none is
    held_bytes     how much is
    """

    wanted_bytes: int
    held_bytes: int

    @property
    def is_whole(self) -> bool:
        """True if all that is wanted is kept."""
        return self.held_bytes >= self.wanted_bytes

    @property
    def needed_bytes(self) -> int:
        """How much must be free, besides what is held, for new jobs to be taken."""
        low = low_bytes(self.wanted_bytes)
        return low if self.is_whole else self.wanted_bytes - self.held_bytes + 2 * low


def wanted_bytes(asked_bytes: int, disk_bytes: int) -> int:
    """What is kept of a disk of ``disk_bytes`` when ``asked_bytes`` are asked for, in whole pages."""
    return min(asked_bytes, disk_bytes // _SHARE) // _PAGE_BYTES * _PAGE_BYTES


def low_bytes(reserve_bytes: int) -> int:
    """With less than this free, no job is taken beside a reserve of ``reserve_bytes``."""
    return reserve_bytes // 4


def slice_bytes(reserve: Reserve) -> int:
    """How much of it is let go at once; 0 when nothing is left."""
    wanted = max(reserve.wanted_bytes // _SLICES, _SMALLEST_SLICE_BYTES) // _PAGE_BYTES * _PAGE_BYTES
    return min(wanted, reserve.held_bytes)


def is_tight(free_bytes: int) -> bool:
    """True if the disk is so nearly full that room in files already there should be used first."""
    return free_bytes < _TIGHT_BYTES


def may_restore(reserve: Reserve, free_bytes: int) -> bool:
    """True if the reserve can be taken off the disk again without being needed at once."""
    return not reserve.is_whole and free_bytes >= reserve.needed_bytes


def may_enter(reserve: Reserve, free_bytes: int, unused_bytes: int) -> bool:
    """True if there is room for a new job.

    unused_bytes   inside the database, left by what was deleted: jobs may have them, the disk cannot
    """
    on_disk = free_bytes + reserve.held_bytes
    return (
        on_disk >= min(_FOLDERS_BYTES, reserve.wanted_bytes)
        and free_bytes + unused_bytes >= reserve.needed_bytes
    )


def lends(reserve: Reserve, free_bytes: int) -> bool:
    """True if a job that may enter needs a slice of the reserve: its room is in the database, and the disk has none
    for its folder and for the log."""
    return free_bytes < low_bytes(reserve.wanted_bytes)
