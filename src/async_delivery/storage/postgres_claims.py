"""The claim of one job in one question, which is what a slot asks whenever it is free.

The rules are those of ``dispatch``, for the usual case of them: the lowest place belongs to a tenant that has a job
for the asker. Every other case is told apart, and left to ``dispatch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from async_delivery.domain.job import Job, JobRequest
from async_delivery.storage import cells, job_rows, rows
from async_delivery.storage.dialects import POSTGRESQL_SCHEMA
from async_delivery.storage.reading import Connection
from async_delivery.storage.tables import IN_LINE, IS_DELAYED, IS_QUEUED

_JOBS = f"{POSTGRESQL_SCHEMA}.jobs"
_WIDTH = len(job_rows.JOB_COLUMNS)
# A turn that is locked is being taken by somebody else, so the next one counts: two who ask at the same time take two
# turns. The tenant's best job of each analysis is locked, and the best of them chosen.
_ASK = f"""
WITH turn AS MATERIALIZED (
    SELECT place, job_id, org_id FROM {_JOBS} WHERE {IN_LINE}
    ORDER BY place, job_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
SELECT
    turn.place, turn.job_id,
    (SELECT min(due_at) FROM {_JOBS} WHERE {IS_DELAYED}) <= %(now)s::bigint,
    EXISTS (SELECT FROM {_JOBS} AS other
            WHERE {IS_QUEUED} AND org_id = turn.org_id AND place = turn.place AND other.job_id <> turn.job_id),
    found.its_place, {", ".join(f"found.{name}" for name in job_rows.JOB_COLUMNS)},
    request.job_id, {", ".join(f"request.{name}" for name in rows.REQUEST_COLUMNS)}
FROM (VALUES (1)) AS always
LEFT JOIN turn ON true
LEFT JOIN LATERAL (
    SELECT best.* FROM json_array_elements_text(%(analyses)s::json) AS wanted (name), LATERAL (
        SELECT place AS its_place, {", ".join(job_rows.JOB_COLUMNS)} FROM {_JOBS}
        WHERE {IN_LINE} AND org_id = turn.org_id AND analysis = wanted.name
        ORDER BY priority, job_id LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS best
    ORDER BY best.priority, best.job_id LIMIT 1
) AS found ON true
LEFT JOIN {POSTGRESQL_SCHEMA}.job_requests AS request
    ON request.job_id = found.job_id AND request.org_id = found.org_id
"""  # noqa: S608  constants


@dataclass(frozen=True, slots=True)
class Found:
    """A waiting job, locked, with what was asked for; and whose turn it got.

    turn    the job at the lowest place, locked as well
    place   the job's own place, which that one gets now
    """

    job: Job
    request: JobRequest
    turn: str
    place: int


def find_one(connection: Connection, analyses: Sequence[str], now: datetime) -> Found | bool:
    """The job of ``analyses`` whose turn it is. Without one: True if ``dispatch`` may know better, False if nothing
    waits that nobody else has locked."""
    row = connection.execute(
        _ASK, {"now": cells.to_micros(now), "analyses": orjson.dumps(analyses).decode()}
    ).fetchone()
    place, turn, is_due, is_shared, its_place, *columns = row
    if is_due or is_shared:
        return True
    if its_place is None:
        return place is not None
    if columns[_WIDTH] is None:
        return True
    request = rows.to_request(columns[_WIDTH + 1 :])
    return Found(job_rows.to_job(columns[:_WIDTH]), request, turn, its_place)
