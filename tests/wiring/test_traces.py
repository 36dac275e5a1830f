from __future__ import annotations

import logging
import sys

import pytest

from async_delivery import telemetry
from async_delivery.wiring.traces import trace_to_collector

NOWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if opentelemetry were not installed."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "async_delivery.ops.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**NOWHERE, "OTEL_SDK_DISABLED": "TRUE"},
        {**NOWHERE, "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["unset", "empty", "disabled", "no exporter"],
)
def test_traces_are_off_unless_they_are_asked_for(environ: dict[str, str]) -> None:
    before = telemetry._subscribers

    assert trace_to_collector(False, environ) is None

    assert telemetry._subscribers == before


@pytest.mark.parametrize(
    ("asked", "environ"),
    [(True, {}), (False, NOWHERE), (False, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/x"})],
    ids=["setting", "variable", "variable for traces"],
)
def test_the_setting_or_a_variable_turns_them_on(asked: bool, environ: dict[str, str]) -> None:
    before = telemetry._subscribers

    stop = trace_to_collector(asked, environ)

    assert stop is not None
    assert len(telemetry._subscribers) == len(before) + 1
    stop()
    assert telemetry._subscribers == before


def test_asked_for_without_the_extra_says_what_to_install(without_extra: None) -> None:
    with pytest.raises(ValueError, match=r"pip install 'async-delivery\[otel\]'"):
        trace_to_collector(True, {})


def test_a_variable_of_the_machine_without_the_extra_is_a_warning(
    without_extra: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert trace_to_collector(False, NOWHERE) is None

    assert "async-delivery[otel]" in caplog.text
