"""The reserve: room on the disk that is kept for what must go on when the disk is full.

To delete rows needs room as well, so a store that has filled its disk could not be cleaned up. While the reserve is
out, jobs that were accepted are finished and cleanups run; new jobs wait outside until there is room again.
"""

from __future__ import annotations

from dataclasses import dataclass

_PAGE_BYTES = 4096
# Of a small disk at most this share.
_SHARE = 16


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
        """How much must be free for new jobs to be taken again while it is out."""
        return self.wanted_bytes + 2 * low_bytes(self.wanted_bytes)


def wanted_bytes(asked_bytes: int, disk_bytes: int) -> int:
    """What is kept of a disk of ``disk_bytes`` when ``asked_bytes`` are asked for, in whole pages."""
    return min(asked_bytes, disk_bytes // _SHARE) // _PAGE_BYTES * _PAGE_BYTES


def low_bytes(reserve_bytes: int) -> int:
    """With less than this free, a reserve of ``reserve_bytes`` is let go before the next transaction needs it."""
    return reserve_bytes // 4


def may_restore(reserve: Reserve, free_bytes: int) -> bool:
    """True if the reserve can be taken off the disk again without being needed at once."""
    return not reserve.is_whole and free_bytes + reserve.held_bytes >= reserve.needed_bytes


def may_enter(reserve: Reserve, free_bytes: int, unused_bytes: int) -> bool:
    """True if there is room for a new job.

    unused_bytes   inside the database, left by what was deleted: jobs may have them, the disk cannot
    """
    return reserve.is_whole or free_bytes + unused_bytes >= reserve.needed_bytes
