"""Histograms of numbers and instants, bars of categories: where the bins lie and what falls into them.

Imports nothing of the project beside this package.
"""

# ruff: noqa: S608 - SQL is built of c0, c1, ..., numbers and quoted literals; names from the data never enter it.

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from async_delivery.analyses.profile.load import Column, Table
from async_delivery.analyses.profile.statistics import computable, number_of

MAX_CATEGORIES = 50
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY = 86400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def distribution(
    table: Table, column: Column, entry: dict[str, Any], frequent: list[dict[str, Any]], max_bins: int
) -> dict[str, Any] | None:
    """How the column's values are spread, or None where a picture would say nothing.

    ``{"kind": "histogram", "bins": [{"from", "to", "count"}], "below", "above"}`` for numbers and instants:
    a bin holds from <= value < to (the last one its end too), outliers are counted in ``below`` and ``above``.
    ``{"kind": "bars", "bars": [{"value", "count"}], "other"}`` for categories.
    """
    if entry["count"] == 0:
        return None
    if computable(column, entry):
        return _numbers(table, column, entry, max_bins)
    if column.kind == "time" and column.type != "TIME":
        return _instants(table, column, entry, max_bins)
    if column.kind in ("text", "boolean") and frequent and entry["distinct"] <= MAX_CATEGORIES:
        bars = [{"value": _label(each["value"]), "count": each["count"]} for each in frequent]
        return {"kind": "bars", "bars": bars, "other": entry["count"] - sum(each["count"] for each in bars)}
    return None


def _numbers(table: Table, column: Column, entry: dict[str, Any], max_bins: int) -> dict[str, Any]:
    low, high = float(entry["min"]), float(entry["max"])
    wanted = min(max_bins, max(5, math.ceil(math.sqrt(entry["count"]))))
    whole = not column.is_float and not column.type.startswith("DECIMAL")
    if whole and high - low < max_bins:
        start, step, bins = low - 0.5, 1.0, int(high - low) + 1
    else:
        # Far outliers would press all other values into one bar: they are counted at the edges instead.
        quartile, upper = entry["quantiles"]["p25"], entry["quantiles"]["p75"]
        if quartile is not None and upper is not None and upper > quartile:
            reach = 3 * (upper - quartile)
            low, high = max(low, quartile - reach), min(high, upper + reach)
        start, step, bins = _nice_bins(low, high, wanted, whole=whole)
    return _histogram(table, number_of(column), start, step, bins)


def _nice_bins(low: float, high: float, wanted: int, *, whole: bool) -> tuple[float, float, int]:
    """Start, width and number of at most ``wanted`` bins over low..high, with round edges."""
    if high <= low:
        width = abs(low) * 0.01 or 1.0
        return low - width / 2, width, 1
    exponent = math.floor(math.log10((high - low) / wanted))
    for _ in range(3):
        for factor in (1, 2, 2.5, 5):
            step = factor * 10.0**exponent
            if whole and step < 1:
                continue
            start = math.floor(low / step) * step
            bins = max(1, math.ceil((high - start) / step))
            if bins <= wanted and start + bins * step > start:
                return start, step, bins
        exponent += 1
    return low, (high - low) / wanted, wanted


def _histogram(table: Table, number: str, start: float, step: float, bins: int) -> dict[str, Any]:
    last = start + bins * step
    rows = table.sandbox.query(
        f"WITH x AS (SELECT {number} AS v FROM t) "
        f"SELECT CASE WHEN v < {start!r}::DOUBLE THEN -1 WHEN v > {last!r}::DOUBLE THEN {bins} "
        f"ELSE least(floor((v - {start!r}::DOUBLE) / {step!r}::DOUBLE)::INTEGER, {bins - 1}) END AS b, count(*) "
        "FROM x WHERE v IS NOT NULL GROUP BY b"
    )
    counts: dict[int, int] = dict(rows)
    digits = max(0, 2 - math.floor(math.log10(step))) if step > 0 else 0
    edges = [round(start + index * step, min(digits, 300)) + 0.0 for index in range(bins + 1)]
    return {
        "kind": "histogram",
        "bins": [
            {"from": edges[index], "to": edges[index + 1], "count": counts.get(index, 0)}
            for index in range(bins)
        ],
        "below": counts.get(-1, 0),
        "above": counts.get(bins, 0),
    }


def _instants(table: Table, column: Column, entry: dict[str, Any], max_bins: int) -> dict[str, Any] | None:
    ref = column.ref
    seconds = f"CASE WHEN isfinite({ref}) THEN epoch({ref}::TIMESTAMP) END"
    low, high = table.sandbox.query(f"SELECT min(v), max(v) FROM (SELECT {seconds} AS v FROM t)")[0]
    if low is None:
        return None
    wanted = min(max_bins, max(5, math.ceil(math.sqrt(entry["count"]))))
    step = _nice_seconds((high - low) / wanted, days_only=column.type == "DATE")
    start = math.floor(low / step) * step
    histogram = _histogram(table, seconds, float(start), float(step), int((high - start) // step) + 1)
    try:
        for each in histogram["bins"]:
            each["from"], each["to"] = _instant(each["from"], column), _instant(each["to"], column)
    except OverflowError:  # beyond the year 9999 no chart knows the date
        return None
    return histogram


def _nice_seconds(least: float, *, days_only: bool) -> int:
    """The smallest usual span of at least ``least`` seconds."""
    if not days_only:
        for step in _SECONDS:
            if step >= least:
                return step
    days = max(1, math.ceil(least / _DAY))
    for step in (1, 2, 7, 14, 30, 91, 182, 365):
        if step >= days:
            return step * _DAY
    return math.ceil(days / 365) * 365 * _DAY


def _instant(seconds: float, column: Column) -> str:
    moment = _EPOCH + timedelta(seconds=seconds)
    if column.type == "DATE":
        return moment.date().isoformat()
    text = moment.replace(tzinfo=None).isoformat()
    return f"{text}Z" if column.type == "TIMESTAMP WITH TIME ZONE" else text


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
