"""Counts, moments, quantiles and most frequent values of every column. Imports ``plugins`` through the sandbox.

Up to EXACT_ROWS rows everything is exact. Beyond, quantiles and the values of columns with many distinct ones
come from a sample chosen by the hash of the whole row: the same data always give the same sample.
"""

# ruff: noqa: S608 - SQL is built of c0, c1, ..., numbers and quoted literals; names from the data never enter it.

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from async_delivery.analyses.profile.load import Column, Table
from async_delivery.analyses.profile.values import TEXT_LIMIT, cut, iso, percent, plain, rounded

EXACT_ROWS = 4_000_000
SAMPLE_ROWS = 1_000_000
EXACT_DISTINCT = 100_000
WORTH_LISTING = 10
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
# Squares of larger numbers leave the range of a double; DuckDB stops the whole query then.
_LARGEST = 1e150
_APPROXIMATE = (
    "more than {exact:,} rows: distinct counts are estimates (HyperLogLog, about 2 %), quantiles and the most "
    "frequent values of columns with many distinct ones come from {sampled:,} rows chosen by their hash"
)
Statistics = dict[str, dict[str, Any]]


def count(table: Table) -> Statistics:
    """Per column (by ref): non-null count, nulls, min, max, and values that are not finite."""
    parts: list[str] = []
    for column in table.columns:
        low, high = _extremes(column)
        finite = f"count(*) FILTER (WHERE NOT isfinite({column.ref}))" if column.is_float else "0"
        parts += [f"count({column.ref})", low, high, finite]
    row = table.sandbox.query(f"SELECT {', '.join(parts)} FROM t")[0]
    statistics: Statistics = {}
    for index, column in enumerate(table.columns):
        present, low, high, odd = row[4 * index : 4 * index + 4]
        entry: dict[str, Any] = {
            "count": present,
            "nulls": table.rows - present,
            "nulls_percent": percent(table.rows - present, table.rows),
            "min": _shown(column, low),
            "max": _shown(column, high),
        }
        if odd:
            entry["not_finite"] = odd
        statistics[column.ref] = entry
    return statistics


def describe(
    table: Table, statistics: Statistics, top: int, bars: int, report: Callable[[float], None]
) -> dict[str, list[dict[str, Any]]]:
    """Fill in mean, sd, quantiles, distinct and top values; the most frequent values for charts, by ref.

    top     values listed in the statistics
    bars    values kept for charts
    """
    _moments(table, statistics)
    source, factor = "t", 1
    estimates: dict[str, int] = {}
    if table.rows > EXACT_ROWS:
        source, factor = "s", _sample(table)
        sampled = int(table.sandbox.query("SELECT count(*) FROM s")[0][0])
        table.notes.append(_APPROXIMATE.format(exact=EXACT_ROWS, sampled=sampled))
        estimates = _estimate_distinct(table)
    frequent: dict[str, list[dict[str, Any]]] = {}
    for number, column in enumerate(table.columns):
        entry = statistics[column.ref]
        if column.kind == "number":
            entry["quantiles"] = _quantiles(table, column, source)
        estimate = estimates.get(column.ref, 0)
        counted = estimate <= EXACT_DISTINCT  # a table of few groups is cheap over any number of rows
        distinct, values = _frequent(table, column, "t" if counted else source, max(top, bars))
        if not counted:
            distinct = min(estimate, entry["count"])
            for value in values:
                value["count"] = min(value["count"] * factor, entry["count"])
                value["percent"] = percent(value["count"], entry["count"])
        entry["distinct"] = distinct
        entry["distinct_is_approximate"] = not counted
        entry["unique"] = counted and distinct == entry["count"] > 1
        if entry["unique"] and distinct > WORTH_LISTING:
            values = []  # each once: there is no most frequent one
        entry["top"] = values[:top]
        frequent[column.ref] = values[:bars]
        report(100 * (number + 1) / len(table.columns))
    return frequent


def number_of(column: Column) -> str:
    """SQL for the column as a finite double, or NULL."""
    if column.is_float:
        return f"CASE WHEN isfinite({column.ref}) THEN {column.ref}::DOUBLE END"
    return f"{column.ref}::DOUBLE"


def computable(column: Column, entry: dict[str, Any]) -> bool:
    """True if the column is a number whose squares still are."""
    if column.kind != "number" or entry["min"] is None:
        return False
    return max(abs(float(entry["min"])), abs(float(entry["max"]))) < _LARGEST


