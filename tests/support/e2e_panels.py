"""Plain drawing of the committed dashboards from a Prometheus, for the report page.

Each panel's queries run over the time range of the experiment. A stat becomes one number, a table
becomes rows of text, and every other panel becomes lines, or stacked areas where the panel stacks.
Layout, colours, thresholds and value mappings of Grafana are not reproduced.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fleetlimit.core.quota import SECOND_US
from support import e2e_figure as drawn
from support.boards import BOARDS, filled, panels
from support.e2e_watch import Mark

ApiGet = Callable[[str, Mapping[str, str]], Any]
"""Sends parameters to a path of Prometheus' HTTP API and returns the response's `data`.

It raises OSError or ValueError when the query fails.
"""

_MAX_POINTS: Final = 60
"""Upper bound on the points of a line, which bounds the size of the SVG."""
_RATE_WINDOW_S: Final = 20
"""Minimum of `$__rate_interval`, in seconds: four scrapes, as in Grafana."""
_UNITS: Final = {
    "bytes": (2.0**-20, "MiB"),
    "cps": (1.0, "per second"),
    "ops": (1.0, "operations per second"),
    "percentunit": (100.0, "%"),
    "reqps": (1.0, "requests per second"),
    "s": (1.0, "seconds"),
}
"""Factor and name of the displayed unit, for each of Grafana's units."""
_LABEL: Final = re.compile(r"{{\s*(\w+)\s*}}")
_COLORS: Final = (
    *(drawn.BLUE, drawn.ORANGE, drawn.GREEN, drawn.PURPLE),
    *(drawn.SKY, drawn.VERMILION, drawn.YELLOW, drawn.BLACK),
)
_MAX_MESSAGE, _MAX_NAMES, _MAX_CHARACTERS, _MAX_ROWS = 70, 9, 22, 12
"""Characters of a message, names in a legend, characters of a name, rows of a table."""
_LINE_CHARACTERS, _COLUMN_GAP = 150, 3
"""Characters in the width of a table, and between two of its columns."""
_COLUMNS: Final = {"stat": 5, "table": 1}
_GRAPH_COLUMNS, _LEGEND_COLUMNS = 2, 3
"""Panels in a row of the figure, by type and for graphs; names in a row of a legend."""
_WIDTH, _TITLE, _NUMBER, _GRAPH, _ROW = 11.0, 0.4, 0.6, 2.2, 0.18
"""Inches: the width of the drawing; heights of its title, a number, a graph and a table's row."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Time range of a drawing; start and end are in microseconds since the epoch."""

    start_us: int
    end_us: int

    @property
    def seconds(self) -> int:
        """Length in seconds, rounded up."""
        return math.ceil((self.end_us - self.start_us) / SECOND_US)

    @property
    def points(self) -> range:
        """Times of a line's points, in seconds since the start."""
        return range(0, self.seconds + 1, max(1, math.ceil(self.seconds / _MAX_POINTS)))

    def substitute(self, expression: str) -> str:
        """Return a query with Grafana's variables replaced, each with its option `All`."""
        rate_window_s = max(_RATE_WINDOW_S, 2 * self.points.step)
        expression = expression.replace("$__rate_interval", f"{rate_window_s}s")
        return filled(expression.replace("$__range", f"{self.seconds}s"))


@dataclass(frozen=True, slots=True)
class Series:
    """Values that a query returned for one set of labels.

    Args:
        query: `refId` of the query.
        name: Name in the legend.
        labels: The labels.
        values: A value for each point of the time range, NaN where Prometheus has none; an instant
            query has one value, at the end.
    """

    query: str
    name: str
    labels: Mapping[str, str]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Result:
    """Results of a panel's queries.

    Args:
        panel: The panel.
        series: Series of all its queries.
        message: Text in place of a drawing; empty when there are series.
    """

    panel: Mapping[str, Any]
    series: Sequence[Series]
    message: str = ""


def draw(get: ApiGet, start_us: int, end_us: int, marks: Sequence[Mark] = ()) -> dict[str, str]:
    """Return an SVG for the uid of each dashboard. The panel of a failing query has the error.

    Start and end are in microseconds since the epoch. Each graph has the marks.
    """
    span = TimeRange(start_us, end_us)
    drawings = {}
    for uid, board in sorted(BOARDS.items()):
        results = [query(get, each, span) for each in panels(board) if each["type"] != "text"]
        drawings[uid] = drawn.svg(figure(board["title"], results, span, marks))
    return drawings


