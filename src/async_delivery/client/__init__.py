"""A typed, synchronous HTTP client: what the command line uses, and other programs may.

Answers become frozen values. A refused request raises ApiError or one of its kinds, an unreachable server
ConnectionFailed. A read is repeated once when its connection breaks; nothing else is ever sent twice. Imports httpx2
and ``domain``, nothing of the server.
"""

from async_delivery.client.errors import (
    ApiError,
    ClientError,
    ConnectionFailed,
    NotFound,
    ResultExpired,
    Unavailable,
    WaitTimeout,
)
from async_delivery.client.http import DEFAULT_BASE_URL, Client
from async_delivery.client.values import Event, Job, JobPage, Result, Submitted

__all__ = [
    "DEFAULT_BASE_URL",
    "ApiError",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Event",
    "Job",
    "JobPage",
    "NotFound",
    "Result",
    "ResultExpired",
    "Submitted",
    "Unavailable",
    "WaitTimeout",
]
