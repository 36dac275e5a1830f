"""Who a request speaks for, and when that is believed."""

from __future__ import annotations

import pytest

from async_delivery.api.access import Peers, check_bind
from async_delivery.domain.errors import ForbiddenError
from async_delivery.domain.tenant import OrgId
from async_delivery.engine.runtime import Runtime
from tests.api.support import Web
from tests.engine.support import submitted

Headers = list[tuple[str, bytes]]

# What a client may send, and the tenant that it names; None where it must be refused with 400.
NAMES: list[tuple[Headers, str | None]] = [
    ([], "default-org"),
    ([("X-Org-Id", b"alpha")], "alpha"),
    ([("x-org-id", b"alpha")], "alpha"),
    ([("X-Tenant-Id", b"alpha")], "alpha"),
    ([("X-Org-Id", b"alpha"), ("X-Tenant-Id", b"alpha")], "alpha"),
    ([("X-Org-Id", b"Alpha")], "Alpha"),
    ([("X-Org-Id", b"a.b_c:d-9")], "a.b_c:d-9"),
    ([("X-Org-Id", b"x" * 128)], "x" * 128),
    ([("X_Org_Id", b"beta")], "default-org"),
    ([("X-Org-Id", b"alpha"), ("X_Org_Id", b"beta")], "alpha"),
    ([("X-Org-Id", b"alpha"), ("X-Tenant-Id", b"beta")], None),
    ([("X-Org-Id", b"alpha"), ("X-Tenant-Id", b"Alpha")], None),
    ([("X-Org-Id", b"alpha"), ("X-Org-Id", b"alpha")], None),
    ([("X-Org-Id", b"alpha"), ("X-Org-Id", b"beta")], None),
    ([("X-Tenant-Id", b"alpha"), ("X-Tenant-Id", b"alpha")], None),
    ([("X-Org-Id", b"alpha,beta")], None),
    ([("X-Org-Id", b"alpha, alpha")], None),
    ([("X-Org-Id", b"")], None),
    ([("X-Tenant-Id", b"")], None),
    ([("X-Org-Id", b"alpha"), ("X-Tenant-Id", b"")], None),
    ([("X-Org-Id", b"a b")], None),
    ([("X-Org-Id", b"alpha ")], "alpha"),
    ([("X-Org-Id", b" \talpha")], "alpha"),
    ([("X-Org-Id", b"alpha\t"), ("X-Tenant-Id", b" alpha")], "alpha"),
    ([("X-Org-Id", b" \t")], None),
    ([("X-Org-Id", b"alpha\x0b")], None),
    ([("X-Org-Id", b"alpha\x00")], None),
    ([("X-Org-Id", b"a/b")], None),
    ([("X-Org-Id", b"../alpha")], None),
    ([("X-Org-Id", b"x" * 129)], None),
    ([("X-Org-Id", "älpha".encode())], None),
    ([("X-Org-Id", "аlpha".encode())], None),  # noqa: RUF001  a Cyrillic a
    ([("X-Org-Id", b"alpha\xff")], None),
    ([("X-Org-Id", b'"alpha"')], None),
    ([("X-Org-Id", b"%61lpha")], None),
]


@pytest.mark.parametrize(("headers", "org_id"), NAMES)
def test_a_request_speaks_for_exactly_the_tenant_it_names(
    rt: Runtime, web: Web, headers: Headers, org_id: str | None
) -> None:
    for name in ("default-org", "alpha", "beta", "Alpha", "x" * 128, "a.b_c:d-9"):
        submitted(rt, OrgId(name), labels={"owner": name})

    answer = web.get("/analyze/jobs", headers=headers)

    if org_id is None:
        assert answer.status_code == 400
        assert {one["field"] for one in answer.json()["details"]} <= {"X-Org-Id", "X-Tenant-Id"}
        assert answer.json()["details"]
    else:
        assert [job["labels"]["owner"] for job in answer.json()["jobs"]] == [org_id]


@pytest.mark.parametrize(
    "peer", ["10.1.2.3", "10.255.0.1", "192.0.2.7", "::ffff:10.9.9.9", "fd00::1", "fd00::1%eth0"]
)
def test_a_configured_proxy_is_believed(rt: Runtime, peer: str) -> None:
    with Web(rt, trusted_proxies=("10.0.0.0/8", "192.0.2.7", "fd00::/8")) as web:
        answer = web.run(lambda ask: ask("GET", "/analyze/jobs"), client=(peer, 4711))

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "peer", ["11.0.0.1", "192.0.2.8", "127.0.0.1", "::1", "::ffff:11.0.0.1", "testclient", ""]
)
def test_nobody_else_is_believed_once_a_proxy_is_configured(rt: Runtime, peer: str) -> None:
    with Web(rt, trusted_proxies=("10.0.0.0/8", "192.0.2.7", "fd00::/8")) as web:
        answer = web.run(lambda ask: ask("GET", "/analyze/jobs"), client=(peer, 4711))
        health = web.run(lambda ask: ask("GET", "/health"), client=(peer, 4711))

    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert health.status_code == 200


def test_a_unix_socket_is_guarded_by_its_file() -> None:
    Peers(("10.0.0.0/8",)).check(None)


def test_a_peer_is_judged_the_same_the_second_time() -> None:
    peers = Peers(("10.0.0.0/8",))

    for _ in range(2):
        peers.check(("10.0.0.1", 1))
        with pytest.raises(ForbiddenError):
            peers.check(("11.0.0.1", 1))


@pytest.mark.parametrize("networks", [("10.0.0.0/33",), ("proxy",), ("",)])
def test_a_proxy_that_is_no_network_is_refused_at_the_start(rt: Runtime, networks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        Web(rt, trusted_proxies=networks)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_a_loopback_address_may_be_served_on(host: str) -> None:
    check_bind(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.example.org"])
def test_any_other_address_needs_a_proxy_to_be_named(host: str) -> None:
    with pytest.raises(ValueError, match="trusted-proxy"):
        check_bind(host, ())

    check_bind(host, ("10.0.0.0/8",))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_write(rt: Runtime, web: Web, site: str) -> None:
    job = submitted(rt)
    headers = {"X-Org-Id": "alpha", "Sec-Fetch-Site": site}

    assert web.post(f"/analyze/jobs/{job.job_id}/cancel", headers=headers).status_code == 403
    assert web.submit(headers=headers).status_code == 403
    assert web("DELETE", f"/analyze/jobs/{job.job_id}", headers=headers).status_code == 403
    assert web.get(f"/analyze/jobs/{job.job_id}", headers=headers).json()["job"]["status"] == "queued"


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_page_of_this_site_can_write(web: Web, site: str) -> None:
    assert web.submit(headers={"X-Org-Id": "alpha", "Sec-Fetch-Site": site}).status_code == 202
