"""A panel's queries are asked as Grafana would ask them, and what comes back is put in order."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from support.e2e_view_data import Span, answer
from support.e2e_view_moments import Moment, moments

START = 1_800_000_000
MINUTE = Span(START * 1_000_000, (START + 60) * 1_000_000)


class Prometheus:
    """Gives one answer to everything, and remembers what it was asked."""

    def __init__(self, *result: Mapping[str, Any], fails: str = "") -> None:
        self.result, self.fails = result, fails
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    def __call__(self, path: str, parameters: Mapping[str, str]) -> Any:
        """Answer."""
        self.asked.append((path, parameters))
        if self.fails:
            raise ValueError(self.fails)
        return {"result": self.result}


def panel(kind: str = "prometheus", **target: object) -> dict[str, Any]:
    return {
        "datasource": {"type": kind},
        "targets": [{"refId": "A", "expr": "up", **target}],
        "fieldConfig": {"defaults": {"noValue": "no data"}},
    }


def marks(**more: object) -> dict[str, Any]:
    moment = {"name": "Reloads", "expr": "up", "titleFormat": "Policies: {{result}}", **more}
    return {"annotations": {"list": [{"iconColor": "blue", **moment}]}}


def over_time(*values: tuple[float, str], **labels: str) -> dict[str, Any]:
    return {"metric": labels, "values": [(START + at, value) for at, value in values]}


def test_what_is_instant_is_asked_at_the_end() -> None:
    """Variables are filled as where the reader picked all; the range is what is shown."""
    ask = Prometheus({"metric": {"pod": "a"}, "value": [START, "3"]})
    query = 'increase(x{pod=~"$instance"}[$__range]) + rate(x[$__rate_interval])'
    [series] = answer(ask, panel(expr=query, instant=True), MINUTE).series
    assert (series.labels, series.values) == ({"pod": "a"}, [3])
    filled = 'increase(x{pod=~".+"}[60s]) + rate(x[20s])'
    assert ask.asked == [("query", {"query": filled, "time": f"{START + 60}.000"})]


def test_what_is_over_time_has_a_value_or_a_gap_at_each_point() -> None:
    """Where Prometheus returned nothing, or no finite number, there is none."""
    ask = Prometheus(over_time((0, "1"), (2, "+Inf"), (3, "NaN"), (4, "5")))
    [series] = answer(ask, panel(), MINUTE).series
    [(path, parameters)] = ask.asked
    assert path == "query_range"
    assert parameters["step"] == "1"
    assert len(series.values) == len(MINUTE.at) == 61
    assert [each for each in enumerate(series.values) if not math.isnan(each[1])] == [
        (0, 1),
        (4, 5),
    ]
    assert series.last == 5


@pytest.mark.parametrize("minutes", [1, 3, 10, 60])
def test_a_longer_time_has_no_more_points(minutes: int) -> None:
    """Points are whole seconds apart, and rates reach over more than one of them."""
    span = Span(MINUTE.start_us, MINUTE.start_us + minutes * 60_000_000)
    assert len(span.at) <= 101
    assert span.filled("[$__rate_interval]", 5) == f"[{max(5, 2 * span.step)}s]"


def test_a_legend_is_made_of_labels() -> None:
    """A label that is not there leaves nothing behind."""
    ask = Prometheus(over_time((0, "1"), policy="bucket"))
    [series] = answer(ask, panel(legendFormat="{{policy}} {{ tier }}"), MINUTE).series
    assert series.name == "bucket"


@pytest.mark.parametrize("result", [(), (over_time((0, "NaN")),)])
def test_an_empty_panel_says_what_the_board_has_it_say(result: tuple[Any, ...]) -> None:
    """No series, and series without a number, are the same."""
    assert answer(Prometheus(*result), panel(), MINUTE).instead == "no data"


def test_a_query_that_fails_is_told() -> None:
    """The panel says why."""
    found = answer(Prometheus(fails="parse error at char 3"), panel(), MINUTE)
    assert (found.series, found.instead) == ((), "The query failed: parse error at char 3")


def test_what_is_in_logs_is_not_asked() -> None:
    """The panel says what it would need."""
    ask = Prometheus()
    assert answer(ask, panel("loki"), MINUTE).instead == "needs Loki"
    assert ask.asked == []


def test_moments_last_as_long_as_there_are_values() -> None:
    """Each is one for all series that are called the same, and looks back a few seconds only."""
    first = over_time((3, "1"), (4, "1"), (9, "1"), result="taken", pod="a")
    ask = Prometheus(first, over_time((2, "1"), (3, "1"), result="taken", pod="b"))
    found = moments(ask, marks(expr="changes(x[$__rate_interval])"), MINUTE)
    assert found == [Moment("Policies: taken", "blue", [(2, 4), (9, 9)])]
    assert ask.asked[0][1]["query"] == "changes(x[10s])"


def test_a_moment_may_be_what_a_value_says() -> None:
    """Milliseconds since the epoch are marked where they are within what is shown."""
    ask = Prometheus(
        over_time((3, f"{START - 7}000"), (4, f"{START + 2}500"), (5, f"{START + 2}500"))
    )
    [found] = moments(ask, marks(useValueForTime=True), MINUTE)
    assert found.times == [(2.5, 2.5)]


def test_a_moment_that_never_was_is_not_mentioned() -> None:
    """A pod that started long before is none."""
    ask = Prometheus(over_time((3, f"{START - 7}000")))
    assert moments(ask, marks(useValueForTime=True), MINUTE) == []


def test_moments_that_could_not_be_asked_for_are_told() -> None:
    """They are marked nowhere."""
    found = moments(Prometheus(fails="away"), marks(), MINUTE)
    assert found == [Moment("Reloads: the query failed", "blue", ())]
