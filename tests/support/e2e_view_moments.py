"""Asks for the moments that a board marks in its graphs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fleetlimit.core.quota import SECOND_US
from support.e2e_view_data import Ask, Series, Span, asked

_RATE_S = 10
"""The seconds that are looked back for a change: two scrapes, or it might be missed."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that a board marks in its graphs.

    Args:
        what: What, in a few words.
        color: In the words of Grafana.
        times: From when to when, in seconds since the begin of the span.
    """

    what: str
    color: str
    times: Sequence[tuple[float, float]]


def moments(ask: Ask, board: Mapping[str, Any], span: Span) -> list[Moment]:
    """Ask for what a board marks; where a query failed that is told, and nothing is marked."""
    found: dict[tuple[str, str], set[tuple[float, float]]] = {}
    failed: list[Moment] = []
    for marked in board["annotations"]["list"]:
        named = {"legendFormat": marked["titleFormat"], **marked}
        times = _values_as_times if marked.get("useValueForTime") else _times
        try:
            for each in asked(ask, named, span, _RATE_S):
                found.setdefault((each.name, marked["iconColor"]), set()).update(times(each, span))
        except (OSError, ValueError):
            failed.append(Moment(f"{marked['name']}: the query failed", marked["iconColor"], ()))
    known = [Moment(what, color, _merged(at)) for (what, color), at in found.items() if at]
    return known + failed


def _merged(times: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for start, end in sorted(times):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _times(series: Series, span: Span) -> list[tuple[float, float]]:
    known = zip(span.at, series.values, strict=True)
    groups = groupby(known, lambda each: math.isnan(each[1]))
    spans = [[at for at, _ in group] for missing, group in groups if not missing]
    return [(each[0], each[-1]) for each in spans]


def _values_as_times(series: Series, span: Span) -> list[tuple[float, float]]:
    values = {each for each in series.values if not math.isnan(each)}
    seconds = (value / 1000 - span.start_us / SECOND_US for value in values)
    return [(at, at) for at in seconds if 0 <= at <= span.seconds]
