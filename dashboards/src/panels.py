"""Panel builders: every stat, graph, timeline, heatmap, bar gauge, table and text looks alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import loki as loki_queries
from grafana_foundation_sdk.builders import prometheus as prometheus_queries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import DashboardLink as DashboardLinkModel
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    FieldConfig,
    FieldConfigSource,
    GridPos,
    Panel,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

import style
from style import NEUTRAL, NOT_SCRAPED, NoData, Steps, ValueTexts

PROMETHEUS: Final = DataSourceRef("prometheus", "${datasource}")
LOKI: Final = DataSourceRef("loki", "${loki}")
ADVICE_ROW: Final = 900
"""Id of the row with the advice table; the table's own id is the next one."""

_MIN_INTERVAL: Final = "15s"
"""Shortest step of a graph: the shortest usual scrape interval."""
_REF_IDS: Final = "ABCDEFGHIJKLMNOP"
"""Ids of the queries of a panel, in Grafana's order."""


@dataclass(frozen=True, slots=True)
class Card:
    """Common part of every panel.

    Args:
        id: Never changed and never reused, because alerts link to it.
        title: Title, unique on its dashboard.
        description: Text of the info icon.
        width: Columns of Grafana's grid, which has 24.
        height: Units of the grid.
    """

    id: int
    title: str
    description: str
    width: int = 12
    height: int = 8


def small(id_: int, title: str, description: str, width: int = 4) -> Card:
    """Return the card of a stat panel in the first row."""
    return Card(id_, title, description, width, 4)


@dataclass(frozen=True, slots=True)
class Query:
    """Query of a graph.

    Args:
        expression: PromQL or LogQL.
        legend: Name of each series, with labels in double braces.
        exemplars: Whether to show exemplars.
    """

    expression: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """Data link of a value or a table cell."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a table.

    Args:
        title: Column header.
        expression: Instant query; its labels identify the row.
        unit: Grafana unit.
        decimals: Digits after the decimal point; chosen by Grafana if left out.
        steps: Thresholds of the cell colour.
        texts: Texts that replace values.
    """

    title: str
    expression: str
    unit: str = "short"
    decimals: int | None = None
    steps: Steps = ()
    texts: ValueTexts = field(default_factory=dict)


def stat_panel(
    card: Card,
    expression: str,
    *,
    unit: str = "short",
    steps: Steps = NEUTRAL,
    texts: ValueTexts | None = None,
    decimals: int | None = None,
    no_data: NoData = NOT_SCRAPED,
) -> Panel:
    """Return one value on a background in its threshold's colour."""
    panel = (
        stat.Panel()
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(style.thresholds(steps))
        .mappings([*style.value_mappings(texts or {}), style.no_data_mapping(no_data)])
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .with_target(prometheus_queries.Dataquery().expr(expression).instant().ref_id("A"))
        .build()
    )
    _defaults(panel).decimals = decimals
    return _finish(panel, card, unit, no_data)


def graph_panel(
    card: Card,
    *queries: Query,
    unit: str = "short",
    stacked: bool = False,
    colors: Mapping[str, str] | None = None,
    dashed: str = "",
    links: Sequence[Link] = (),
    no_data: NoData = NOT_SCRAPED,
) -> Panel:
    """Return a time series graph.

    Args:
        card: Id, title, description and size.
        queries: At most 16.
        unit: Grafana unit.
        stacked: Whether series are stacked.
        colors: Fixed colours by series name.
        dashed: Suffix of the names of limit series, which are dashed and never stacked.
        links: Data links of the series.
        no_data: Shown without series.
    """
    builder = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .min(0)
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
        .targets([_range(query, ref) for query, ref in zip(queries, _REF_IDS, strict=False)])
    )
    if stacked:
        builder.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if links:
        builder.data_links(_data_links(links))
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        builder.override_by_name(name, [DynamicConfigValue("color", fixed)])
    if dashed:
        limit = [
            DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            DynamicConfigValue("custom.fillOpacity", 0),
            DynamicConfigValue("custom.stacking", {"mode": "none", "group": "A"}),
        ]
        builder.override_by_regexp(f"/{dashed}$/", limit)
    return _finish(builder.build(), card, unit, no_data)


