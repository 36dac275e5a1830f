"""Every invariant of a store, checked by set queries that stream over millions of rows. Knows no dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader


def violations(reader: SqlReader, limit: int) -> list[str]:
    """At most ``limit`` breaches, one sentence each."""
    raise NotImplementedError
