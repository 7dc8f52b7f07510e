"""Makes panels of one look; what differs is what is asked, and what is good or bad."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    stat,
    statetimeline,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import loki as loki_queries
from grafana_foundation_sdk.builders import prometheus as prometheus_queries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor
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
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    FieldColorModeId,
    FieldConfig,
    FieldConfigSource,
    GridPos,
    Panel,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

import meaning
from cards import Card, Line, Link
from meaning import NOT_SCRAPED, Empty, Steps, Words
from variables import LOKI, PROMETHEUS

MIN_INTERVAL = "15s"
"""No point stands for less: pods are scraped every 15 to 60 seconds as a rule."""
REFS = "ABCDEFGHIJKLMNOP"
"""Names of queries, as Grafana gives them."""


def figure(
    card: Card,
    expression: str,
    *,
    unit: str,
    steps: Steps,
    words: Words | None = None,
    decimals: int | None = None,
    empty: Empty = NOT_SCRAPED,
) -> Panel:
    """Show one value on a colour that says whether it is good."""
    panel = (
        stat.Panel()
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(meaning.thresholds(steps))
        .mappings(meaning.mappings(words or {}, empty))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .with_target(prometheus_queries.Dataquery().expr(expression).instant().ref_id("A"))
        .build()
    )
    _defaults(panel).decimals = decimals
    return finished(panel, card, unit=unit, empty=empty)


def lines(
    card: Card,
    *queries: Line,
    unit: str,
    stacked: bool = False,
    colors: Mapping[str, str] | None = None,
    dashed: str = "",
    links: Sequence[Link] = (),
    empty: Empty = NOT_SCRAPED,
) -> Panel:
    """Show values over time.

    Args:
        card: What every panel has.
        queries: What to ask.
        unit: Unit of the values.
        stacked: Put the series on top of each other.
        colors: Colours of series, by their names.
        dashed: Ending of the names of series that are bounds: dashed, and never stacked.
        links: Where a value leads to.
        empty: What to say where there is nothing.
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
        .targets([_query(line, ref) for line, ref in zip(queries, REFS, strict=False)])
    )
    if stacked:
        builder.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if links:
        builder.data_links([DashboardLink(link.title).url(link.path) for link in links])
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        builder.override_by_name(name, [DynamicConfigValue("color", fixed)])
    if dashed:
        builder.override_by_regexp(f"/{dashed}$/", _bound())
    return finished(builder.build(), card, unit=unit, empty=empty)


def states(card: Card, query: Line, words: Words, *, empty: Empty = NOT_SCRAPED) -> Panel:
    """Show in which state each series was, over time."""
    panel = (
        statetimeline.Panel()
        .mappings(meaning.mappings(words, empty))
        .show_value(VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .legend(_legend())
        .with_target(_query(query, "A"))
        .build()
    )
    return finished(panel, card, unit="none", empty=empty)


def heat(card: Card, buckets: str, *, unit: str, empty: Empty = NOT_SCRAPED) -> Panel:
    """Show how the values of a histogram are spread, over time, with their traces."""
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
    return finished(panel, card, unit=unit, empty=empty)


def bars_of_logs(card: Card, query: Line, *, links: Sequence[Link], empty: Empty) -> Panel:
    """Show the figures that a query of the logs returns, largest first."""
    asked = loki_queries.Dataquery().expr(query.expression).legend_format(query.legend)
    panel = (
        bargauge.Panel()
        .display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
        .decimals(0)
        .thresholds(meaning.thresholds(meaning.NEUTRAL))
        .data_links([DashboardLink(link.title).url(link.path) for link in links])
        .with_target(asked.query_type("instant").instant(instant=True).ref_id("A"))
        .build()
    )
    panel.datasource = LOKI
    return finished(panel, card, unit="short", empty=empty)


def advice(number: int, board: str, *, height: int) -> Panel:
    """Show the advice of a board over the whole width."""
    written = Path(__file__).with_name("advice") / f"{board}.md"
    panel = text.Panel().content(written.read_text(encoding="utf-8")).build()
    about = "What a healthy picture looks like, and what to do when it is not."
    card = Card(number, "What to look at", about, 24, height)
    return finished(panel, card, unit="", empty=NOT_SCRAPED)


def finished(panel: Panel, card: Card, *, unit: str, empty: Empty) -> Panel:
    """Give a panel what every panel has."""
    panel.id_val, panel.title, panel.description = card.number, card.title, card.about
    panel.grid_pos = GridPos(h=card.height, w=card.width)
    if unit:
        panel.datasource = panel.datasource or PROMETHEUS
        panel.interval = MIN_INTERVAL
        _defaults(panel).unit = unit
        _defaults(panel).no_value = empty.text
    return panel


def says_when_empty(panel: Panel) -> str:
    """Return what a panel says where it has no values; nothing where it never has any."""
    return _defaults(panel).no_value or ""


def _query(line: Line, ref: str) -> prometheus_queries.Dataquery:
    query = prometheus_queries.Dataquery().expr(line.expression).legend_format(line.legend)
    if line.exemplars:
        query.exemplar(exemplar=True)
    return query.range().ref_id(ref)


def _legend() -> common.VizLegendOptions:
    placed = (
        common.VizLegendOptions().placement(LegendPlacement.BOTTOM).show_legend(show_legend=True)
    )
    return placed.display_mode(LegendDisplayMode.LIST)


def _bound() -> list[DynamicConfigValue]:
    return [
        DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
        DynamicConfigValue("custom.fillOpacity", 0),
        DynamicConfigValue("custom.stacking", {"mode": "none", "group": "A"}),
    ]


def _defaults(panel: Panel) -> FieldConfig:
    if panel.field_config is None:
        panel.field_config = FieldConfigSource()
    return panel.field_config.defaults
