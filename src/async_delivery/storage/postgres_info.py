"""What a PostgreSQL server says of itself, as far as the promises of a store depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_delivery.storage.postgres_connect import OLDEST_VERSION

if TYPE_CHECKING:
    from async_delivery.storage.postgres_connect import Connection

_ASKED = b"""
SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
       pg_is_in_recovery()
"""
_DURABLE = (
    "a write is acknowledged after PostgreSQL has committed it to disk (fsync=on, synchronous_commit={})"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The settings that durability hangs on."""

    fsync: bool
    synchronous_commit: str
    full_page_writes: bool
    replica: bool
    version: int

    @property
    def durability(self) -> str:
        """One sentence for ``/health``."""
        if weak := self.weaknesses():
            return "NOT DURABLE as set up: " + "; ".join(weak)
        return _DURABLE.format(self.synchronous_commit)

    def weaknesses(self) -> list[str]:
        """What breaks the promise that an accepted job survives."""
        found = []
        if self.replica:
            found.append("the database is a replica, which takes no writes")
        if not self.fsync:
            found.append("fsync=off: a power cut loses accepted jobs and may corrupt the database")
        if self.synchronous_commit == "off":
            found.append("synchronous_commit=off: a crash of the database loses jobs accepted just before it")
        if not self.full_page_writes:
            found.append("full_page_writes=off: a power cut may corrupt the database")
        return found

    def warnings(self) -> list[str]:
        """What an operator should hear at start."""
        found = self.weaknesses()
        if self.version < OLDEST_VERSION:
            found.append(
                f"PostgreSQL {self.version // 10_000} is older than {OLDEST_VERSION // 10_000} and not supported"
            )
        return found


def ask(connection: Connection) -> Facts:
    """Raises psycopg.Error."""
    row = connection.execute(_ASKED).fetchone()
    if row is None:
        raise AssertionError("a SELECT without FROM has one row")
    fsync, synchronous_commit, full_page_writes, replica = row
    return Facts(
        fsync == "on", synchronous_commit, full_page_writes == "on", replica, connection.info.server_version
    )
