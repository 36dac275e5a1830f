"""Reading what a tenant was told about a job. Reading changes nothing."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from async_delivery.api import wire
from async_delivery.api.context import Here, job_ident
from async_delivery.api.jobs import Limit
from async_delivery.domain.notification import Channel
from async_delivery.engine import notifications


async def list_notifications(
    request: Request,
    job_id: str,
    channel: Annotated[Channel | None, Query(description="Only this channel.")] = None,
    limit: Limit = 50,
) -> Response:
    """The job's notifications, newest first."""
    here = Here(request)
    job = job_ident(job_id)
    found = await here.read(
        lambda: notifications.list_notifications(here.api.rt, here.call.org_id, job, channel, limit)
    )
    return here.json({"notifications": [wire.notification_object(one) for one in found]})
