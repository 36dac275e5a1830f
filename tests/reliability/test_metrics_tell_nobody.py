"""What operators may read names no tenant, no job and no result, however many there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.live import LiveServer

ORGS = [f"tenant-{number}.example" for number in range(5)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path, "--slots", "1")
    try:
        yield live.start()
    finally:
        live.stop()


@pytest.mark.slow
def test_no_tenant_and_no_id_is_in_what_operators_read(server: LiveServer) -> None:
    def series() -> set[str]:
        return set(
            re.findall(r"^(\w+(?:\{.*\})?) ", server.ask("GET", "/metrics").body.decode(), re.MULTILINE)
        )

    secrets = list(ORGS)
    numbers = []
    for org in ORGS:
        job_id = server.submit(org=org, stages=1, stage_seconds=0)
        job = server.ended(job_id, org=org)
        secrets += [job_id, job["result_id"]]
        assert server.ask("GET", f"/analyze/results/{job['result_id']}", org=org).status == 200
        assert server.ask("GET", f"/analyze/results/{job['result_id']}", org="another").status == 404
        numbers.append(len(series()))

    for path in ("/metrics", "/ops/signals", "/health/ready", "/health"):
        body = server.ask("GET", path, org=ORGS[0]).body.decode()
        assert [secret for secret in secrets if secret in body] == [], path
    # All tenants after the first have done the same, so they have added no series.
    assert numbers[1:] == numbers[1:2] * (len(ORGS) - 1)
