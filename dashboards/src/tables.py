"""Makes tables: a row for each combination of some labels, a column for each query."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import common, table
from grafana_foundation_sdk.builders import prometheus as prometheus_queries
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

import meaning
from cards import Card, Link
from meaning import NOT_SCRAPED, Empty, Steps, Words
from panels import REFS, finished


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of each row.

    Args:
        title: Head of the column.
        expression: What to ask; its labels say which row a value is in.
        unit: Unit of the values.
        decimals: Digits after the point; as many as there is room for when left out.
        steps: Colours of the cells; none when left out.
        words: Text and colours that stand in place of values.
    """

    title: str
    expression: str
    unit: str = "short"
    decimals: int | None = None
    steps: Steps = ()
    words: Words = field(default_factory=dict)


def table_of(
    card: Card,
    keys: Sequence[str],
    *columns: Column,
    sort_by: str = "",
    links: Sequence[Link] = (),
    empty: Empty = NOT_SCRAPED,
) -> Panel:
    """Show a table.

    Args:
        card: What every panel has.
        keys: Labels that a row stands for.
        columns: Its figures.
        sort_by: Column to sort by, largest first; the first key when left out.
        links: Where the keys of a row lead to.
        empty: What to say where there is nothing.
    """
    order = common.TableSortByFieldState()
    order.display_name(sort_by or _head(keys[0])).desc(desc=bool(sort_by))
    builder = table.Panel().sort_by([order])
    for ref, column in zip(REFS, columns, strict=False):
        query = prometheus_queries.Dataquery().expr(column.expression).instant()
        builder.with_target(query.format(PromQueryFormat.TABLE).ref_id(ref))
        builder.override_by_name(column.title, _properties(column))
    leads = [{"title": link.title, "url": link.path} for link in links]
    for key in keys if links else ():
        builder.override_by_name(_head(key), [DynamicConfigValue("links", leads)])
    panel = builder.build()
    panel.transformations = [
        DataTransformerConfig(id_val="merge", options={}),
        DataTransformerConfig(id_val="organize", options=_organized(keys, columns)),
    ]
    return finished(panel, card, unit=columns[0].unit, empty=empty)


def _organized(keys: Sequence[str], columns: Sequence[Column]) -> dict[str, object]:
    # Of several queries each names its value after itself; a single one does not.
    values = [f"Value #{ref}" for ref in REFS] if len(columns) > 1 else ["Value"]
    heads = {key: _head(key) for key in keys}
    heads |= {value: column.title for value, column in zip(values, columns, strict=False)}
    return {
        "excludeByName": {"Time": True},
        "indexByName": {name: index for index, name in enumerate(heads)},
        "renameByName": heads,
    }


def _head(key: str) -> str:
    return key.capitalize()


def _properties(column: Column) -> list[DynamicConfigValue]:
    found = [DynamicConfigValue("unit", column.unit)]
    if column.decimals is not None:
        found.append(DynamicConfigValue("decimals", column.decimals))
    if column.words:
        told = meaning.mappings(column.words, NOT_SCRAPED)[:1]
        found.append(DynamicConfigValue("mappings", told))
    if column.steps:
        found.append(DynamicConfigValue("thresholds", meaning.thresholds(column.steps).build()))
    if column.steps or column.words:
        found.append(DynamicConfigValue("color", {"mode": "thresholds"}))
        cell = {"type": "color-background", "mode": "basic"}
        found.append(DynamicConfigValue("custom.cellOptions", cell))
    return found
