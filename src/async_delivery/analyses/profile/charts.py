"""Vega-Lite specifications with their data inside. Field names are fixed; what tenants wrote is data or a title."""

from __future__ import annotations

from typing import Any

from async_delivery.analyses.profile.values import cut

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_TITLE_LIMIT = 80


def distribution_chart(name: str, kind: str, shape: dict[str, Any]) -> dict[str, Any]:
    """The chart of one column's ``distribution``; ``kind`` is the column's."""
    label = cut(name, _TITLE_LIMIT)
    if shape["kind"] == "bars":
        return _bars(label, shape)
    outside = shape["below"] + shape["above"]
    title = f"{label} ({outside:,} outliers not shown)" if outside else label
    scale = {"type": "temporal"} if kind == "time" else {"type": "quantitative", "bin": {"binned": True}}
    spec = {
        "$schema": SCHEMA,
        "width": 360,
        "height": 200,
        "data": {"values": shape["bins"]},
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "x": {"field": "from", "title": label, **scale},
            "x2": {"field": "to"},
            "y": {"field": "count", "type": "quantitative", "title": "rows"},
        },
    }
    return {"title": title, "spec": spec}


def correlation_chart(found: dict[str, Any]) -> dict[str, Any] | None:
    """A heat map of the matrix, or None for fewer than two columns."""
    names = [cut(name, _TITLE_LIMIT) for name in found["columns"]]
    if len(names) < 2:
        return None
    values = [
        {"a": a, "b": b, "r": found["matrix"][row][column]}
        for row, a in enumerate(names)
        for column, b in enumerate(names)
    ]
    spec = {
        "$schema": SCHEMA,
        "width": {"step": 28},
        "height": {"step": 28},
        "data": {"values": values},
        "mark": {"type": "rect", "tooltip": True},
        "encoding": {
            "x": {"field": "a", "type": "nominal", "sort": None, "title": None},
            "y": {"field": "b", "type": "nominal", "sort": None, "title": None},
            "color": {
                "field": "r",
                "type": "quantitative",
                "title": "r",
                "scale": {"domain": [-1, 1], "scheme": "blueorange"},
            },
        },
    }
    return {"title": "Correlations", "spec": spec}


def _bars(label: str, shape: dict[str, Any]) -> dict[str, Any]:
    values = list(shape["bars"])
    title = f"{label} ({shape['other']:,} rows in other values)" if shape["other"] else label
    spec = {
        "$schema": SCHEMA,
        "width": 360,
        "height": {"step": 18},
        "data": {"values": values},
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "x": {"field": "count", "type": "quantitative", "title": "rows"},
            "y": {"field": "value", "type": "nominal", "sort": None, "title": label},
        },
    }
    return {"title": title, "spec": spec}
