"""Between HTTP and the client's values: answers, refusals, uploads, path segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2

from async_delivery.client.errors import KINDS, ApiError, ClientError, ResultExpired
from async_delivery.client.values import Job, job_from

T = TypeVar("T")


def decoded(answer: httpx2.Response, make: Callable[[dict[str, Any]], T]) -> T:
    """What ``make`` makes of the answer's JSON object. Raises ClientError if it is not this service's."""
    try:
        body = answer.json()
        if not isinstance(body, dict):
            raise TypeError("no JSON object")
        return make(body)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ClientError(
            f"{answer.url} does not answer as an Async Delivery server would ({type(exc).__name__}: {exc})"
        ) from exc


def job_of(answer: httpx2.Response) -> Job:
    """The job of an answer that shows one."""
    return decoded(answer, lambda body: job_from(body["job"], answer.headers.get("ETag")))


def refusal_of(answer: httpx2.Response) -> ApiError:
    try:
        body = answer.json()
        code, message = str(body["code"]), str(body["message"])
        details = [(str(each["field"]), str(each["issue"])) for each in body.get("details", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        # Not this service: a proxy on the way, or another program on that port.
        text = " ".join(answer.text.split())[:200]
        code, message, details, body = "unexpected_answer", text or answer.reason_phrase, [], {}
    wait = answer.headers.get("Retry-After", "")
    error = KINDS.get(code, ApiError)(
        code,
        answer.status_code,
        message,
        details,
        answer.headers.get("X-Request-Id"),
        float(wait) if wait.isdigit() else None,
    )
    if isinstance(error, ResultExpired):
        error.expired_at = body.get("expired_at")
    return error


def segment(text: str) -> str:
    """One segment of a path: an id that came from a person may hold anything."""
    return quote(text, safe="")


def first_line(exc: Exception) -> str:
    lines = str(exc).splitlines()
    return lines[0] if lines else type(exc).__name__


class Told:
    """A file that tells how far it was read, so that an upload can show its progress."""

    def __init__(self, path: Path, sent: Callable[[int], None]) -> None:
        self._file = path.open("rb")
        self._sent = sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sent(self._file.tell())
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(65_536):
            yield data

    def fileno(self) -> int:
        return self._file.fileno()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)
