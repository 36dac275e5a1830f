"""The ``profile`` analysis: what is in a data set, in stages, with DuckDB shut in a sandbox.

Imports ``plugins``. duckdb is imported when a job runs, so that the catalogue knows the analysis without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from async_delivery.analyses.profile.distributions import distribution
from async_delivery.analyses.profile.load import Table, load
from async_delivery.analyses.profile.params import ProfileParams
from async_delivery.analyses.profile.relations import correlations, duplicates
from async_delivery.analyses.profile.report import Findings, report
from async_delivery.analyses.profile.source import open_source
from async_delivery.analyses.profile.statistics import count, describe
from async_delivery.plugins import AnalysisError, Context, analysis

__all__ = ["ProfileParams", "profile"]

GIB = 2**30
# Where each stage begins on the way to 100 percent, from the seconds they take on a million rows.
_LOAD, _STATISTICS, _DISTRIBUTIONS, _RELATIONS = 1.0, 45.0, 80.0, 88.0


@analysis("profile", title="Data profile", input="optional", memory_bytes=2 * GIB, requires=("duckdb",))
def profile(params: ProfileParams, context: Context) -> dict[str, Any]:
    """Profile a data set: columns, statistics, distributions, correlations and duplicate rows.

    CSV, Parquet or JSON, uploaded, inline or below the server's data folder. The query is kept as the subject.
    """
    import duckdb

    context.progress(0, "schema", "reading the data set")
    with open_source(context, data=params.data, csv=params.csv, path=params.path) as source:
        table = load(context, source, params, _part(context, _LOAD, _STATISTICS, "schema"))
        with table.sandbox:
            try:
                return _profile(params, context, Findings(context.query, source, table))
            except duckdb.Error as exc:
                kind = type(exc).__name__
                raise AnalysisError(f"DuckDB could not compute the profile ({kind})") from exc


def _profile(params: ProfileParams, context: Context, found: Findings) -> dict[str, Any]:
    table = found.table
    context.partial(report(found, "schema"), percent=_STATISTICS, stage="statistics")
    if not table.rows:
        table.notes.append("the data set has no rows")

    statistics = count(table)
    done = _part(context, _STATISTICS, _DISTRIBUTIONS, "statistics")
    frequent = describe(table, statistics, params.top_values, params.max_bins, done)
    found.statistics = statistics
    context.partial(report(found, "statistics"), percent=_DISTRIBUTIONS, stage="distributions")

    found.distributions = _distributions(params, table, statistics, frequent)
    context.partial(report(found, "distributions"), percent=_RELATIONS, stage="correlations")

    found.correlations = correlations(table, statistics)
    found.duplicates = duplicates(table)
    context.partial(report(found, "correlations"), percent=99, stage="report")
    return report(found)


def _distributions(
    params: ProfileParams, table: Table, statistics: dict[str, Any], frequent: dict[str, Any]
) -> dict[str, Any]:
    shapes = {}
    for column in table.columns:
        entry = statistics[column.ref]
        if shape := distribution(table, column, entry, frequent[column.ref], params.max_bins):
            shapes[column.ref] = shape
    return shapes


def _part(context: Context, start: float, end: float, stage: str) -> Callable[[float], None]:
    """Turns the percentage of one stage into that of the job, and says it when it has grown by one."""
    last = start

    def say(done: float) -> None:
        nonlocal last
        percent = start + (end - start) * done / 100
        if percent >= last + 1:
            last = percent
            context.progress(percent, stage)

    return say