def timeline_panel(
    card: Card, query: Query, texts: ValueTexts, *, no_data: NoData = NOT_SCRAPED
) -> Panel:
    """Return a state timeline with one line per series."""
    panel = (
        statetimeline.Panel()
        .mappings([*style.value_mappings(texts), style.no_data_mapping(no_data)])
        .show_value(VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .legend(_legend())
        .with_target(_range(query, "A"))
        .build()
    )
    return _finish(panel, card, "none", no_data)


def heatmap_panel(card: Card, buckets: str, *, unit: str) -> Panel:
    """Return a heatmap of histogram buckets, with exemplars."""
    query = prometheus_queries.Dataquery().expr(buckets).legend_format("{{le}}").ref_id("A")
    panel = (
        heatmap.Panel()
        .calculate(calculate=False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(heatmap.HeatmapColorOptions().scheme("Oranges").exponent(0.5).steps(64))
        .cell_gap(1)
        .cell_values(heatmap.CellValues().unit("reqps"))
        .show_legend()
        .with_target(query.exemplar(exemplar=True).format(PromQueryFormat.HEATMAP).range())
        .build()
    )
    return _finish(panel, card, unit, NOT_SCRAPED)


def log_bar_panel(card: Card, query: Query, *, links: Sequence[Link], no_data: NoData) -> Panel:
    """Return horizontal bars of an instant LogQL query."""
    target = loki_queries.Dataquery().expr(query.expression).legend_format(query.legend)
    panel = (
        bargauge.Panel()
        .display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
        .decimals(0)
        .thresholds(style.thresholds(NEUTRAL))
        .data_links(_data_links(links))
        .with_target(target.query_type("instant").instant(instant=True).ref_id("A"))
        .build()
    )
    panel.datasource = LOKI
    return _finish(panel, card, "short", no_data)


def table_panel(
    card: Card,
    keys: Sequence[str],
    *columns: Column,
    sort_by: str = "",
    links: Sequence[Link] = (),
    no_data: NoData = NOT_SCRAPED,
) -> Panel:
    """Return a table with a row per combination of labels and a column per query.

    Args:
        card: Id, title, description and size.
        keys: Labels that identify a row.
        columns: Columns after the keys.
        sort_by: Column to sort by, largest first; the first key if left out.
        links: Data links of the keys.
        no_data: Shown without rows.
    """
    order = common.TableSortByFieldState()
    order.display_name(sort_by or keys[0].capitalize()).desc(desc=bool(sort_by))
    builder = table.Panel().sort_by([order])
    for ref, column in zip(_REF_IDS, columns, strict=False):
        query = prometheus_queries.Dataquery().expr(column.expression).instant()
        builder.with_target(query.format(PromQueryFormat.TABLE).ref_id(ref))
        builder.override_by_name(column.title, _column_properties(column))
    urls = [{"title": link.title, "url": link.url} for link in links]
    for key in keys if links else ():
        builder.override_by_name(key.capitalize(), [DynamicConfigValue("links", urls)])
    panel = builder.build()
    panel.transformations = [
        DataTransformerConfig(id_val="merge", options={}),
        DataTransformerConfig(id_val="organize", options=_column_order(keys, columns)),
    ]
    return _finish(panel, card, columns[0].unit, no_data)


def advice_panel(uid: str, *, height: int) -> Panel:
    """Return the advice table of a dashboard, over the whole width."""
    content = Path(__file__).with_name("advice") / f"{uid}.md"
    panel = text.Panel().content(content.read_text(encoding="utf-8")).build()
    description = "Healthy values, and what to do if a value is not healthy."
    return _finish(panel, Card(ADVICE_ROW + 1, "Advice", description, 24, height), "", NOT_SCRAPED)


def _finish(panel: Panel, card: Card, unit: str, no_data: NoData) -> Panel:
    panel.id_val, panel.title, panel.description = card.id, card.title, card.description
    panel.grid_pos = GridPos(h=card.height, w=card.width)
    if unit:
        panel.datasource = panel.datasource or PROMETHEUS
        panel.interval = _MIN_INTERVAL
        _defaults(panel).unit = unit
        _defaults(panel).no_value = no_data.text
    return panel


def _range(query: Query, ref: str) -> prometheus_queries.Dataquery:
    target = prometheus_queries.Dataquery().expr(query.expression).legend_format(query.legend)
    if query.exemplars:
        target.exemplar(exemplar=True)
    return target.range().ref_id(ref)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().placement(LegendPlacement.BOTTOM)
    return legend.show_legend(show_legend=True).display_mode(LegendDisplayMode.LIST)


def _data_links(links: Sequence[Link]) -> list[Builder[DashboardLinkModel]]:
    return [DashboardLink(link.title).url(link.url) for link in links]


def _column_order(keys: Sequence[str], columns: Sequence[Column]) -> dict[str, object]:
    # Grafana names a value after its query only if there are several queries.
    values = [f"Value #{ref}" for ref in _REF_IDS] if len(columns) > 1 else ["Value"]
    titles = {key: key.capitalize() for key in keys}
    titles |= {value: column.title for value, column in zip(values, columns, strict=False)}
    return {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(titles)},
        "renameByName": titles,
    }


def _column_properties(column: Column) -> list[DynamicConfigValue]:
    found = [DynamicConfigValue("unit", column.unit)]
    if column.decimals is not None:
        found.append(DynamicConfigValue("decimals", column.decimals))
    if column.texts:
        found.append(DynamicConfigValue("mappings", style.value_mappings(column.texts)))
    if column.steps:
        found.append(DynamicConfigValue("thresholds", style.thresholds(column.steps).build()))
    if column.steps or column.texts:
        found.append(DynamicConfigValue("color", {"mode": "thresholds"}))
        cell = {"type": "color-background", "mode": "basic"}
        found.append(DynamicConfigValue("custom.cellOptions", cell))
    return found


def _defaults(panel: Panel) -> FieldConfig:
    if panel.field_config is None:
        panel.field_config = FieldConfigSource()
    return panel.field_config.defaults
