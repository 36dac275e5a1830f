from __future__ import annotations

import math
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from async_delivery.analyses.data import PENGUINS
from async_delivery.analyses.profile import profile
from async_delivery.analyses.profile import statistics as profile_statistics
from async_delivery.plugins import CancelRequested
from async_delivery.testing import InlineRun, RecordingContext, input_file, run_inline
from tests.analyses.support import column, profiled

DEADLINE_SECONDS = 30


@pytest.fixture(scope="module")
def penguins() -> InlineRun:
    return run_inline(profile, {}, query="Palmer penguins", input=PENGUINS)


def test_the_bundled_penguins_are_counted_as_published(penguins: InlineRun) -> None:
    report = penguins.result

    assert report["subject"] == "Palmer penguins"
    assert report["dataset"] == {
        "origin": "upload",
        "name": "penguins.csv",
        "format": "csv",
        "bytes": PENGUINS.stat().st_size,
        "rows": 344,
        "columns": 8,
    }
    species = column(report, "species")
    assert (species["kind"], species["distinct"], species["nulls"]) == ("text", 3, 0)
    assert [(each["value"], each["count"]) for each in species["top"]] == [
        ("Adelie", 152),
        ("Gentoo", 124),
        ("Chinstrap", 68),
    ]
    bill = column(report, "bill_length_mm")
    assert (bill["nulls"], bill["count"], bill["min"], bill["max"]) == (2, 342, 32.1, 59.6)
    assert bill["mean"] == pytest.approx(43.92193)
    assert bill["sd"] == pytest.approx(5.459584)
    assert bill["quantiles"]["p50"] == 44.45
    assert column(report, "sex")["nulls"] == 11
    assert column(report, "body_mass_g")["type"] == "BIGINT"
    assert report["duplicates"] == {"rows": 0, "percent": 0.0}


def test_the_strongest_correlation_of_the_penguins_is_flipper_with_mass(penguins: InlineRun) -> None:
    found = penguins.result["correlations"]

    assert found["strongest"][0] == {"a": "flipper_length_mm", "b": "body_mass_g", "r": 0.871202}
    size = len(found["columns"])
    assert all(found["matrix"][i][i] == 1.0 for i in range(size))
    assert all(found["matrix"][i][j] == found["matrix"][j][i] for i in range(size) for j in range(size))


def test_each_stage_publishes_what_is_known_so_far(penguins: InlineRun) -> None:
    schema, counted, shaped, related = penguins.partials

    assert [each["stage"] for each in penguins.partials] == [
        "schema",
        "statistics",
        "distributions",
        "correlations",
    ]
    assert "mean" not in schema["columns"][2]
    assert counted["columns"][2]["mean"] == pytest.approx(43.92193)
    assert not counted["charts"]
    assert shaped["charts"]
    assert shaped["correlations"] is None
    assert related == {**penguins.result, "stage": "correlations"}


def test_progress_rises_and_names_its_stage(penguins: InlineRun) -> None:
    percents = [each.percent for each in penguins.progress]

    assert percents == sorted(percents)
    assert percents[0] == 0
    assert all(each.stage for each in penguins.progress)


def test_histograms_hold_every_value_once(penguins: InlineRun) -> None:
    for each in penguins.result["columns"]:
        shape = each["distribution"]
        if shape["kind"] == "histogram":
            inside = sum(bin_["count"] for bin_ in shape["bins"])
            assert inside + shape["below"] + shape["above"] == each["count"]
            assert all(a["to"] == b["from"] for a, b in zip(shape["bins"], shape["bins"][1:], strict=False))
        else:
            assert sum(bar["count"] for bar in shape["bars"]) + shape["other"] == each["count"]


def test_charts_are_vega_lite_with_their_data_inside(penguins: InlineRun) -> None:
    charts = penguins.result["charts"]

    assert len(charts) == 9
    for chart in charts:
        assert chart["spec"]["$schema"] == "https://vega.github.io/schema/vega-lite/v6.json"
        assert chart["spec"]["data"]["values"]
        used = {each["field"] for each in chart["spec"]["encoding"].values()}
        assert used <= set(chart["spec"]["data"]["values"][0])


