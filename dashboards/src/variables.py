"""What the reader of a board chooses: the data sources, the release, its pods, the policy."""

from typing import Final

from grafana_foundation_sdk.builders.dashboard import (
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from fleetlimit.telemetry import names

PROMETHEUS: Final = DataSourceRef("prometheus", "${datasource}")
LOKI: Final = DataSourceRef("loki", "${loki}")
RUNBOOK: Final = "docs/runbook.md"
"""Stands once in each board, as the variable's value, to be replaced by the runbook's address."""

_RELEASE = 'namespace=~"$namespace"'
_ANYTHING = ".+"
_ANYTHING_OR_NOTHING = ".*"

Variable = Builder[VariableModel]


def release() -> tuple[Variable, ...]:
    """Return the variables of every board: where to ask, and which pods to ask about."""
    build = names.BUILD_INFO.name
    return (
        DatasourceVariable("datasource").label("Data source").type("prometheus"),
        # Where series have no namespace, all of them are meant.
        _label("namespace", "Namespace", build, everything=_ANYTHING_OR_NOTHING),
        _label("job", "Job", f"{build}{{{_RELEASE}}}"),
        _label("instance", "Instance", f'{build}{{{_RELEASE}, job=~"$job"}}'),
    )


def policy() -> Variable:
    """Return the variable that picks policies."""
    return _label(
        names.POLICY,
        "Policy",
        f'{names.DECISIONS.name}{{{_RELEASE}, job=~"$job", instance=~"$instance"}}',
    )


def logs() -> Variable:
    """Return the variable that says where the logs are."""
    return DatasourceVariable("loki").label("Logs").type("loki")


def store() -> tuple[Variable, ...]:
    """Return the variables that pick the exporters of the stores: other jobs, other instances."""
    return (
        _label("store_job", "Store job", "redis_up", of="job"),
        _label("store_instance", "Store instance", 'redis_up{job=~"$store_job"}', of="instance"),
    )


def runbook() -> Variable:
    """Return the variable that says where the runbook is."""
    here = VariableOption(text=RUNBOOK, value=RUNBOOK)
    return TextBoxVariable("runbook").label("Runbook").default_value(RUNBOOK).current(here)


def _label(
    name: str, label: str, series: str, *, of: str = "", everything: str = _ANYTHING
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
        .all_value(everything)
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
