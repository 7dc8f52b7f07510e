"""Drawing of the dashboards: the queries that run, and the numbers that are drawn."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest

for extra in ("kr8s", "jinja2", "matplotlib"):
    pytest.importorskip(extra, reason="the kind suite needs the extra e2e")

from matplotlib.figure import Figure

from support import e2e_panels
from support.boards import BOARDS, panels
from support.e2e_figure import svg
from support.e2e_page import Page
from support.e2e_panels import Result, Series, TimeRange
from support.e2e_report import Report
from support.e2e_watch import Mark

START: Final = 1_800_000_000
MINUTE: Final = TimeRange(START * 1_000_000, (START + 60) * 1_000_000)
COMMITTED: Final = ("fleetlimit-holds", "fleetlimit-throttled")
"""Dashboards with a drawing in `docs/`."""
POINTS: Final = len(MINUTE.points)


class Prometheus:
    """Prometheus that returns one result for each query and records the queries."""

    def __init__(self, *result: Mapping[str, Any], error: str = "") -> None:
        self.result, self.error = result, error
        self.queries: list[tuple[str, Mapping[str, str]]] = []

    def __call__(self, path: str, parameters: Mapping[str, str]) -> Any:
        """Return the result.

        Raises:
            ValueError: The fake was made with an error.
        """
        self.queries.append((path, parameters))
        if self.error:
            raise ValueError(self.error)
        return {"result": self.result}


def panel(kind: str = "timeseries", source: str = "prometheus", **target: object) -> dict[str, Any]:
    defaults = {"noValue": "no data", "unit": "s"}
    return {
        "type": kind,
        "title": "A panel",
        "datasource": {"type": source},
        "targets": [{"refId": "A", "expr": "up", **target}],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def over_time(*values: tuple[int, str], **labels: str) -> dict[str, Any]:
    return {"metric": labels, "values": [(START + at, value) for at, value in values]}


def series(name: str, *values: float) -> Series:
    return Series("A", name, {}, [*values, *[math.nan] * (POINTS - len(values))])


def drawn(*results: Result, marks: tuple[Mark, ...] = ()) -> Figure:
    return e2e_panels.figure("A board", results, MINUTE, marks)


def texts(figure: Figure) -> list[str]:
    """Return the text of a picture as a reader of the SVG finds it."""
    root = ET.fromstring(svg(figure))  # noqa: S314 - written by the code under test
    return [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_instant_query_runs_at_the_end_with_variables_substituted() -> None:
    """Each variable has its option `All`, the range is that of the drawing."""
    prometheus = Prometheus({"metric": {"pod": "a"}, "value": [START, "3"]})
    expression = 'increase(x{pod=~"$instance"}[$__range]) + rate(x[$__rate_interval])'
    result = e2e_panels.query(prometheus, panel(expr=expression, instant=True), MINUTE)
    assert [each.values for each in result.series] == [[3]]
    sent = 'increase(x{pod=~".+"}[60s]) + rate(x[20s])'
    assert prometheus.queries == [("query", {"query": sent, "time": f"{START + 60}.000"})]


def test_range_query_has_nan_where_prometheus_has_no_finite_value() -> None:
    """The values are on the points of the time range."""
    prometheus = Prometheus(over_time((0, "1"), (2, "+Inf"), (3, "NaN"), (4, "5"), policy="p"))
    target = {"legendFormat": "{{policy}} {{ tier }}"}
    [found] = e2e_panels.query(prometheus, panel(**target), MINUTE).series
    [(path, parameters)] = prometheus.queries
    assert (path, parameters["step"], found.name) == ("query_range", "1", "p")
    assert len(found.values) == POINTS == 61
    numbers = {at: value for at, value in enumerate(found.values) if not math.isnan(value)}
    assert numbers == {0: 1, 4: 5}


@pytest.mark.parametrize("minutes", [1, 3, 10, 60])
def test_number_of_points_is_bounded(minutes: int) -> None:
    """A rate reaches over more than one of the points."""
    span = TimeRange(MINUTE.start_us, MINUTE.start_us + minutes * 60_000_000)
    assert len(span.points) <= 61
    assert span.substitute("[$__rate_interval]") == f"[{max(20, 2 * span.points.step)}s]"


@pytest.mark.parametrize("result", [(), (over_time((0, "NaN")),)])
@pytest.mark.parametrize("kind", ["timeseries", "stat", "table"])
def test_panel_without_data_draws_no_data(kind: str, result: tuple[Any, ...]) -> None:
    """No series and a series without a number are the same."""
    found = e2e_panels.query(Prometheus(*result), panel(kind), MINUTE)
    assert "no data" in texts(drawn(found))


def test_failing_query_is_drawn_as_its_error() -> None:
    """The other panels are drawn nevertheless."""
    prometheus = Prometheus(error="parse error at char 3")
    assert "query failed: parse error at char 3" in texts(
        drawn(e2e_panels.query(prometheus, panel(), MINUTE))
    )


def test_panel_of_another_source_is_not_queried() -> None:
    """The panel names the source that it needs."""
    prometheus = Prometheus()
    assert "needs Loki" in texts(drawn(e2e_panels.query(prometheus, panel(source="loki"), MINUTE)))
    assert prometheus.queries == []


def test_stacked_areas_add_up_and_lines_do_not() -> None:
    """A missing value adds nothing. An override excludes a series from the stack."""
    stacking = panel()
    stacking["fieldConfig"]["defaults"]["custom"] = {"stacking": {"mode": "normal"}}
    excluded = {"id": "custom.stacking", "value": {"mode": "none"}}
    matcher = {"id": "byRegexp", "options": "/permitted$/"}
    stacking["fieldConfig"]["overrides"] = [{"matcher": matcher, "properties": [excluded]}]
    found = [series("a", 1, 2), series("b", 3, math.nan), series("permitted", 9, 9)]
    [axes] = drawn(Result(stacking, found)).axes
    outlines: list[Any] = [area.get_paths()[0].vertices for area in axes.collections]
    tops = [[max(y for x, y in outline if x == at) for at in (0, 1)] for outline in outlines]
    assert tops == [[1, 2], [4, 2]]
    [line] = axes.lines
    assert list(line.get_ydata())[:2] == [9, 9]  # type: ignore[arg-type]


def test_lines_have_the_values_of_their_series() -> None:
    """A mark is one more line, at its second, in the graph and in the title."""
    mark = Mark((START + 30) * 1_000_000, "store killed")
    figure = drawn(Result(panel(), [series("a", 1, 2), series("b", 3, 4)]), marks=(mark,))
    [axes] = figure.axes
    assert [list(line.get_ydata())[:2] for line in axes.lines] == [[1, 2], [3, 4], [0, 1]]  # type: ignore[arg-type]
    assert list(axes.lines[-1].get_xdata()) == [30, 30]  # type: ignore[arg-type]
    header = "A board 60 seconds from 2027-01-15 08:00:00 UTC. Dashed: store killed at 30 s."
    assert {header, "A panel, seconds", "a", "b"} <= {*texts(figure)}


def test_stat_is_one_number_with_its_unit() -> None:
    """A fraction is drawn in percent."""
    share = panel("stat")
    share["fieldConfig"]["defaults"]["unit"] = "percentunit"
    assert "43.06 %" in texts(drawn(Result(share, [Series("A", "", {}, [0.43062])])))


def test_table_merges_its_queries_by_label_set() -> None:
    """Columns have the panel's order and names. A query without a value leaves a cell empty."""
    limits = next(each for each in panels(BOARDS["fleetlimit-holds"]) if each["type"] == "table")
    bucket, fixed = {"policy": "bucket", "limit": "tb60"}, {"policy": "fixed", "limit": "fw10"}
    found = [
        Series("A", "", bucket, [120]),
        Series("A", "", fixed, [20]),
        Series("B", "", bucket, [60]),
    ]
    [columns, *rows] = e2e_panels.table(Result(limits, found))
    assert len(columns) == 4
    assert rows == [["bucket", "tb60", "120", "60"], ["fixed", "fw10", "20", ""]]
    assert {*columns, "bucket", "fw10", "120"} <= {*texts(drawn(Result(limits, found)))}


