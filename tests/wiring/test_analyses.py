"""Which analyses a process takes, and what is wrong with being told to take others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from async_delivery.settings import Settings, SettingsError, load
from async_delivery.wiring.analyses import alone, faults_of, taken
from tests.engine.support import BROKEN, COUNT, FILELESS

ON_FAST = replace(COUNT, name="on-fast", runs_on={"disk": "fast"})
ON_FAST_IN_EU = replace(COUNT, name="on-fast-in-eu", runs_on={"disk": "fast", "zone": "eu"})
INFOS = [BROKEN, COUNT, FILELESS, ON_FAST, ON_FAST_IN_EU]


def settings(**flags: object) -> Settings:
    return load(flags, {}, cwd=Path("/nonexistent")).settings


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({}, ("count", "fileless")),
        ({"label": ("disk=slow",)}, ("count", "fileless")),
        ({"label": ("disk=fast",)}, ("count", "fileless", "on-fast")),
        ({"label": ("disk=fast", "zone=eu")}, ("count", "fileless", "on-fast", "on-fast-in-eu")),
        ({"label": ("disk=fast,zone=eu",), "analyses": ("on-fast,count",)}, ("count", "on-fast")),
        ({"analyses": ("fileless",)}, ("fileless",)),
    ],
)
def test_a_worker_takes_what_it_is_told_to_and_its_labels_allow(
    flags: dict[str, object], names: tuple[str, ...]
) -> None:
    assert taken(settings(**flags), INFOS) == names
    assert faults_of(settings(**flags), INFOS) == []


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (
            {"analyses": ("nosuch",)},
            "analyses: there is no nosuch, only broken, count, fileless, on-fast, on-fast-in-eu",
        ),
        ({"analyses": ("broken",)}, "analyses: broken is not available here: No module named 'absent'"),
        (
            {"analyses": ("on-fast-in-eu",), "label": ("disk=fast",)},
            "analyses: on-fast-in-eu runs only on a machine with the label zone=eu; see --label",
        ),
    ],
)
def test_what_a_worker_could_never_take_is_refused(flags: dict[str, object], fault: str) -> None:
    assert faults_of(settings(**flags), INFOS) == [fault]


def test_what_can_run_nowhere_is_not_on_offer_where_one_process_serves() -> None:
    offered = {info.name: info for info in alone(settings(label=("disk=fast",)), INFOS)}

    assert offered["on-fast"].available
    assert not offered["on-fast-in-eu"].available
    assert offered["on-fast-in-eu"].unavailable_reason == "it needs a machine with the label zone=eu"
    assert offered["broken"].unavailable_reason == BROKEN.unavailable_reason


def test_one_process_alone_cannot_leave_jobs_to_others() -> None:
    with pytest.raises(SettingsError, match="one process serves an embedded store"):
        alone(settings(analyses=("count",)), INFOS)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"label": ("zone",)}, "--label: 'zone' is not a label of the form K=V, such as zone=eu"),
        ({"label": ("zone=eu", "zone=us")}, "label: zone is given twice"),
        ({"analyses": ("Count",)}, "--analyses: 'Count' is not the name of an analysis, such as profile"),
        ({"poll_seconds": "0.01"}, "--poll-seconds: '0.01' is not between 0.05 and 60 seconds"),
    ],
)
def test_settings_of_workers_are_checked_like_all_others(flags: dict[str, object], fault: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**flags)

    assert refused.value.faults == [fault]