def query(get: ApiGet, panel: Mapping[str, Any], span: TimeRange) -> Result:
    """Return the results of a panel's queries."""
    if (source := panel["datasource"]["type"]) != "prometheus":
        return Result(panel, (), f"needs {source.capitalize()}")
    try:
        series = [each for target in panel["targets"] for each in _fetch(get, target, span)]
    except (OSError, ValueError) as error:
        return Result(panel, (), f"query failed: {error}")
    missing = panel["fieldConfig"]["defaults"].get("noValue", "no data")
    return Result(panel, series, "" if series else missing)


def _fetch(get: ApiGet, target: Mapping[str, Any], span: TimeRange) -> list[Series]:
    """Return the series of one query that have a finite value."""
    expression, start_s = span.substitute(target["expr"]), span.start_us / SECOND_US
    end = f"{span.end_us / SECOND_US:.3f}"
    if target.get("instant"):
        data = get("query", {"query": expression, "time": end})
        found = [(each["metric"], [_number(each["value"][1])]) for each in data["result"]]
    else:
        times = {"start": f"{start_s:.3f}", "end": end, "step": str(span.points.step)}
        data = get("query_range", {"query": expression} | times)
        found = [(each["metric"], _at_points(each["values"], span)) for each in data["result"]]
    return [
        Series(target["refId"], _legend(target, labels), labels, values)
        for labels, values in found
        if not all(map(math.isnan, values))
    ]


def _at_points(values: Sequence[tuple[float, str]], span: TimeRange) -> list[float]:
    numbers = {round(at - span.start_us / SECOND_US): _number(value) for at, value in values}
    return [numbers.get(at, math.nan) for at in span.points]


def _number(text: str) -> float:
    return value if math.isfinite(value := float(text)) else math.nan


def _legend(target: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    legend = target.get("legendFormat") or ""
    return _LABEL.sub(lambda label: labels.get(label[1], ""), legend).strip()


def figure(
    title: str, results: Sequence[Result], span: TimeRange, marks: Sequence[Mark] = ()
) -> Figure:
    """Return the figure of a dashboard, with its panels in rows of the same type."""
    bands: list[list[Result]] = []
    for each in results:
        if bands and _columns(bands[-1][0]) == _columns(each) > len(bands[-1]):
            bands[-1].append(each)
        else:
            bands.append([each])
    heights = [max(map(_height, band)) for band in bands]
    start = datetime.fromtimestamp(span.start_us // SECOND_US, UTC)
    header = f"{title} {span.seconds} seconds from {start:%Y-%m-%d %H:%M:%S} UTC."
    if marks:
        events = (f"{each.what} at {_seconds(each, span):.0f} s" for each in marks)
        header += f" Dashed: {', '.join(events)}."
    with drawn.style():
        whole = Figure(figsize=(_WIDTH, _TITLE + sum(heights)), layout="constrained")
        whole.suptitle(header, x=0.01, ha="left")
        rows = whole.add_gridspec(len(bands), 1, height_ratios=heights)
        for row, band in enumerate(bands):
            cells = rows[row].subgridspec(1, _columns(band[0]))
            for column, result in enumerate(band):
                axes = whole.add_subplot(cells[column])
                _draw_panel(axes, result, span)
                for mark in marks if axes.axison else ():
                    x = _seconds(mark, span)
                    axes.axvline(x, color=drawn.BLACK, lw=0.8, ls=(0, (4, 2)))
    return whole


def _columns(result: Result) -> int:
    return _COLUMNS.get(result.panel["type"], _GRAPH_COLUMNS)


def _height(result: Result) -> float:
    if not result.series or result.panel["type"] == "stat":
        return _NUMBER
    return _NUMBER + _ROW * len(table(result)) if result.panel["type"] == "table" else _GRAPH


def _seconds(mark: Mark, span: TimeRange) -> float:
    return (mark.at_us - span.start_us) / SECOND_US


def _unit(panel: Mapping[str, Any]) -> tuple[float, str]:
    return _UNITS.get(panel["fieldConfig"]["defaults"].get("unit", ""), (1.0, ""))


def _draw_panel(axes: Axes, result: Result, span: TimeRange) -> None:
    kind, title, (_, unit) = result.panel["type"], result.panel["title"], _unit(result.panel)
    is_graph = result.series and kind not in _COLUMNS
    hidden = len(result.series) - _MAX_NAMES
    title += f", {unit}" if unit and is_graph else ""
    title += f", {hidden} without a name" if hidden > 0 and is_graph else ""
    axes.set_title(title, loc="left")
    if is_graph:
        _draw_graph(axes, result, span)
        return
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    if result.message:
        axes.text(0, 0.9, result.message[:_MAX_MESSAGE], va="top")
    elif kind == "stat":
        axes.text(0, 0.9, number(result), va="top", size=13)
    else:
        _draw_table(axes, table(result))


def _draw_graph(axes: Axes, result: Result, span: TimeRange) -> None:
    factor, _ = _unit(result.panel)
    low = [0.0] * len(span.points)
    for position, (series, color) in enumerate(zip(result.series, cycle(_COLORS), strict=False)):
        # matplotlib leaves a label that begins with an underscore out of the legend.
        name = series.name[-_MAX_CHARACTERS:] if position < _MAX_NAMES else "_"
        values = [value * factor for value in series.values]
        if is_stacked(result.panel, series.name):
            high = stacked(low, values)
            axes.fill_between(span.points, low, high, color=color, lw=0, label=name)
            low = high
        else:
            # A line over areas, such as the permitted rate, must not have the colour of an area.
            axes.plot(span.points, values, color=drawn.BLACK if any(low) else color, label=name)
    axes.set_xlim(0, span.seconds)
    axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # a line at 0 is visible
    axes.locator_params(nbins=4)
    axes.tick_params(left=False, bottom=False)
    axes.grid(axis="x", visible=False)
    if any(each.name for each in result.series):
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.12), ncols=_LEGEND_COLUMNS, fontsize=7.5
        )


