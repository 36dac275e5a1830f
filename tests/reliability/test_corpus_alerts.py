"""R32: every fault that must raise an alert does, and an hour without a fault raises none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.conftest import Score
from tests.reliability.corpus_alerts import FAULTS, OPTIONS, Fault, false_alerts, raised, soak
from tests.system.live import LiveServer

SOAK_SECONDS = 3_600.0


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_raises_its_alerts(fault: Fault, tmp_path: Path, score: Score) -> None:
    found = raised(fault, tmp_path)
    print(f"{fault.name}: raised {found} of {list(fault.raises)}")

    score("R32.raised", "-", 100 * len(found) / len(fault.raises), cases=len(fault.raises))


@pytest.mark.long
def test_an_hour_without_a_fault_raises_no_alert(tmp_path: Path, score: Score) -> None:
    server = LiveServer(tmp_path, *OPTIONS).start()
    try:
        seen = soak(server, SOAK_SECONDS)
    finally:
        server.stop()

    score("R32.false", "-", false_alerts(seen, tmp_path), cases=len(seen))
