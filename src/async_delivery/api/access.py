"""Who asks: the tenant from the headers, believed only where the operator says they can be.

Mode ``header``: X-Org-Id (alias X-Tenant-Id) names the tenant. That is safe on a loopback address, or behind a proxy
that sets the header itself; everything else is refused at start or with 403.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from async_delivery.api.request import Call
from async_delivery.domain.errors import FieldIssue, ForbiddenError, ValidationError
from async_delivery.domain.tenant import DEFAULT_ORG, OrgId, parse_org_id

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_PEERS = 1_024
_KEPT_TENANTS = 1_024


def tenant(call: Call) -> OrgId:
    """The tenant that the request names; ``default-org`` where it names none.

    Raises ValidationError if a header is repeated, malformed or empty, or if the two names disagree. Header names
    are compared as sent: X_Org_Id is another header, which no one here reads.
    """
    org, alias = call.headers.get(b"x-org-id"), call.headers.get(b"x-tenant-id")
    if alias is None:
        return DEFAULT_ORG if org is None else _named("X-Org-Id", org)
    found = [_named(field, values) for field, values in (("X-Org-Id", org), ("X-Tenant-Id", alias)) if values]
    if found[0] != found[-1]:
        issue = "X-Org-Id and X-Tenant-Id must be the same, or only one of them sent"
        raise ValidationError(issue, [FieldIssue("X-Org-Id", issue), FieldIssue("X-Tenant-Id", issue)])
    return found[0]


def _named(field: str, values: list[bytes]) -> OrgId:
    if len(values) > 1:
        raise ValidationError.of(field, "must not be repeated")
    return _parsed(field, values[0])


# The same few tenants ask again and again.
@lru_cache(_KEPT_TENANTS)
def _parsed(field: str, value: bytes) -> OrgId:
    return parse_org_id(value.decode("latin-1"), field=field)


def refuse_other_sites(call: Call) -> None:
    """Refuse writes that a browser sends on behalf of another site's page. Raises ForbiddenError.

    The mode has no credential a browser would have to be given, so any page could otherwise reach a server on
    the reader's own machine. Programs do not send the header.
    """
    if call.method not in _SAFE_METHODS and call.first(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        raise ForbiddenError("a page of another site may not write here")


class Peers:
    """Whose headers are believed. Without networks: everybody's, as the address served on is a loopback one."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """``trusted`` are networks or single addresses. Raises ValueError for anything else."""
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(one, strict=False) for one in trusted]
        self._known: dict[str, bool] = {}

    def check(self, client: tuple[str, int] | None) -> None:
        """Raises ForbiddenError unless the peer may be believed. A Unix socket has none: its file's rights decide."""
        if not self._networks or client is None:
            return
        host = client[0]
        believed = self._known.get(host)
        if believed is None:
            if len(self._known) >= _MAX_PEERS:
                self._known.clear()
            believed = self._known[host] = self._inside(host)
        if not believed:
            raise ForbiddenError("requests are taken from the configured proxies only")

    def _inside(self, host: str) -> bool:
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def check_bind(host: str, trusted_proxies: Sequence[str]) -> None:
    """Raises ValueError if serving on ``host`` would let strangers name any tenant they like."""
    if trusted_proxies:
        Peers(trusted_proxies)
        return
    try:
        loopback = host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"refusing to serve on {host}: the tenant header would be believed from anyone who can reach it. "
            "Serve on 127.0.0.1, or name the proxy that sets the header with --trusted-proxy ADDRESS/PREFIX"
        )
