"""deploy/prometheus: the rules are valid, do what their unit tests say, and say what the code and the docs say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from async_delivery.domain.signal import (
    EVENTS_DELETE_COUNT,
    RESULTS_DELETE_COUNT,
    SPECS,
    SPIKE_FACTOR,
    STALL_MARGIN_SECONDS,
    SignalSpec,
)
from async_delivery.settings import Settings
from tests.docs.pages import anchors, code, read, rows
from tests.ops.promtool import FOLDER, RULES, alerts, groups, metrics, promtool, recordings, words, write

UNIT_TESTS = sorted((FOLDER / "tests").glob("*.test.yml"))
DELETES = {RESULTS_DELETE_COUNT.name: RESULTS_DELETE_COUNT, EVENTS_DELETE_COUNT.name: EVENTS_DELETE_COUNT}
PLAIN = [spec for spec in SPECS if spec.name not in DELETES]
# What no process of the service tells of itself.
FOREIGN = {"up"}


# ---------------------------------------------------------------- promtool's own judgement


def test_the_rules_and_the_example_configuration_are_valid() -> None:
    assert promtool("check", "rules", RULES.name).text.count("SUCCESS") == 1
    assert promtool("check", "config", "prometheus.yml").ok


@pytest.mark.slow
@pytest.mark.parametrize("path", [path.name for path in UNIT_TESTS])
def test_the_rules_pass_their_unit_tests(path: str) -> None:
    said = promtool("test", "rules", f"tests/{path}")

    assert said.ok, said.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "expression", ["vector(1) > 2", 'label_replace(vector(1), "job", "async-delivery", "", "")']
)
def test_the_unit_tests_notice_an_alert_that_never_fires_and_one_that_always_does(
    tmp_path: Path, expression: str
) -> None:
    broken = [
        {
            **each,
            "rules": [{**rule, "expr": expression} if "alert" in rule else rule for rule in each["rules"]],
        }
        for each in groups()
    ]
    write(tmp_path / RULES.name, {"groups": broken})
    (tmp_path / "tests").mkdir()
    for path in UNIT_TESTS:
        (tmp_path / "tests" / path.name).write_text(path.read_text())

    said = [promtool("test", "rules", f"tests/{path.name}", cwd=tmp_path) for path in UNIT_TESTS]

    assert not any(each.ok for each in said)
    noticed = set(re.findall(r"alertname: (\w+)", "".join(each.text for each in said)))
    assert set(alerts()) - noticed == set()


def test_every_alert_is_tested_firing_and_silent() -> None:
    fired: set[str] = set()
    silent: set[str] = set()
    for path in UNIT_TESTS:
        for each in yaml.safe_load(path.read_text())["tests"]:
            for case in each.get("alert_rule_test", []):
                (fired if case["exp_alerts"] else silent).add(case["alertname"])

    assert fired == silent == set(alerts())


# ---------------------------------------------------------------- the same thresholds as in the code


def with_value(spec: SignalSpec, value: float) -> dict[str, Any]:
    """Series in which a signal has ``value`` for ten minutes, with traffic enough to judge by."""
    name = f'{spec.name}{{job="async-delivery"}}'
    guard = 'async_delivery:permalink_answers:increase5m{job="async-delivery"}'
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": f"{value!r}x10"},
            {"series": guard, "values": "50x10"},
        ],
    }


def levels(*names: tuple[str, str]) -> list[dict[str, Any]]:
    """What fires, as promtool is to find it."""
    return [
        {"labels": f'{{severity="{severity}", signal="{signal}"}}', "value": 1} for signal, severity in names
    ]


@pytest.mark.parametrize("spec", PLAIN, ids=lambda spec: spec.name)
def test_a_signal_alerts_above_the_thresholds_of_the_code_and_not_at_them(
    tmp_path: Path, spec: SignalSpec
) -> None:
    thresholds = {"warning": spec.warning, "critical": spec.critical}
    tests = []
    for threshold in {value for value in thresholds.values() if value is not None}:
        for value in (threshold, threshold * 1.001 + 1e-9):
            firing = [
                (spec.name, severity)
                for severity, limit in thresholds.items()
                if limit is not None and value > limit
            ]
            query = {
                "expr": 'count by (signal, severity) (ALERTS{alertstate="firing"})',
                "eval_time": "9m",
                "exp_samples": levels(*firing),
            }
            tests.append({**with_value(spec, value), "promql_expr_test": [query]})
    assert tests
    path = write(tmp_path / "t.yml", {"rule_files": [str(RULES)], "tests": tests})

    said = promtool("test", "rules", str(path))

    assert said.ok, said.text


@pytest.mark.parametrize("name", sorted(DELETES))
def test_a_spike_and_a_standstill_are_as_long_and_as_high_as_in_the_code(name: str) -> None:
    section = name.removeprefix("async_retention_").removesuffix("_delete_count")
    ttl_seconds: int = getattr(Settings(), f"{section}_ttl_seconds")
    days = (ttl_seconds + STALL_MARGIN_SECONDS) // 86_400
    spike, standstill = (rule["expr"] for rule in alerts().values() if rule["labels"].get("signal") == name)

    assert (
        f'> {SPIKE_FACTOR:g} * (max by (job) (async_retention_delete_median_7d{{section="{section}"}})'
        in spike
    )
    assert set(re.findall(r"(\d+)d\]|offset (\d+)d", standstill)) == {(f"{days}", ""), ("", f"{days}")}


def test_every_signal_has_its_alerts_with_the_hint_of_the_code() -> None:
    told: dict[str, dict[str, list[str]]] = {}
    for rule in alerts().values():
        if signal := rule["labels"].get("signal"):
            hints = told.setdefault(signal, {}).setdefault(rule["labels"]["severity"], [])
            hints.append(rule["annotations"]["hint"])

    wanted = {}
    for spec in SPECS:
        severities = [
            severity
            for severity in ("warning", "critical")
            if getattr(spec, severity) is not None or (spec.name in DELETES and severity == "warning")
        ]
        wanted[spec.name] = {each: [spec.hint] * (2 if spec.name in DELETES else 1) for each in severities}
    assert told == wanted


def test_the_queue_is_critical_from_where_the_server_is_not_ready() -> None:
    assert alerts()["AsyncQueueOldestCritical"]["expr"].endswith(f"> {Settings().ready_max_queued_seconds:g}")


# ---------------------------------------------------------------- the same names as in the docs


def test_the_rules_ask_for_metrics_that_there_are() -> None:
    known = metrics() | set(recordings()) | FOREIGN
    rules = [rule for each in groups() for rule in each["rules"]]

    unknown = {word for rule in rules for word in words(rule["expr"])} - known

    assert unknown == set()


def test_each_signal_is_recorded_or_on_the_metrics_page_and_never_both() -> None:
    recorded, exposed = set(recordings()), metrics()

    for spec in SPECS:
        assert (spec.name in recorded) != (spec.name in exposed), spec.name


def test_every_alert_says_what_is_wrong_what_to_do_and_where_to_read_on() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"warning", "critical"}, name
        assert set(rule["annotations"]) == {"summary", "hint", "runbook"}, name
        page, _, fragment = rule["annotations"]["runbook"].partition("#")
        assert fragment in anchors(read(page)), name


def test_the_monitoring_page_lists_every_alert() -> None:
    listed = [code(row[0])[0] for row in rows(read("docs/howto/monitor.md")) if row[0].startswith("`Async")]

    assert listed == list(alerts())
