from __future__ import annotations

from async_delivery.domain.reserve import Reserve
from async_delivery.domain.signal import SPECS
from async_delivery.engine import cleanups
from async_delivery.engine.runtime import Runtime
from async_delivery.ops.health import check_reserve
from async_delivery.testing import FakeClock
from tests.api.support import Web
from tests.engine.support import submitted


def test_readiness_lists_every_check_and_is_503_while_one_that_matters_fails(
    rt: Runtime, web: Web, clock: FakeClock
) -> None:
    well = web.get("/health/ready")
    submitted(rt)
    clock.advance(seconds=901)
    ill = Web(rt).get("/health/ready")

    assert (well.status_code, well.json()["ok"]) == (200, True)
    assert (ill.status_code, ill.json()["ok"]) == (503, False)
    assert [check["name"] for check in ill.json()["checks"] if not check["ok"]] == ["queue_drained"]
    assert [check["name"] for check in well.json()["checks"]] == [
        "store_writable",
        "schema_current",
        "worker_alive",
        "queue_drained",
        "not_draining",
        "disk_space",
        "cleanup_not_paused",
    ]


def test_signals_are_shown_by_name_with_their_thresholds_and_the_pause(rt: Runtime, web: Web) -> None:
    cleanups.pause(rt.store, "looking into it", "kim", rt.clock.now())

    body = web.get("/ops/signals").json()

    assert [signal["name"] for signal in body["signals"]] == [spec.name for spec in SPECS]
    assert (body["signals"][1]["warning"], body["signals"][1]["critical"]) == (1200.0, 2500.0)
    assert body["cleanup_pause"]["why"] == "looking into it"


def test_what_operators_ask_needs_no_tenant_and_refuses_none(web: Web) -> None:
    for path in ("/metrics", "/ops/signals", "/health/ready"):
        answer = web.get(path, headers={"X-Org-Id": "no such name"})
        assert answer.status_code == 200, path
    assert web.get("/metrics").headers["content-type"].startswith("text/plain")


def test_a_reserve_that_is_out_is_told_and_makes_nobody_unready() -> None:
    mib = 1 << 20

    whole, out, none = (
        check_reserve(reserve)
        for reserve in (Reserve(64 * mib, 64 * mib), Reserve(64 * mib, 0), Reserve(0, 0))
    )

    assert (whole.ok, out.ok, none.ok) == (True, False, True)
    assert not out.required
    assert "96 MiB" in out.detail
