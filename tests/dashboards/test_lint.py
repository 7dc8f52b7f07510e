"""The rules of grafana/dashboard-linter hold on every board, and are not weakened for any panel."""

import re
import typing
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models import units

from support.boards import BOARDS, FOLDER, Query, moments, panels, queries, selectors

UNITS = {
    typing.get_args(kind)[0] for kind in typing.get_type_hints(units, include_extras=True).values()
}
FUNCTIONS = {
    "rate": {"$__rate_interval"},
    "changes": {"$__rate_interval"},
    "increase": {"$__range"},
    "max_over_time": {"$__rate_interval", "$__range"},
}
"""Over what each function of a range looks."""

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def variable(board: Any, name: str) -> Any:
    (found,) = [each for each in board["templating"]["list"] if each["name"] == name]
    return found


def asked(board: Any) -> list[Query]:
    """Return the queries to Prometheus that a board makes."""
    return [each for each in (*queries(), *moments()) if each.board == board["uid"]]


def shown(board: Any) -> list[dict[str, Any]]:
    """Return the panels that show data."""
    return [panel for panel in panels(board) if panel["type"] != "text"]


@each_board
def test_datasource_is_picked_by_the_reader(board: Any) -> None:
    """A variable picks the Prometheus to ask."""
    picked = variable(board, "datasource")
    assert (picked["type"], picked["query"], picked["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )


@each_board
@pytest.mark.parametrize("name", ["job", "instance"])
def test_job_and_instance_are_picked_by_the_reader(board: Any, name: str) -> None:
    """Variables pick any number of jobs and instances, and follow the time looked at."""
    picked = variable(board, name)
    assert (picked["type"], picked["label"]) == ("query", name.capitalize())
    assert picked["datasource"]["uid"] == "${datasource}"
    assert (picked["multi"], picked["includeAll"], picked["allValue"]) == (True, True, ".+")
    assert picked["refresh"] == 2


@each_board
def test_every_query_of_a_variable_asks_for_the_values_of_a_label(board: Any) -> None:
    """A variable is filled by `label_values` and nothing that costs more."""
    for each in board["templating"]["list"]:
        if each["type"] == "query":
            assert re.fullmatch(r"label_values\(\w+(\{.*\})?, \w+\)", each["query"]), each["name"]


@each_board
def test_every_variable_is_used(board: Any) -> None:
    """No variable asks the reader for something that nothing depends on."""
    text = str(board)
    for each in board["templating"]["list"]:
        assert re.search(rf"\$\{{?{each['name']}\b", text), each["name"]


@each_board
def test_no_panel_names_a_data_source(board: Any) -> None:
    """Every panel asks the source that the reader picked."""
    allowed = {("prometheus", "${datasource}"), ("loki", "${loki}")}
    for panel in shown(board):
        source = panel["datasource"]
        assert (source["type"], source["uid"]) in allowed, panel["title"]
    for moment in board["annotations"]["list"]:
        assert moment["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_board
def test_every_panel_says_what_it_is(board: Any) -> None:
    """Every panel has a title and a description in whole sentences."""
    for panel in panels(board):
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]


@each_board
def test_every_panel_has_a_unit(board: Any) -> None:
    """Every panel and every column has a unit that Grafana knows."""
    for panel in shown(board):
        config = panel["fieldConfig"]
        assert config["defaults"]["unit"] in UNITS, panel["title"]
        for override in config["overrides"]:
            for each in override["properties"]:
                assert each["id"] != "unit" or each["value"] in UNITS, panel["title"]


@each_board
def test_no_board_can_be_edited(board: Any) -> None:
    """What is generated is not changed in Grafana."""
    assert board["editable"] is False


@each_board
def test_every_selector_follows_job_and_instance(board: Any) -> None:
    """Each selector holds the job and the instance that the reader picked; of stores, theirs."""
    for query in asked(board):
        found = selectors(query.expression)
        assert found, query
        for name, matchers in found:
            prefix = "$store_" if name.startswith("redis_") else "$"
            for label in ("job", "instance"):
                assert matchers.get(label) == ("=~", f"{prefix}{label}"), (str(query), name)


@each_board
def test_no_range_is_fixed(board: Any) -> None:
    """A rate is over `$__rate_interval`; only an increase or a maximum may be over `$__range`."""
    for query in asked(board):
        ranges = re.findall(r"(\w+)\(\w+\{[^}]*\}\[([^\]]*)\]", query.expression)
        assert len(ranges) == query.expression.count("["), query
        for function, over in ranges:
            assert over in FUNCTIONS[function], str(query)


@each_board
def test_no_counter_is_shown_as_it_is(board: Any) -> None:
    """A counter is only seen through a rate, an increase or its changes: pods restart."""
    for query in asked(board):
        for name, after in re.findall(r"(\w+)\{[^}]*\}(\[?)", query.expression):
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert after == "[", (str(query), name)


@pytest.mark.parametrize("query", queries("loki"), ids=str)
def test_a_query_of_the_logs_follows_what_is_picked(query: Query) -> None:
    """A query of the logs is about the namespace and the time that the reader picked."""
    assert 'namespace=~"$namespace"' in query.expression
    assert query.expression.endswith(" [$__range])))")


def test_exceptions_of_the_linter_name_panels() -> None:
    """What `.lint` excepts from a rule for a job or an instance are the panels about stores."""
    excepted = yaml.safe_load((FOLDER / ".lint").read_text(encoding="utf-8"))["exclusions"]
    of_stores = {each.title for each in queries() if "redis_" in each.expression}
    for rule in ("target-job-rule", "target-instance-rule"):
        assert {each["panel"] for each in excepted[rule]["entries"]} == of_stores
    of_logs = {each["panel"] for each in excepted["target-promql-rule"]["entries"]}
    assert of_logs == {each.title for each in queries("loki")}
