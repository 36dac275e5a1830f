"""How much a store holds, counted for people. Knows no dialect."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select, text

from async_delivery.storage.dialects import AnySelect
from async_delivery.storage.reading import SqlReader
from async_delivery.storage.tables import (
    IS_LEASED,
    IS_QUEUED,
    NOT_COMPLETED,
    events,
    jobs,
    notifications,
    results,
)


def _count(table: object, where: str | None = None) -> AnySelect:
    statement = select(func.count()).select_from(table)  # type: ignore[arg-type]
    return statement if where is None else statement.where(text(where))


COUNTS: Mapping[str, AnySelect] = {
    "jobs": _count(jobs),
    "queued": _count(jobs, IS_QUEUED),
    "running": _count(jobs, IS_LEASED),
    "not_completed": _count(jobs, NOT_COMPLETED),
    "results": _count(results),
    "events": _count(events),
    "notifications": _count(notifications),
}


def counts(reader: SqlReader) -> dict[str, int]:
    """Rows by kind."""
    return {name: int(reader.run(statement, {}).fetchone()[0]) for name, statement in COUNTS.items()}
