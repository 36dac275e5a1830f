"""What concerns several columns: Pearson correlations of numbers, and rows that occur more than once."""

# ruff: noqa: S608 - SQL is built of c0, c1, ..., numbers and quoted literals; names from the data never enter it.

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from async_delivery.analyses.profile.load import Table
from async_delivery.analyses.profile.statistics import Statistics, computable, number_of
from async_delivery.analyses.profile.values import percent

MAX_CORRELATED = 20
STRONGEST = 10


def correlations(table: Table, statistics: Statistics) -> dict[str, Any]:
    """``{"method", "columns", "matrix", "strongest"}``; a pair uses the rows where both have a value.

    The matrix is symmetric, with null where a coefficient is undefined. Columns with one value have none.
    """
    usable = [
        each
        for each in table.columns
        if computable(each, statistics[each.ref])
        and statistics[each.ref]["min"] != statistics[each.ref]["max"]
    ]
    columns = usable[:MAX_CORRELATED]
    if len(usable) > len(columns):
        table.notes.append(
            f"correlations of the first {MAX_CORRELATED} of {len(usable)} numeric columns only"
        )
    pairs = list(combinations(range(len(columns)), 2))
    parts = [f"corr({number_of(columns[a])}, {number_of(columns[b])})" for a, b in pairs]
    row = table.sandbox.query(f"SELECT {', '.join(parts)} FROM t")[0] if parts else ()
    matrix: list[list[float | None]] = [
        [1.0 if a == b else None for b in range(len(columns))] for a in range(len(columns))
    ]
    for (a, b), value in zip(pairs, row, strict=True):
        # Six decimals: the digits behind them depend on how threads share the rows.
        r = None if value is None or math.isnan(value) else round(max(-1.0, min(1.0, value)), 6) + 0.0
        matrix[a][b] = matrix[b][a] = r
    known = [(a, b, r) for a, b in pairs if (r := matrix[a][b]) is not None]
    known.sort(key=lambda each: (-abs(each[2]), each[0], each[1]))
    return {
        "method": "pearson",
        "columns": [each.name for each in columns],
        "matrix": matrix,
        "strongest": [{"a": columns[a].name, "b": columns[b].name, "r": r} for a, b, r in known[:STRONGEST]],
    }


def duplicates(table: Table) -> dict[str, Any]:
    """``{"rows", "percent"}``: rows that are equal in every column to an earlier one; nulls equal each other."""
    refs = ", ".join(each.ref for each in table.columns)
    # Hashes first: where all differ, which is usual, no row needs to be compared. Equal hashes are then checked.
    equal_hashes = table.sandbox.query(f"SELECT count(*) - count(DISTINCT hash({refs})) FROM t")[0][0]
    count = 0
    if equal_hashes:
        count = table.sandbox.query(
            f"WITH h AS (SELECT hash({refs}) AS k FROM t GROUP BY k HAVING count(*) > 1), "
            f"g AS (SELECT count(*) AS n FROM t WHERE hash({refs}) IN (SELECT k FROM h) GROUP BY {refs}) "
            "SELECT coalesce(sum(n - 1), 0)::BIGINT FROM g"
        )[0][0]
    return {"rows": count, "percent": percent(count, table.rows)}
