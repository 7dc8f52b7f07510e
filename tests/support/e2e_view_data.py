"""Asks a Prometheus what the panels of a board ask, over the time that is to be shown."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleetlimit.core.quota import SECOND_US
from support.boards import filled

Ask = Callable[[str, Mapping[str, str]], Any]
"""Sends parameters to a path of the HTTP API, such as `query`, and returns the answer's `data`.

It raises OSError or ValueError where there is none, with the reason as its message.
"""

_POINTS = 100
"""At most this many over time: a picture has to stay small."""
_RATE_S = 20
"""The seconds that a rate is over: four scrapes, as Grafana has it."""
_LABEL = re.compile(r"{{\s*(\w+)\s*}}")


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is shown.

    Args:
        start_us: Its begin, in microseconds since the epoch.
        end_us: Its end, the same.
    """

    start_us: int
    end_us: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_us - self.start_us) / SECOND_US

    @property
    def step(self) -> int:
        """Seconds between two points."""
        return max(1, math.ceil(self.seconds / _POINTS))

    @property
    def at(self) -> range:
        """The points, in seconds since the begin."""
        return range(0, int(self.seconds) + 1, self.step)

    def filled(self, expression: str, rate_s: int) -> str:
        """Write what Grafana would in place of the variables, where the reader picked all.

        Args:
            expression: A query of a board.
            rate_s: Seconds that a rate is over, at least.
        """
        interval_s, range_s = max(rate_s, 2 * self.step), math.ceil(self.seconds)
        for name, value in (("$__rate_interval", interval_s), ("$__range", range_s)):
            expression = expression.replace(name, f"{value}s")
        return filled(expression)


@dataclass(frozen=True, slots=True)
class Series:
    """What came back for one set of labels.

    Args:
        query: Letter of the query.
        name: What the legend says.
        labels: Each with its value.
        values: One for each point of the span, or the one at its end; NaN where there is none.
    """

    query: str
    name: str
    labels: Mapping[str, str]
    values: Sequence[float]

    @property
    def last(self) -> float:
        """The last value that is one; NaN if none is."""
        return next((each for each in reversed(self.values) if not math.isnan(each)), math.nan)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a panel has to show.

    Args:
        panel: The panel.
        series: What came back.
        instead: What to say where nothing did.
    """

    panel: Mapping[str, Any]
    series: Sequence[Series]
    instead: str = ""


def answer(ask: Ask, panel: Mapping[str, Any], span: Span) -> Answer:
    """Ask the queries of a panel."""
    if (kind := panel["datasource"]["type"]) != "prometheus":
        return Answer(panel, (), f"needs {kind.capitalize()}")
    try:
        series = [each for target in panel["targets"] for each in asked(ask, target, span, _RATE_S)]
    except (OSError, ValueError) as error:
        return Answer(panel, (), f"The query failed: {error}")
    if all(math.isnan(each.last) for each in series):
        return Answer(panel, (), panel["fieldConfig"]["defaults"]["noValue"])
    return Answer(panel, series)


def asked(ask: Ask, target: Mapping[str, Any], span: Span, rate_s: int) -> list[Series]:
    """Return what a query returns.

    Args:
        ask: Whom to ask.
        target: The query, at one time or over all.
        span: The time.
        rate_s: Seconds that its rates are over, at least.

    Raises:
        OSError: There is no answer.
        ValueError: It is that the query is wrong, or it is none of Prometheus.
    """
    query = span.filled(target["expr"], rate_s)
    start, end = span.start_us / SECOND_US, span.end_us / SECOND_US
    if target.get("instant"):
        data = ask("query", {"query": query, "time": f"{end:.3f}"})
        return [
            _series(target, each["metric"], [_finite(each["value"][1])]) for each in data["result"]
        ]
    times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": str(span.step)}
    data = ask("query_range", {"query": query, **times})
    found = []
    for each in data["result"]:
        values = {round((at - start) / span.step): _finite(value) for at, value in each["values"]}
        at_points = [values.get(number, math.nan) for number in range(len(span.at))]
        found.append(_series(target, each["metric"], at_points))
    return found


def _series(target: Mapping[str, Any], labels: Mapping[str, str], values: list[float]) -> Series:
    name = _LABEL.sub(lambda found: labels.get(found[1], ""), target.get("legendFormat", ""))
    return Series(target.get("refId", ""), name.strip(), labels, values)


def _finite(value: str) -> float:
    return found if math.isfinite(found := float(value)) else math.nan
