"""Reading results: the permalink and the list."""

from __future__ import annotations

from typing import NamedTuple

from async_delivery.domain.errors import NotFoundError, ResultExpiredError
from async_delivery.domain.job import JobId, ResultId
from async_delivery.domain.result import Projection, Result, View, intact, project
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Reader, SeenResult

# Longer than any body.
_WHATEVER = 1 << 62


class Permalink(NamedTuple):
    """What a permalink leads to. ``body`` is None if it is longer than was asked for."""

    projection: Projection
    correlation_id: str
    body: bytes | None


def permalink(
    rt: Runtime, org_id: OrgId, result_id: ResultId, view: View, at_most_bytes: int = _WHATEVER
) -> Permalink:
    """The snapshot that answers for ``result_id``, with its body if that has at most so many bytes; of one moment.

    Raises NotFoundError, ResultExpiredError, ResultCorruptError."""
    seen = rt.store.ask(lambda reader: reader.see_result(org_id, result_id, at_most_bytes))
    if seen is None:
        raise NotFoundError("result")
    if view is View.LATEST and not seen.found.result.is_final:
        # Another snapshot may answer for this one: both must be of the same moment.
        return rt.store.read(lambda reader: _newest(rt, reader, org_id, result_id, at_most_bytes))
    return _permalink(rt, seen, view, seen, at_most_bytes)


def _newest(rt: Runtime, reader: Reader, org_id: OrgId, result_id: ResultId, at_most_bytes: int) -> Permalink:
    asked = reader.see_result(org_id, result_id, at_most_bytes)
    if asked is None:
        raise NotFoundError("result")
    newest = reader.newest_result(org_id, asked.found.result.job_id)
    seen = asked
    if newest is not None and newest.result_id != result_id:
        seen = reader.see_result(org_id, newest.result_id, at_most_bytes) or asked
    return _permalink(rt, asked, View.LATEST, seen, at_most_bytes)


def _permalink(
    rt: Runtime, asked: SeenResult, view: View, answers: SeenResult, at_most_bytes: int
) -> Permalink:
    """``answers`` is the snapshot that answers for ``asked`` under ``view``."""
    requested, job_ended, correlation_id = asked.found
    projection = project(requested, lambda: answers.found.result, job_ended, view, rt.clock.now())
    resolved, body = projection.resolved, answers.body
    if body is not None:
        intact(resolved, body)
    elif resolved.size_bytes <= at_most_bytes:
        raise ResultExpiredError(resolved.expires_at)
    return Permalink(projection, correlation_id, body)


def list_results(rt: Runtime, org_id: OrgId, job_id: JobId) -> list[Result]:
    """The job's snapshots that can still be read, oldest first. Raises NotFoundError for the job."""
    now = rt.clock.now()

    def look(reader: Reader) -> list[Result]:
        job = reader.find_job(org_id, job_id)
        if job is None:
            raise NotFoundError("job")
        ended = job.status.terminal
        return [one for one in reader.list_results(org_id, job_id) if not (ended and one.expires_at <= now)]

    return rt.store.read(look)
