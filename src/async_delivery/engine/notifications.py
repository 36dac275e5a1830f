"""Reading what a tenant was told. The reading itself changes nothing."""

from __future__ import annotations

from async_delivery.domain.errors import NotFoundError
from async_delivery.domain.job import JobId
from async_delivery.domain.notification import Channel, Notification
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runtime import Runtime
from async_delivery.storage.contract import Reader


def list_notifications(
    rt: Runtime, org_id: OrgId, job_id: JobId, channel: Channel | None, limit: int
) -> list[Notification]:
    """The job's notifications, newest first. Raises NotFoundError for the job."""

    def look(reader: Reader) -> list[Notification]:
        if reader.find_job(org_id, job_id) is None:
            raise NotFoundError("job")
        return reader.list_notifications(org_id, job_id, channel, limit)

    return rt.store.read(look)