def test_tables_have_as_many_values_in_each_row_as_columns(penguins: InlineRun) -> None:
    titles = [table["title"] for table in penguins.result["tables"]]

    assert titles == ["Columns", "Numbers", "Most frequent values", "Strongest correlations", "First rows"]
    for table in penguins.result["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_equal_data_give_equal_reports() -> None:
    first, second = (run_inline(profile, {}, input=PENGUINS) for _ in range(2))

    assert first.result == second.result
    assert first.partials == second.partials


def test_statistics_agree_with_those_of_the_standard_library(tmp_path: Path) -> None:
    chance = random.Random(7)
    numbers = [chance.lognormvariate(3, 1) for _ in range(5000)]

    found = column(profiled(tmp_path, "x\n" + "\n".join(map(repr, numbers))), "x")

    assert found["mean"] == pytest.approx(statistics.fmean(numbers), rel=1e-8)
    assert found["sd"] == pytest.approx(statistics.stdev(numbers), rel=1e-8)
    quartiles = statistics.quantiles(numbers, n=4, method="inclusive")
    assert [found["quantiles"][each] for each in ("p25", "p50", "p75")] == pytest.approx(quartiles)
    assert (found["min"], found["max"]) == (min(numbers), max(numbers))
    assert found["distribution"]["above"] > 0, "outliers would press the other bars flat"


def test_whole_numbers_in_a_small_range_get_a_bar_each(tmp_path: Path) -> None:
    report = profiled(tmp_path, "rating\n" + "\n".join(str(n % 5) for n in range(100)))

    bins = column(report, "rating")["distribution"]["bins"]
    assert [(each["from"], each["to"], each["count"]) for each in bins] == [
        (n - 0.5, n + 0.5, 20) for n in range(5)
    ]


def test_instants_get_a_histogram_in_iso_dates(tmp_path: Path) -> None:
    days = "\n".join(f"2024-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29))

    found = column(profiled(tmp_path, "day\n" + days), "day")

    assert (found["kind"], found["min"], found["max"]) == ("time", "2024-01-01", "2024-12-28")
    bins = found["distribution"]["bins"]
    assert sum(each["count"] for each in bins) == 12 * 28
    assert bins[0]["from"] <= "2024-01-01" < bins[0]["to"]


def test_duplicate_rows_are_counted_and_missing_values_equal_each_other(tmp_path: Path) -> None:
    report = profiled(tmp_path, "a,b\n1,x\n1,x\n1,x\n,\n,\n1,y\n")

    assert report["duplicates"] == {"rows": 3, "percent": 50.0}


def test_equally_frequent_values_stand_in_their_own_order(tmp_path: Path) -> None:
    report = profiled(tmp_path, "a\n" + "\n".join(["c", "a", "b"] * 4), top_values=2)

    assert [each["value"] for each in column(report, "a")["top"]] == ["a", "b"]


def test_values_that_are_not_finite_are_counted_apart(tmp_path: Path) -> None:
    report = profiled(tmp_path, '[{"x": 1.5}, {"x": 2.5}, {"x": 1e999}]', "data.json")

    found = column(report, "x")
    assert (found["not_finite"], found["mean"], found["max"]) == (1, 2.0, 2.5)
    assert found["distinct"] == 2


def test_numbers_at_the_edge_of_double_do_not_stop_the_report(tmp_path: Path) -> None:
    report = profiled(tmp_path, "a,b,c\n1e308,12345678901234567890123,1\n-1e308,2,2\n1,3,4\n")

    assert column(report, "a")["mean"] is None
    assert column(report, "b")["max"] == "12345678901234567890123"
    assert column(report, "c")["mean"] == pytest.approx(7 / 3)
    assert any("too large" in note for note in report["notes"])


def test_beyond_the_exact_limit_estimates_are_close_marked_and_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_statistics, "EXACT_ROWS", 1000)
    monkeypatch.setattr(profile_statistics, "SAMPLE_ROWS", 10_000)
    monkeypatch.setattr(profile_statistics, "EXACT_DISTINCT", 100)
    content = "id,group\n" + "\n".join(f"{n},{n % 7}" for n in range(50_000))

    first, second = (profiled(tmp_path, content) for _ in range(2))

    numbers, groups = column(first, "id"), column(first, "group")
    assert numbers["distinct_is_approximate"]
    assert numbers["distinct"] == pytest.approx(50_000, rel=0.1)
    assert numbers["quantiles"]["p50"] == pytest.approx(25_000, rel=0.05)
    assert (groups["distinct"], groups["distinct_is_approximate"]) == (7, False)
    assert groups["top"][0] == {"value": 0, "count": 7143, "percent": 14.29}
    assert any("more than 1,000 rows" in note for note in first["notes"])
    assert first == second


def test_a_file_with_a_header_only_has_columns_and_no_rows(tmp_path: Path) -> None:
    report = profiled(tmp_path, "a,b\n")

    assert report["dataset"]["rows"] == 0
    assert [each["name"] for each in report["columns"]] == ["a", "b"]
    assert "the data set has no rows" in report["notes"]
    assert report["charts"] == []


def test_more_columns_than_asked_for_are_left_out_and_it_says_so(tmp_path: Path) -> None:
    names = [f"n{index}" for index in range(30)]
    content = ",".join(names) + "\n" + ",".join("1" for _ in names) + "\n"

    report = profiled(tmp_path, content, max_columns=10)

    assert [each["name"] for each in report["columns"]] == names[:10]
    assert report["dataset"]["columns"] == 30
    assert any("first 10 of 30 columns" in note for note in report["notes"])


class SlowToCancel(RecordingContext):
    """Cancels itself when the first part of the file has been read."""

    canceled_at = math.nan

    def progress(self, percent: float, stage: str | None = None, message: str | None = None) -> None:
        if percent > 0 and not self.canceled:
            self.cancel()
            type(self).canceled_at = time.monotonic()
        super().progress(percent, stage, message)


def test_cancel_stops_the_reading_of_a_large_file(tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    line = ",".join(f"{n}.5" for n in range(20)) + "\n"
    file.write_text(",".join(f"c{n}" for n in range(20)) + "\n" + line * 600_000)
    workdir = tmp_path / "work"
    workdir.mkdir()
    context = SlowToCancel(workdir, input=input_file(file))
    open_before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(CancelRequested):
        profile.run({}, context)

    assert time.monotonic() - context.canceled_at < 5
    assert context.partials == []
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_cancel_between_two_stages_leaves_the_partials_of_the_first(tmp_path: Path) -> None:
    context = RecordingContext(tmp_path, input=input_file(PENGUINS), cancel_after_partials=2)

    with pytest.raises(CancelRequested):
        profile.run({}, context)

    assert [each["stage"] for each in context.partials] == ["schema", "statistics"]


def test_the_params_schema_describes_every_param() -> None:
    schema: Any = profile.info().params_schema

    assert schema["additionalProperties"] is False
    assert "required" not in schema
    for name, entry in schema["properties"].items():
        assert entry.get("description"), name
