"""huey on SQLite with synced commits. As a module for ``huey_consumer``; ``main`` submits. PEER_FILE is the file."""

from __future__ import annotations

import os

from huey import SqliteHuey  # type: ignore[import-not-found]

from bench.peers import driving

# fsync=True is synchronous=FULL; the journal is WAL by default. A busy SQLite may let a writer wait longer than 5 s.
huey = SqliteHuey("bench", filename=os.environ["PEER_FILE"], fsync=True, timeout=60)
work = huey.task(name="work")(driving.result)


class HueyDriver:
    """Submits as an application does."""

    def jobs(self, count: int) -> None:
        """See driving.Driver."""
        before = huey.result_count()
        handles = driving.in_threads(count, work)
        driving.until(lambda: huey.result_count() - before >= count)
        last = handles[-1]
        driving.check(last.get(preserve=True))  # type: ignore[attr-defined]

    def one(self) -> None:
        """See driving.Driver."""
        found = work().get(
            blocking=True,
            timeout=driving.DEADLINE_SECONDS,
            max_delay=driving.GLANCE_SECONDS,
            preserve=True,
        )
        driving.check(found)


def main() -> None:
    """Submit as asked."""
    driving.serve(HueyDriver())