def test_page_contains_a_small_drawing_of_each_dashboard(tmp_path: Path) -> None:
    """Ten minutes of four pods on each panel; each drawing is also a file."""

    def get(path: str, parameters: Mapping[str, str]) -> Any:
        step = int(parameters.get("step", "1"))
        found = [{"pod": f"pod-{number}", "policy": "bucket"} for number in range(4)]
        if path == "query":
            return {"result": [{"metric": each, "value": [START, "1"]} for each in found]}
        values = [[START + at, str(at * at % 97 / 7)] for at in range(0, 601, step)]
        return {"result": [{"metric": each, "values": values} for each in found]}

    page = Page(Report(tmp_path))
    page.drawings = e2e_panels.draw(get, MINUTE.start_us, MINUTE.start_us + 600_000_000)
    page.write()
    html = (tmp_path / "index.html").read_text()
    assert list(page.drawings) == sorted(BOARDS)
    for uid, picture in page.drawings.items():
        assert f"<summary>{BOARDS[uid]['title']}</summary>" in html
        assert (tmp_path / f"{uid}.svg").read_text() == picture
        titles = [each["title"] for each in panels(BOARDS[uid]) if each["type"] != "text"]
        assert [title for title in titles if title not in picture] == []
        assert len(picture) < (100_000 if uid in COMMITTED else 200_000)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
