"""Who owns a thing: the tenant, named by ``org_id``. The rule of its form, nothing else."""

from __future__ import annotations

import re
from typing import NewType

from async_delivery.domain.errors import ValidationError

OrgId = NewType("OrgId", str)

DEFAULT_ORG = OrgId("default-org")
ORG_ID_FORM = "1 to 128 characters of A-Z a-z 0-9 _ . : -"

# \Z, not $: the latter would let a trailing newline through.
_ORG_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")


def parse_org_id(text: str, *, field: str = "X-Org-Id") -> OrgId:
    """The tenant named by ``text``, case-sensitive and byte-equal.

    Raises ValidationError, naming ``field``, if the form is not ``ORG_ID_FORM``.
    """
    if not _ORG_ID.match(text):
        raise ValidationError.of(field, f"must be {ORG_ID_FORM}")
    return OrgId(text)
