"""The page of metrics and the code name the same series, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from async_delivery.domain.cleanup import Runner
from async_delivery.domain.retention import RetentionPolicy
from async_delivery.domain.signal import SPECS
from async_delivery.engine.retention import run_cleanup
from async_delivery.engine.runtime import Runtime, new_id
from async_delivery.ops.observer import Observer, ObserverSettings
from async_delivery.storage.mode import Mode
from async_delivery.storage.opening import create_store, open_store
from async_delivery.testing import FakeClock
from tests.docs import pages
from tests.engine.support import runtime

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/metrics.md"


class Worker:
    slots, busy, loop_age_seconds = 2, 0, 0.0


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[Observer]:
    clock = FakeClock()
    path = tmp_path / "store.v1.json"
    create_store(path, store_id=new_id(), now=clock.now())
    store = open_store(path, Mode.SERVE)
    rt: Runtime = runtime(store, clock)
    run_cleanup(store, RetentionPolicy(), runner=Runner.COMMAND, now=clock.now())
    yield Observer(
        rt,
        ObserverSettings(version="1", retention=RetentionPolicy(), store_folder=tmp_path),
        worker=Worker,
        draining=lambda: False,
        routes=[("/analyze", "POST")],
        chores=["prune"],
    )
    store.close()


def marked(name: str) -> list[list[str]]:
    text = PAGE.read_text()
    begin = text.index(f"<!-- {name} -->")
    return list(pages.rows(text[begin : text.index("<!-- end -->", begin)]))


def test_the_page_names_every_series_of_the_code_and_no_other(observer: Observer) -> None:
    listed = {
        pages.code(row[0])[0]: (row[1].strip(), set(pages.code(row[2])))
        for table in ("metrics: process", "metrics: store")
        for row in marked(table)
    }
    exposed = dict(_exposed(observer.expose().decode()))

    assert {name: kind for name, (kind, _) in listed.items()} == {
        name: kind for name, (kind, _) in exposed.items()
    }
    for name, (_, labels) in listed.items():
        assert exposed[name][1] == labels, name


def _exposed(text: str) -> Iterator[tuple[str, tuple[str, set[str]]]]:
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        if family.name.startswith(("process_", "python_")):
            continue
        labels: set[str] = set()
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels |= set(sample.labels)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if family.type == "gauge" and name.endswith("_created"):
            continue
        yield name, ("untyped" if family.type == "unknown" else family.type, labels - {"le"})


def test_the_page_shows_the_signals_as_the_code_judges_them() -> None:
    listed = [[cell.strip() for cell in row] for row in marked("signals")]

    assert listed == [
        [
            f"`{spec.name}`",
            spec.unit,
            f"{spec.window_seconds} s" if spec.window_seconds else "",
            _number(spec.warning),
            _number(spec.critical),
        ]
        for spec in SPECS
    ]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:g}"
