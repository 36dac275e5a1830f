"""What a store remembers of cleanups, and the pause that is on. Knows no dialect."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import delete, func, insert, literal_column, select, update

from async_delivery.domain.cleanup import CleanupRun, Pause, Runner
from async_delivery.domain.instant import format_instant, parse_instant
from async_delivery.storage import cells, stock
from async_delivery.storage.contract import CLEANUP_RUNS_TTL_SECONDS
from async_delivery.storage.dialects import ZERO, param
from async_delivery.storage.tables import cleanup_runs, meta

if TYPE_CHECKING:
    from async_delivery.storage.reading import SqlReader

_COLUMNS = tuple(column.name for column in cleanup_runs.columns)
_PAUSE, _PROBE = "cleanup_pause", "probed_at"

INSERT_RUN = insert(cleanup_runs).values({name: param(name) for name in _COLUMNS})
DELETE_OLD_RUNS = delete(cleanup_runs).where(cleanup_runs.c.finished_at < param("ended_before"))
LIST_RUNS = (
    select(*cleanup_runs.columns)
    .where(cleanup_runs.c.finished_at >= param("since"))
    .order_by(cleanup_runs.c.finished_at.desc(), cleanup_runs.c.run_id.desc())
    .limit(param("at_most"))
    .offset(ZERO)
)
LAST_SUCCESS = select(func.max(cleanup_runs.c.finished_at)).where(
    cleanup_runs.c.exit_code == literal_column("0")
)
UPDATE_FACT = update(meta).where(meta.c.name == param("the_name")).values(value=param("value"))
INSERT_FACT = insert(meta).values(name=param("name"), value=param("value"))
DELETE_FACT = delete(meta).where(meta.c.name == param("the_name"))


def record(tx: SqlReader, run: CleanupRun) -> None:
    """See ``contract.Transaction.record_cleanup``."""
    before = run.finished_at - timedelta(seconds=CLEANUP_RUNS_TTL_SECONDS)
    tx.run(DELETE_OLD_RUNS, {"ended_before": cells.to_micros(before)})
    tx.run(
        INSERT_RUN,
        {
            "run_id": run.run_id,
            "runner": run.runner.value,
            "started_at": cells.to_micros(run.started_at),
            "finished_at": cells.to_micros(run.finished_at),
            "exit_code": run.exit_code,
            "results_deleted": run.results_deleted,
            "results_kept": run.results_kept,
            "events_deleted": run.events_deleted,
            "events_kept": run.events_kept,
            "jobs_deleted": run.jobs_deleted,
            "jobs_kept": run.jobs_kept,
            "skipped_missing_timestamp": run.skipped_missing_timestamp,
            "bytes": run.bytes,
            "results_ttl_seconds": run.results_ttl_seconds,
            "events_ttl_seconds": run.events_ttl_seconds,
            "jobs_ttl_seconds": run.jobs_ttl_seconds,
            "report": cells.to_json_text(dict(run.report)),
        },
    )


def runs(reader: SqlReader, since: datetime | None, limit: int) -> list[CleanupRun]:
    """See ``contract.Reader.cleanup_runs``."""
    after = cells.MIN_INSTANT if since is None else cells.to_micros(since)
    return [_to_run(row) for row in reader.run(LIST_RUNS, {"since": after, "at_most": limit}).fetchall()]


def last_success_at(reader: SqlReader) -> datetime | None:
    """See ``contract.Reader.last_cleanup_success_at``."""
    return cells.optional_instant(reader.run(LAST_SUCCESS, {}).fetchone()[0])


def _to_run(row: cells.Row) -> CleanupRun:
    found: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
    return CleanupRun(
        run_id=found["run_id"],
        runner=Runner(found["runner"]),
        started_at=cells.instant(found["started_at"]),
        finished_at=cells.instant(found["finished_at"]),
        exit_code=found["exit_code"],
        results_deleted=found["results_deleted"],
        results_kept=found["results_kept"],
        events_deleted=found["events_deleted"],
        events_kept=found["events_kept"],
        jobs_deleted=found["jobs_deleted"],
        jobs_kept=found["jobs_kept"],
        skipped_missing_timestamp=found["skipped_missing_timestamp"],
        bytes=found["bytes"],
        results_ttl_seconds=found["results_ttl_seconds"],
        events_ttl_seconds=found["events_ttl_seconds"],
        jobs_ttl_seconds=found["jobs_ttl_seconds"],
        report=orjson.loads(found["report"]),
    )


def pause(reader: SqlReader) -> Pause | None:
    """See ``contract.Reader.cleanup_pause``."""
    text = stock.fact(reader, _PAUSE)
    if text is None:
        return None
    said = orjson.loads(text)
    return Pause(parse_instant(said["paused_at"]), said["why"], said["by"])


def set_pause(tx: SqlReader, wanted: Pause | None) -> None:
    """See ``contract.Transaction.set_cleanup_pause``."""
    if wanted is None:
        tx.run(DELETE_FACT, {"the_name": _PAUSE})
        return
    said = {"paused_at": wanted.paused_at.isoformat(), "why": wanted.why, "by": wanted.by}
    _put_fact(tx, _PAUSE, cells.to_json_text(said))


def probe(tx: SqlReader, now: datetime) -> None:
    """See ``contract.Transaction.probe``."""
    _put_fact(tx, _PROBE, format_instant(now))


def _put_fact(tx: SqlReader, name: str, value: str) -> None:
    if not tx.run(UPDATE_FACT, {"the_name": name, "value": value}).rowcount:
        tx.run(INSERT_FACT, {"name": name, "value": value})
