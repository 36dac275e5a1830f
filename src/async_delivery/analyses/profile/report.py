"""The report: one JSON object that grows from stage to stage, with tables and charts for people.

Pure: from what the stages found to what a tenant reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from async_delivery.analyses.profile.charts import correlation_chart, distribution_chart
from async_delivery.analyses.profile.load import PREVIEW_COLUMNS, Table
from async_delivery.analyses.profile.source import Source
from async_delivery.analyses.profile.statistics import QUANTILES, Statistics


@dataclass(slots=True)
class Findings:
    """What is known so far; a stage that has not run yet left its part empty."""

    subject: str | None
    source: Source
    table: Table
    statistics: Statistics = field(default_factory=dict)
    distributions: dict[str, dict[str, Any]] | None = None
    correlations: dict[str, Any] | None = None
    duplicates: dict[str, Any] | None = None


def report(found: Findings, stage: str | None = None) -> dict[str, Any]:
    """The report of what is known; ``stage`` marks the partial result of that stage."""
    document: dict[str, Any] = {
        "report": "profile",
        "subject": found.subject,
        "dataset": {
            "origin": found.source.origin,
            "name": found.source.name,
            "format": str(found.table.format),
            "bytes": found.source.size_bytes,
            "rows": found.table.rows,
            "columns": found.table.columns_in_file,
        },
        "columns": _columns(found),
        "tables": _tables(found),
        "charts": _charts(found),
        "correlations": found.correlations,
        "duplicates": found.duplicates,
        "notes": list(found.table.notes),
    }
    if stage is not None:
        document["stage"] = stage
    return document


def _columns(found: Findings) -> list[dict[str, Any]]:
    documents = []
    for position, column in enumerate(found.table.columns, start=1):
        document: dict[str, Any] = {
            "position": position,
            "name": column.name,
            "type": column.type,
            "kind": column.kind,
            **found.statistics.get(column.ref, {}),
        }
        if found.distributions is not None:
            document["distribution"] = found.distributions.get(column.ref)
        documents.append(document)
    return documents


def _tables(found: Findings) -> list[dict[str, Any]]:
    tables = [_overview(found), _numbers(found), _frequent(found), _correlated(found), _preview(found)]
    return [table for table in tables if table["rows"]]


def _overview(found: Findings) -> dict[str, Any]:
    if not found.statistics:
        names = [[each.name, each.type] for each in found.table.columns]
        return {"title": "Columns", "columns": ["column", "type"], "rows": names}
    keys = ("nulls", "nulls_percent", "distinct", "min", "max")
    rows = [
        [each.name, each.type, *(found.statistics[each.ref].get(key) for key in keys)]
        for each in found.table.columns
    ]
    titles = ["column", "type", "nulls", "nulls %", "distinct", "min", "max"]
    return {"title": "Columns", "columns": titles, "rows": rows}


def _numbers(found: Findings) -> dict[str, Any]:
    rows = []
    for column in found.table.columns:
        entry = found.statistics.get(column.ref, {})
        if column.kind == "number" and entry.get("count"):
            quantiles = [entry["quantiles"][name] for name in QUANTILES]
            rows.append([column.name, entry["mean"], entry["sd"], entry["min"], *quantiles, entry["max"]])
    titles = ["column", "mean", "sd", "min", *QUANTILES, "max"]
    return {"title": "Numbers", "columns": titles, "rows": rows}


def _frequent(found: Findings) -> dict[str, Any]:
    rows = [
        [column.name, each["value"], each["count"], each["percent"]]
        for column in found.table.columns
        for each in found.statistics.get(column.ref, {}).get("top", [])
        if column.kind != "number"
    ]
    return {"title": "Most frequent values", "columns": ["column", "value", "rows", "%"], "rows": rows}


def _correlated(found: Findings) -> dict[str, Any]:
    pairs = found.correlations["strongest"] if found.correlations else []
    rows = [[each["a"], each["b"], each["r"]] for each in pairs]
    return {"title": "Strongest correlations", "columns": ["column", "with", "r"], "rows": rows}


def _preview(found: Findings) -> dict[str, Any]:
    names = [column.name for column in found.table.columns][:PREVIEW_COLUMNS]
    rows = [row[: len(names)] for row in found.table.preview]
    return {"title": "First rows", "columns": names, "rows": rows}


def _charts(found: Findings) -> list[dict[str, Any]]:
    if found.distributions is None:
        return []
    charts = [
        distribution_chart(column.name, column.kind, shape)
        for column in found.table.columns
        if (shape := found.distributions.get(column.ref)) is not None
    ]
    heat = correlation_chart(found.correlations) if found.correlations else None
    return [*charts, heat] if heat else charts
