"""Cursors of lists: opaque to clients, bound to the tenant and the filters they were given for.

A cursor says where a page ended and carries no right of any kind: the tenant is in the WHERE of every query. Its
digest only keeps a cursor from being used with other filters, or after it was altered on the way, where it would
silently show a wrong page. That needs no secret, so a cursor holds on every server and after every restart.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from async_delivery.domain.errors import ValidationError
from async_delivery.domain.job import JobId
from async_delivery.domain.tenant import OrgId

_DIGEST_BYTES = 12


def make_cursor(org_id: OrgId, filters: str, last: JobId) -> str:
    """The cursor behind ``last``. ``filters`` is the same text for the same filters."""
    raw = _digest(org_id, filters, last) + last.encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def read_cursor(org_id: OrgId, filters: str, cursor: str) -> JobId:
    """The id behind which the next page begins. Raises ValidationError for any but this list's own cursors."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        last = JobId(raw[_DIGEST_BYTES:].decode("ascii"))
    except (ValueError, binascii.Error):
        raise _foreign() from None
    # Base64 has several spellings of some bytes; only the one that was given out is a cursor.
    if not last or make_cursor(org_id, filters, last) != cursor:
        raise _foreign()
    return last


def _digest(org_id: OrgId, filters: str, last: JobId) -> bytes:
    text = "\0".join(("async-delivery/cursor/1", org_id, filters, last))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def _foreign() -> ValidationError:
    return ValidationError.of(
        "cursor", "is not a cursor of this list with these filters; start again without it"
    )
