"""Dashboard assembly: variables, annotations, links, and rows of panels placed on the grid."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import (
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationContainer,
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    GridPos,
    Panel,
    RowPanel,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

import queries
from fleetlimit.telemetry import names
from panels import ADVICE_ROW, PROMETHEUS, advice_panel
from promql import POD, RELEASE
from style import BLUE, ORANGE, PURPLE, RED

HOLDS: Final = "fleetlimit-holds"
THROTTLED: Final = "fleetlimit-throttled"
HEALTHY: Final = "fleetlimit-healthy"
FLEET: Final = "fleetlimit-fleet"

RUNBOOK: Final = "https://github.com/fleetlimit/fleetlimit/blob/main/docs/runbook.md"
"""Default of the variable `runbook`; the chart replaces it with `prometheusRule.runbookUrl`."""

_TAG: Final = "fleetlimit"
_COLUMNS: Final = 24
# The version that Grafana 13 writes; the SDK's default is 41. Version 42 hides a field in tooltips
# that a panel hides, and no panel hides a field.
_SCHEMA_VERSION: Final = 42
_PLACEHOLDER: Final = re.compile(r"(\$\{[^}]*\})")
_SELECTED_NAMESPACE: Final = 'namespace=~"$namespace"'
_SELECTED_PODS: Final = f'{_SELECTED_NAMESPACE}, job=~"$job"'

Variable = Builder[VariableModel]


@dataclass(frozen=True, slots=True)
class Row:
    """Row of panels.

    Args:
        id: A multiple of 100; the ids of the row's panels follow it.
        title: Title of the row.
        panels: From left to right; a panel without room goes to the next line.
        collapsed: Whether the row is closed until the reader opens it.
    """

    id: int
    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """Dashboard without the parts that all dashboards share.

    Args:
        uid: Part of its URL, and its file name.
        title: Title without the product's name.
        description: One sentence.
        variables: Variables beside those of the release.
        overview: Row of stat panels at the top.
        rows: Rows below the advice.
        advice_height: Grid units that the advice table needs.
    """

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    overview: Sequence[Panel]
    rows: Sequence[Row]
    advice_height: int

    def build(self) -> Dashboard:
        """Return the dashboard for Grafana."""
        related = DashboardLink("Fleetlimit").type(DashboardLinkType.DASHBOARDS).tags([_TAG])
        runbook = TextBoxVariable("runbook").label("Runbook").default_value(RUNBOOK)
        runbook.current(VariableOption(text=RUNBOOK, value=RUNBOOK))
        built = (
            DashboardBuilder(f"Fleetlimit / {self.title}")
            .uid(self.uid)
            .description(self.description)
            .tags([_TAG])
            .readonly()
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .time("now-1h", "now")
            .refresh("30s")
            .variables([*_release_variables(), *self.variables, runbook])
            .link(related.include_vars(include_vars=True).keep_time(keep_time=True))
            .build()
        )
        built.schema_version = _SCHEMA_VERSION
        built.annotations = AnnotationContainer(list_val=list(_annotations()))
        advice = advice_panel(self.uid, height=self.advice_height)
        top = (
            Row(100, "Overview", self.overview),
            Row(ADVICE_ROW, "Healthy values, and what to do", (advice,), collapsed=True),
        )
        built.panels = list(_place((*top, *self.rows)))
        return built


def policy_variable() -> Variable:
    """Return the variable that selects policies."""
    series = f'{names.DECISIONS.name}{{{_SELECTED_PODS}, instance=~"$instance"}}'
    return _label_variable(names.POLICY, "Policy", series)


def logs_variable() -> Variable:
    """Return the variable that selects the Loki data source."""
    return DatasourceVariable("loki").label("Logs").type("loki")


def store_variables() -> tuple[Variable, ...]:
    """Return the variables that select the redis_exporter targets."""
    stores = 'redis_up{job=~"$store_job"}'
    return (
        _label_variable("store_job", "Store job", "redis_up", of="job"),
        _label_variable("store_instance", "Store instance", stores, of="instance"),
    )


def board_url(uid: str, **variables: str) -> str:
    """Return the URL of a dashboard, with the current time range and data source.

    Args:
        uid: The dashboard.
        variables: Values of its variables, or Grafana placeholders.
    """
    selected = "".join(f"&var-{name}={value}" for name, value in variables.items())
    return f"/d/{uid}?${{__url_time_range}}&var-datasource=${{datasource}}{selected}"


def logs_url(query: str) -> str:
    """Return the Explore URL of a LogQL query, over the current time range.

    Args:
        query: LogQL; Grafana placeholders in it stay as they are.
    """
    source = {"type": "loki", "uid": "${loki}"}
    pane = {
        "datasource": "${loki}",
        "queries": [{"refId": "A", "datasource": source, "expr": query, "queryType": "range"}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # Grafana replaces only placeholders that are not percent-encoded.
    parts = _PLACEHOLDER.split(json.dumps({"logs": pane}))
    panes = (each if _PLACEHOLDER.fullmatch(each) else quote(each, safe="") for each in parts)
    return f"/explore?schemaVersion=1&panes={''.join(panes)}"


def _release_variables() -> Iterator[Variable]:
    build = names.BUILD_INFO.name
    yield DatasourceVariable("datasource").label("Data source").type("prometheus")
    # `.*` also matches series without a namespace label.
    yield _label_variable("namespace", "Namespace", build, all_value=".*")
    yield _label_variable("job", "Job", f"{build}{{{_SELECTED_NAMESPACE}}}")
    yield _label_variable("instance", "Instance", f"{build}{{{_SELECTED_PODS}}}")


def _label_variable(
    name: str, label: str, series: str, *, of: str = "", all_value: str = ".+"
) -> Variable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(f"label_values({series}, {of or name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(all_value)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


class _Annotation(AnnotationQuery):
    """Annotation from Prometheus, with fields that the SDK does not have."""

    more: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), **self.more}


def _annotations() -> Iterator[AnnotationQuery]:
    release = "/".join(f"{{{{{label}}}}}" for label in RELEASE)
    for name, expression, title, color in (
        ("Reloads", queries.policy_reloads(), "Policy reload: {{result}}", BLUE),
        ("Store outages", queries.store_outages(), "Circuit breaker open", RED),
        (
            "Store state lost",
            queries.store_state_losses(),
            "Store state lost: full buckets",
            ORANGE,
        ),
    ):
        yield _annotation(name, expression, title, color, {"textFormat": release})
    # The value of this series is the time of the event.
    start = {"textFormat": f"{{{{{POD}}}}}", "useValueForTime": True}
    yield _annotation("Restarts", queries.process_starts(), "Pod started", PURPLE, start)


def _annotation(
    name: str, expression: str, title: str, color: str, more: dict[str, object]
) -> AnnotationQuery:
    made = _Annotation(name=name, datasource=PROMETHEUS, icon_color=color, expr=expression)
    made.more = {"titleFormat": title, "step": "30s", **more}
    return made


def _place(rows: Sequence[Row]) -> Iterator[Panel | RowPanel]:
    """Place panels in lines from left to right; a line is as high as its highest panel."""
    y = 0
    for row in rows:
        head = RowPanel(title=row.title, id_val=row.id, collapsed=row.collapsed)
        head.grid_pos = GridPos(h=1, w=_COLUMNS, x=0, y=y)
        x, top, bottom = 0, y + 1, y + 1
        for panel in row.panels:
            size = panel.grid_pos or GridPos()
            if x + size.w > _COLUMNS:
                x, top = 0, bottom
            panel.grid_pos = GridPos(h=size.h, w=size.w, x=x, y=top)
            x, bottom = x + size.w, max(bottom, top + size.h)
        yield head
        if row.collapsed:
            # Grafana places the following rows as if the closed row were empty.
            head.panels, y = list(row.panels), y + 1
        else:
            yield from row.panels
            y = bottom
