"""The page of logs and the code name the same events, fields, levels and attributes, both ways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from async_delivery.ops.facts import DROPPED, FACTS, MESSAGE
from async_delivery.ops.traces import OUTCOMES
from tests.docs import pages

SOURCE = pages.ROOT / "src/async_delivery"
PAGE = pages.read("docs/reference/logs.md")
_FACT = re.compile(r"[a-z]+\.[a-z_]+\Z")
# Who tells a fact, by the name of the function or class that is called with its name.
_TELLERS = {"emit", "span", "_told", "Complaints"}


def table(name: str) -> list[list[str]]:
    begin = PAGE.index(f"<!-- {name} -->")
    return list(pages.rows(PAGE[begin : PAGE.index("<!-- end -->", begin)]))


def told_facts() -> Iterator[tuple[str, str]]:
    """Every fact that the code tells, and where."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _TELLERS:
                for value in (one.value for one in node.args if isinstance(one, ast.Constant)):
                    if isinstance(value, str) and _FACT.match(value):
                        yield value, f"{path.relative_to(SOURCE)}:{node.lineno}"


def test_the_page_has_every_event_with_its_level_fields_and_meaning() -> None:
    listed = [
        (pages.code(row[0]), row[1].strip(), pages.code(row[2]), row[3].strip()) for row in table("events")
    ]

    assert listed == [([name], told.level, list(told.fields), told.meaning) for name, told in FACTS.items()]


def test_every_fact_that_is_told_anywhere_has_its_line_in_the_log_or_is_no_fact() -> None:
    found = dict(told_facts())

    assert len(found) > 20
    assert {name: where for name, where in found.items() if name not in FACTS} == {}


def test_the_log_knows_no_fact_that_nobody_tells() -> None:
    assert set(FACTS) - {name for name, _ in told_facts()} == {MESSAGE, DROPPED}


def test_the_page_has_every_attribute_of_the_spans() -> None:
    listed = {name for row in table("spans") for name in pages.code(row[3])}
    text = (SOURCE / "ops/traces.py").read_text()
    ours = {f"async_delivery.{name}" for name in re.findall(r'f"\{PREFIX\}(\w+)"', text)}
    general = set(re.findall(r'"((?:http|error)\.[a-z_.]+)"', text))

    assert listed == ours | general
    assert set(OUTCOMES) <= set(FACTS)


def test_the_example_on_the_page_is_a_line_of_the_log() -> None:
    from async_delivery.ops.accesslog import measure_log

    (example,) = [fence for fence in pages.fences(PAGE) if fence.language == "json"]

    figures = measure_log([example.text.encode()])

    assert (figures.requests, figures.answers_5m, figures.p95_ms) == (1, 1, 1.25)
