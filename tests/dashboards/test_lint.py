"""The rules of grafana/dashboard-linter, for every dashboard and panel."""

import re
import typing
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models import units

from support.boards import BOARDS, Query, moments, panels, queries, selectors
from support.tool import ROOT

UNITS = {
    typing.get_args(kind)[0] for kind in typing.get_type_hints(units, include_extras=True).values()
}
FUNCTIONS = {
    "rate": {"$__rate_interval"},
    "changes": {"$__rate_interval"},
    "increase": {"$__range", "5m", "10m"},
    "max_over_time": {"$__rate_interval", "$__range"},
}
"""Ranges that each function may have."""

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def variable(board: Any, name: str) -> Any:
    (found,) = [each for each in board["templating"]["list"] if each["name"] == name]
    return found


def queries_of(board: Any) -> list[Query]:
    """Return the Prometheus queries of a dashboard."""
    return [each for each in (*queries(), *moments()) if each.board == board["uid"]]


def data_panels(board: Any) -> list[dict[str, Any]]:
    """Return the panels with a data source."""
    return [panel for panel in panels(board) if panel["type"] != "text"]


@each_board
def test_datasource_is_a_variable(board: Any) -> None:
    """A variable selects the Prometheus data source."""
    selected = variable(board, "datasource")
    assert (selected["type"], selected["query"], selected["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )


@each_board
@pytest.mark.parametrize("name", ["job", "instance"])
def test_job_and_instance_are_variables(board: Any, name: str) -> None:
    """Variables select any number of jobs and instances, and follow the time range."""
    selected = variable(board, name)
    assert (selected["type"], selected["label"]) == ("query", name.capitalize())
    assert selected["datasource"]["uid"] == "${datasource}"
    assert (selected["multi"], selected["includeAll"], selected["allValue"]) == (True, True, ".+")
    assert selected["refresh"] == 2


@each_board
def test_variables_query_label_values(board: Any) -> None:
    """A variable queries `label_values`, which is cheap."""
    for each in board["templating"]["list"]:
        if each["type"] == "query":
            assert re.fullmatch(r"label_values\(\w+(\{.*\})?, \w+\)", each["query"]), each["name"]


@each_board
def test_every_variable_is_used(board: Any) -> None:
    """Every variable occurs in a query, a link or a text."""
    text = str(board)
    for each in board["templating"]["list"]:
        assert re.search(rf"\$\{{?{each['name']}\b", text), each["name"]


@each_board
def test_panels_use_the_selected_datasource(board: Any) -> None:
    """Panels and annotations query the data source of the variable."""
    allowed = {("prometheus", "${datasource}"), ("loki", "${loki}")}
    for panel in data_panels(board):
        source = panel["datasource"]
        assert (source["type"], source["uid"]) in allowed, panel["title"]
    for moment in board["annotations"]["list"]:
        assert moment["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_board
def test_panels_have_title_and_description(board: Any) -> None:
    """Every panel has a title and a description that ends with a full stop."""
    for panel in panels(board):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]


@each_board
def test_panels_have_a_known_unit(board: Any) -> None:
    """Every panel and every column has a unit of Grafana."""
    for panel in data_panels(board):
        config = panel["fieldConfig"]
        assert config["defaults"]["unit"] in UNITS, panel["title"]
        for override in config["overrides"]:
            for each in override["properties"]:
                assert each["id"] != "unit" or each["value"] in UNITS, panel["title"]


@each_board
def test_boards_are_read_only(board: Any) -> None:
    """Grafana does not offer to edit a generated dashboard."""
    assert board["editable"] is False


@each_board
def test_selectors_match_job_and_instance(board: Any) -> None:
    """Each selector matches the variables `job` and `instance`, or those of the stores."""
    for query in queries_of(board):
        found = selectors(query.expression)
        assert found, query
        for name, matchers in found:
            prefix = "$store_" if name.startswith("redis_") else "$"
            for label in ("job", "instance"):
                assert matchers.get(label) == ("=~", f"{prefix}{label}"), (str(query), name)


@each_board
def test_ranges_are_variables(board: Any) -> None:
    """A rate has `$__rate_interval`; an increase or a maximum may have `$__range`.

    The increases that belong to an overshoot have the time for which the audit shows it.
    """
    for query in queries_of(board):
        ranges = re.findall(r"(\w+)\(\w+\{[^}]*\}\[([^\]]*)\]", query.expression)
        subqueries = query.expression.count("[$__range:$__rate_interval]")
        assert len(ranges) + subqueries == query.expression.count("["), query
        for function, over in ranges:
            assert over in FUNCTIONS[function], str(query)


@each_board
def test_counters_are_not_shown_raw(board: Any) -> None:
    """A counter occurs only in `rate`, `increase` or `changes`, because pods restart."""
    for query in queries_of(board):
        for name, after in re.findall(r"(\w+)\{[^}]*\}(\[?)", query.expression):
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert after == "[", (str(query), name)


@pytest.mark.parametrize("query", queries("loki"), ids=str)
def test_log_queries_follow_namespace_and_time_range(query: Query) -> None:
    """A LogQL query matches the variable `namespace`, over the time range."""
    assert 'namespace=~"$namespace"' in query.expression
    assert query.expression.endswith(" [$__range])))")


def test_linter_exclusions_name_existing_panels() -> None:
    """`.lint` excludes the store panels from the job and instance rules, and no other panel."""
    excluded = yaml.safe_load((ROOT / "dashboards" / ".lint").read_text(encoding="utf-8"))[
        "exclusions"
    ]
    of_stores = {each.title for each in queries() if "redis_" in each.expression}
    for rule in ("target-job-rule", "target-instance-rule"):
        assert {each["panel"] for each in excluded[rule]["entries"]} == of_stores
    of_logs = {each["panel"] for each in excluded["target-promql-rule"]["entries"]}
    assert of_logs == {each.title for each in queries("loki")}
