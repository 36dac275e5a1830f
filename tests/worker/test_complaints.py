from __future__ import annotations

from typing import Any

from async_delivery import telemetry
from async_delivery.worker.complaints import TELL_EVERY_SECONDS, Complaints


def test_a_trouble_of_every_second_is_told_once_a_minute_with_its_number() -> None:
    told: list[dict[str, Any]] = []

    def hear(name: str, values: dict[str, Any]) -> None:
        if name == "claim.failed":
            told.append(values)

    detach = telemetry.attach(hear)
    complaints = Complaints("claim.failed")

    for second in range(int(2 * TELL_EVERY_SECONDS) + 1):
        complaints.tell(f"no room at {second}", now=1000.0 + second)

    detach()
    assert [(one["error"], one["count"]) for one in told] == [
        ("no room at 0", 1),
        ("no room at 60", 60),
        ("no room at 120", 60),
    ]
