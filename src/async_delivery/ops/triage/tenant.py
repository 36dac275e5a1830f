"""The tenant headers as somebody sends them: their form, whether they agree, and how else the name may be written."""

from __future__ import annotations

from dataclasses import dataclass

from async_delivery.domain.errors import ValidationError
from async_delivery.domain.tenant import DEFAULT_ORG, ORG_ID_FORM, parse_org_id
from async_delivery.domain.triage import ErrorClass, Fault, other_spellings
from async_delivery.ops.probe import Probe
from async_delivery.ops.triage.notes import Notes

_STEP = "correct the tenant headers of the caller, then ask again"


@dataclass(frozen=True, slots=True)
class Tenant:
    """What the headers come to.

    org_id    None if they are refused: then nothing that belongs to a tenant can be asked
    headers   as they are sent, both if both were given
    """

    org_id: str | None
    headers: list[tuple[str, str]]


def check_headers(org: str | None, alias: str | None, notes: Notes) -> Tenant:
    """Judge the headers by the rule that the server has."""
    given = [(name, text) for name, text in (("X-Org-Id", org), ("X-Tenant-Id", alias)) if text is not None]
    for name, text in given:
        notes.fact("headers", name, text)
    bad = [fault for name, text in given if (fault := _fault(name, text))]
    for fault in bad:
        notes.found(Fault.TENANT_HEADERS, ErrorClass.RESULT_READ, fault, _STEP)
    if bad:
        return Tenant(None, [])
    if len({text for _, text in given}) > 1:
        notes.found(
            Fault.TENANT_HEADERS,
            ErrorClass.RESULT_READ,
            f"X-Org-Id is {org} and X-Tenant-Id is {alias}: the server refuses headers that disagree (400)",
            _STEP,
        )
        return Tenant(None, [])
    tenant = given[0][1] if given else DEFAULT_ORG
    notes.fact("headers", "tenant", tenant if given else f"{tenant}, as no header is sent")
    return Tenant(tenant, given)


def _fault(name: str, text: str) -> str | None:
    try:
        parse_org_id(text, field=name)
    except ValidationError:
        if text != text.strip():
            why = "has blanks around it"
        elif not text:
            why = "is empty"
        elif not text.isascii():
            why = "has characters beyond ASCII, which may look like others"
        elif len(text) > 128:
            why = f"has {len(text)} characters"
        else:
            why = "has characters that a tenant's name cannot have"
        return f"{name} {text!r:.160} {why}: it must be {ORG_ID_FORM}, or the server answers 400"
    return None


def seen_under_another_spelling(probe: Probe, tenant: str, path: str) -> str | None:
    """The spelling of the tenant under which ``path`` is there; None if it is under none of the likely ones.

    Only the spelling is told, nothing of what the answer holds.
    """
    for spelling in other_spellings(tenant):
        # In place of what the probe sends: a second X-Tenant-Id that disagrees would be refused.
        if probe.get(path, headers={"X-Org-Id": spelling, "X-Tenant-Id": spelling}).status in (200, 410):
            return spelling
    return None