def is_stacked(panel: Mapping[str, Any], name: str) -> bool:
    """Return whether a panel stacks a series; an override may exclude it."""
    config = panel["fieldConfig"]
    stacking = config["defaults"].get("custom", {}).get("stacking", {})
    for override in config["overrides"]:
        matcher, pattern = override["matcher"]["id"], override["matcher"]["options"]
        if re.search(pattern.strip("/"), name) if matcher == "byRegexp" else pattern == name:
            changed = {each["id"]: each["value"] for each in override["properties"]}
            stacking = changed.get("custom.stacking", stacking)
    return bool(stacking.get("mode") == "normal")


def stacked(low: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the upper edge of an area on top of another one. A missing value adds nothing."""
    return [
        base + (0 if math.isnan(value) else value) for base, value in zip(low, values, strict=True)
    ]


def number(result: Result) -> str:
    """Return the number of a stat with its unit: the value of its first series."""
    factor, unit = _unit(result.panel)
    return f"{result.series[0].values[-1] * factor:.4g} {unit}".strip()


def table(result: Result) -> list[list[str]]:
    """Return the rows of a table, the header first.

    A row has a set of labels and the value of each query for it. The panel's `organize`
    transformation gives the order and the names of the columns.
    """
    [organized] = [
        each["options"] for each in result.panel["transformations"] if each["id"] == "organize"
    ]
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for each in result.series:
        row = rows.setdefault(tuple(sorted(each.labels.items())), dict(each.labels))
        row["Value" if len(result.panel["targets"]) == 1 else f"Value #{each.query}"] = (
            f"{each.values[-1]:.4g}"
        )
    keys = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    header = [organized["renameByName"].get(key, key) for key in keys]
    return [header, *([row.get(key, "") for key in keys] for row in rows.values())][: _MAX_ROWS + 1]


def _draw_table(axes: Axes, rows: Sequence[Sequence[str]]) -> None:
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) + _COLUMN_GAP for column in columns]
    for position, column in enumerate(columns):
        left = sum(widths[:position]) / max(sum(widths), _LINE_CHARACTERS)
        axes.text(left, 0.95, "\n".join(column), va="top", linespacing=1.4)