def _extremes(column: Column) -> tuple[str, str]:
    ref = column.ref
    match column.kind:
        case "number" if column.is_float:
            # Bound first: min() takes NaN for the largest number.
            return f"min({ref}) FILTER (WHERE isfinite({ref}))", f"max({ref}) FILTER (WHERE isfinite({ref}))"
        case "number":
            return f"min({ref})", f"max({ref})"
        case "text":
            return (
                f"left(min({ref}::VARCHAR), {TEXT_LIMIT + 1})",
                f"left(max({ref}::VARCHAR), {TEXT_LIMIT + 1})",
            )
        case "time":
            return f"min({ref})::VARCHAR", f"max({ref})::VARCHAR"
        case _:
            return "NULL", "NULL"


def _shown(column: Column, value: Any) -> Any:
    return iso(value) if column.kind == "time" else plain(value)


def _moments(table: Table, statistics: Statistics) -> None:
    columns = [each for each in table.columns if each.kind == "number"]
    good = [each for each in columns if computable(each, statistics[each.ref])]
    parts = [f"favg({number_of(each)}), stddev_samp({number_of(each)})" for each in good]
    row = table.sandbox.query(f"SELECT {', '.join(parts)} FROM t")[0] if parts else ()
    for each in columns:
        statistics[each.ref] |= {"mean": None, "sd": None}
    for index, each in enumerate(good):
        mean, sd = row[2 * index : 2 * index + 2]
        spread = 0.0 if sd is None or not math.isfinite(sd) else sd
        statistics[each.ref] |= {"mean": rounded(mean, spread), "sd": rounded(sd, 0.0)}
    if too_large := [
        each for each in columns if each not in good and statistics[each.ref]["min"] is not None
    ]:
        names = ", ".join(cut(each.name, 80) for each in too_large)
        table.notes.append(f"numbers too large for mean, deviation, histogram and correlation: {names}")


def _quantiles(table: Table, column: Column, source: str) -> dict[str, Any]:
    shares = list(QUANTILES.values())
    sql = f"SELECT quantile_cont({number_of(column)}, {shares}) FROM {source}"
    values = table.sandbox.query(sql)[0][0] or [None] * len(shares)
    return {name: rounded(value, 0.0, 12) for name, value in zip(QUANTILES, values, strict=True)}


def _frequent(table: Table, column: Column, source: str, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """Number of distinct values, and the most frequent ones; equally frequent ones in their own order."""
    ref = column.ref
    value = f"{ref}::VARCHAR" if column.kind == "other" else ref
    if column.is_float:
        value = f"CASE WHEN isfinite({ref}) THEN {ref} END"
    shown = {"time": "v::VARCHAR", "text": f"left(v::VARCHAR, {TEXT_LIMIT + 1})"}.get(column.kind, "v")
    rows = table.sandbox.query(
        f"WITH x AS (SELECT {value} AS v FROM {source}), "
        "g AS MATERIALIZED (SELECT v, count(*) AS n FROM x WHERE v IS NOT NULL GROUP BY v), "
        "d AS (SELECT count(*) AS groups, sum(n) AS total FROM g) "
        f"SELECT d.groups, d.total, {shown}, n FROM d LEFT JOIN (SELECT * FROM g ORDER BY n DESC, v "
        f"LIMIT {limit}) ON true ORDER BY n DESC, v"
    )
    distinct, total = rows[0][0], rows[0][1] or 0
    values = [
        {"value": _shown(column, each), "count": n, "percent": percent(n, total)}
        for _, _, each, n in rows
        if n is not None
    ]
    return distinct, values


def _sample(table: Table) -> int:
    """Make the table ``s`` and return how many rows of ``t`` each of its rows stands for."""
    factor = math.ceil(table.rows / SAMPLE_ROWS)
    refs = ", ".join(each.ref for each in table.columns)
    table.sandbox.query(f"CREATE TABLE s AS SELECT * FROM t WHERE hash({refs}) % {factor} = 0")
    return factor


def _estimate_distinct(table: Table) -> dict[str, int]:
    parts = [f"approx_count_distinct({each.ref})" for each in table.columns]
    row = table.sandbox.query(f"SELECT {', '.join(parts)} FROM t")[0]
    return {each.ref: int(n) for each, n in zip(table.columns, row, strict=True)}
