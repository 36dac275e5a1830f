"""Write deploy/grafana/async-delivery.json: the one dashboard, in rows traffic, jobs, workers, retention and store.

`python -m scripts.generate_dashboard` writes the file; with `--check` it changes nothing and exits 1 when the file
is not what it makes. Names and thresholds of the signals come from the domain; needs the dev extra.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    GraphTresholdsStyleMode,
    StackingMode,
)

from async_delivery.domain.signal import SignalSpec
from scripts.dashboard_panels import ROWS, Panel, Query

TARGET = Path(__file__).resolve().parents[1] / "deploy/grafana/async-delivery.json"
_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 24, 8


def build() -> dashboard.Dashboard:
    """The dashboard."""
    board = (
        dashboard.Dashboard("Async Delivery")
        .uid("async-delivery")
        .description(
            "Traffic, jobs, workers, retention and store, with the five signals and their thresholds."
        )
        .tags(["async-delivery"])
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Deployment")
            .datasource(_SOURCE)
            .query("label_values(async_store_readable, job)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )
    top = number = 0
    for title, panels in ROWS.items():
        number += 1
        board.with_row(dashboard.Row(title).id(number).grid_pos(model.GridPos(h=1, w=_WIDTH, x=0, y=top)))
        top, left = top + 1, 0
        for panel in panels:
            number += 1
            if left + panel.span > _WIDTH:
                top, left = top + _HEIGHT, 0
            place = model.GridPos(h=_HEIGHT, w=panel.span, x=left, y=top)
            board.with_panel((_number if panel.single else _course)(panel).id(number).grid_pos(place))
            left += panel.span
        top += _HEIGHT
    return board


def _course(panel: Panel) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .title(panel.title)
        .description(_description(panel))
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .fill_opacity(10)
        .legend(common.VizLegendOptions().show_legend(True))
        .tooltip(common.VizTooltipOptions())
        .thresholds(_thresholds(panel.signal))
        .thresholds_style(_style(panel.signal))
    )
    if panel.stacked:
        drawn.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        drawn.with_target(_target(query).ref_id(letter))
    return drawn


def _number(panel: Panel) -> stat.Panel:
    drawn = (
        stat.Panel()
        .title(panel.title)
        .description(_description(panel))
        .datasource(_SOURCE)
        .unit(panel.unit)
        .no_value("no data")
        .color_mode(BigValueColorMode.BACKGROUND if panel.signal else BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(panel.signal))
    )
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        drawn.with_target(_target(query).ref_id(letter))
    return drawn


def _description(panel: Panel) -> str:
    return f"{panel.signal.name}. {panel.signal.hint}" if panel.signal else panel.text


def _target(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).datasource(_SOURCE)


def _thresholds(signal: SignalSpec | None) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=None, color="green")]
    if signal is not None:
        levels = (("orange", signal.warning), ("red", signal.critical))
        # Grafana colors from a threshold on, and a level begins above it: of whole numbers that is the next one.
        whole = 0.0 if signal.unit in {"ratio", "ms"} else 1.0
        steps += [
            model.Threshold(value=value + whole, color=color) for color, value in levels if value is not None
        ]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _style(signal: SignalSpec | None) -> common.GraphThresholdsStyleConfig:
    drawn = signal is not None and (signal.warning is not None or signal.critical is not None)
    mode = GraphTresholdsStyleMode.DASHED if drawn else GraphTresholdsStyleMode.OFF
    return common.GraphThresholdsStyleConfig().mode(mode)


def render() -> str:
    """The file."""
    return json.dumps(build().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(argv: Sequence[str]) -> int:
    """Write or check; the exit code."""
    made = render()
    current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if argv == ["--check"]:
        if made != current:
            print(f"{TARGET.name} is not what the code makes: run python -m scripts.generate_dashboard")
        return int(made != current)
    TARGET.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
