"""Writes the Grafana dashboards: `python deploy/grafana`; with --check, says which are old."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from boards import BOARDS
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import SELECTOR, Board, Panel

_FOLDER = Path(__file__).parent / "dashboards"
_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_OF_VARIABLE = {
    "job": "label_values(treeserve_ready, job)",
    "instance": 'label_values(treeserve_ready{job=~"$job"}, instance)',
    "tenant": f"label_values(treeserve_calls_total{{{SELECTOR}}}, tenant)",
}


def render(board: Board) -> str:
    """As JSON that Grafana takes."""
    return JSONEncoder(sort_keys=True, indent=2).encode(_build(board).build()) + "\n"


def _build(board: Board) -> builders.Dashboard:
    links = builders.DashboardLink("treeserve").type(dashboard.DashboardLinkType.DASHBOARDS)
    built = (
        builders.Dashboard(board.title)
        .uid(f"treeserve-{board.name}")
        .description(board.description)
        .tags(["treeserve"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(links.tags(["treeserve"]).as_dropdown(True).include_vars(True).keep_time(True))
        .with_variable(builders.DatasourceVariable("datasource").label("Source").type("prometheus"))
    )
    for name in board.variables:
        built = built.with_variable(_variable(name))
    ids = itertools.count(1)
    for title, panels in board.rows.items():
        built = built.with_row(builders.Row(title).id(next(ids)))
        for panel in panels:
            built = built.with_panel(_build_panel(panel).id(next(ids)))
    return built


def _variable(name: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_SOURCE)
        .query(_OF_VARIABLE[name])
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


def _build_panel(panel: Panel) -> "timeseries.Panel | stat.Panel | heatmap.Panel":
    built = _new_panel(panel)
    built = (
        built.title(panel.title)
        .description(panel.question)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .span(panel.span)
        .height(_HEIGHT // 2 if panel.look == "number" else _HEIGHT)
    )
    if panel.unit == "percentunit":
        built = built.min(0).max(1)
    for letter, query in zip("ABCDEFGH", _targets(panel), strict=False):
        built = built.with_target(query.ref_id(letter))
    return built


def _new_panel(panel: Panel) -> "timeseries.Panel | stat.Panel | heatmap.Panel":
    if panel.look == "number":
        return stat.Panel()
    if panel.look == "heat":
        return heatmap.Panel().calculate(False)
    lines = timeseries.Panel().axis_soft_min(0).line_width(1)
    table = common_builders.VizLegendOptions().show_legend(True).calcs(["mean", "last"])
    lines = lines.legend(
        table.display_mode(common.LegendDisplayMode.TABLE).placement(common.LegendPlacement.BOTTOM)
    )
    if panel.look != "stacked":
        return lines.fill_opacity(8)
    stacking = common_builders.StackingConfig().mode(common.StackingMode.NORMAL)
    return lines.fill_opacity(40).stacking(stacking)


def _targets(panel: Panel) -> Iterator[prometheus.Dataquery]:
    for expression, legend in panel.queries:
        query = prometheus.Dataquery().expr(expression).legend_format(legend).datasource(_SOURCE)
        query = query.format(PromQueryFormat.HEATMAP) if panel.look == "heat" else query
        yield query.instant() if panel.look == "number" else query.range()


def main(arguments: list[str]) -> int:
    """Write every dashboard, or check that what is there is what would be written."""
    wanted = {f"{board.name}.json": render(board) for board in BOARDS}
    if arguments == ["--check"]:
        there = {path.name: path.read_text() for path in _FOLDER.glob("*.json")}
        old = sorted(name for name in wanted | there if wanted.get(name) != there.get(name))
        print(*(f"{name} is old: run python deploy/grafana" for name in old), sep="\n", end="")
        return bool(old)
    if arguments:
        print(f"--check or nothing, not {arguments[0]}", file=sys.stderr)
        return 2
    for name, text in wanted.items():
        (_FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
