"""Reading results: the permalink and the list."""

from __future__ import annotations

from async_delivery.domain.errors import NotFoundError, ResultExpiredError
from async_delivery.domain.job import JobId, ResultId
from async_delivery.domain.result import Projection, Result, View, intact, project
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Reader


def resolve(
    rt: Runtime, reader: Reader, org_id: OrgId, result_id: ResultId, view: View
) -> tuple[Projection, str]:
    """Which snapshot answers for ``result_id``, and its job's correlation id. Raises NotFoundError,
    ResultExpiredError."""
    found = reader.find_result(org_id, result_id)
    if found is None:
        raise NotFoundError("result")
    requested, job_ended, correlation_id = found
    projection = project(
        requested, lambda: reader.newest_result(org_id, requested.job_id), job_ended, view, rt.clock.now()
    )
    return projection, correlation_id


def permalink(rt: Runtime, org_id: OrgId, result_id: ResultId, view: View) -> tuple[Projection, bytes]:
    """The resolved snapshot and its bytes, from one consistent view. Raises NotFoundError, ResultExpiredError,
    ResultCorruptError."""

    def look(reader: Reader) -> tuple[Projection, bytes]:
        projection, _ = resolve(rt, reader, org_id, result_id, view)
        body = reader.find_body(org_id, projection.resolved.result_id)
        if body is None:
            raise ResultExpiredError(projection.resolved.expires_at)
        return projection, intact(projection.resolved, body)

    return rt.store.read(look)


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
