"""Draws a whole board as one figure: its rows and panels about where Grafana has them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fleetlimit.core.quota import SECOND_US
from support import e2e_view_cards as cards
from support import e2e_view_graphs as graphs
from support.e2e_figure import style
from support.e2e_view_data import Answer, Span
from support.e2e_view_frame import CHARACTER, Scene, box_of
from support.e2e_view_moments import Moment
from support.e2e_view_words import GREY, color

_WIDTH: Final = 12.0
_COLUMN: Final = _WIDTH / 24
"""Grafana's grid has 24 columns."""
_UNIT, _NOTHING = 0.26, 0.9
"""Inches of a unit of that grid's height, and of a panel that has nothing to draw."""
_HEAD, _ROW, _GAP = 0.62, 0.38, 0.08
_GRAPHS: Final = {
    "timeseries": graphs.lines,
    "heatmap": graphs.heatmap,
    "state-timeline": graphs.states,
}
_CARDS: Final = {"stat": cards.figure, "table": cards.table}


def figure(
    board: Mapping[str, Any], answers: Sequence[Answer], moments: Sequence[Moment], span: Span
) -> Figure:
    """Return the figure of a board.

    Args:
        board: The board.
        answers: What its panels have to show, in their order.
        moments: What is marked in its graphs.
        span: The time that is shown.
    """
    shown = {each.panel["id"]: each for each in answers}
    panels = [each for each in board["panels"] if each["type"] == "row" or each["id"] in shown]
    bands = [list(band) for _, band in groupby(panels, lambda each: each["gridPos"]["y"])]
    heights = [max(_height(each, shown) for each in band) for band in bands]
    scene = Scene(span, moments)
    with style():
        whole = Figure(figsize=(_WIDTH, _HEAD + sum(heights)))
        _head(box_of(whole, 0, 0, _WIDTH, _HEAD), board, moments, span)
        top = _HEAD
        for band, height in zip(bands, heights, strict=True):
            for panel in band:
                at, width = (panel["gridPos"][each] * _COLUMN for each in ("x", "w"))
                box = box_of(whole, at + _GAP / 2, top, width - _GAP, height - _GAP)
                if panel["type"] == "row":
                    box.text(0.04, 0.22, panel["title"], va="center", size=11, weight="bold")
                else:
                    _draw(scene, box, shown[panel["id"]])
            top += height
    return whole


def _height(panel: Mapping[str, Any], shown: Mapping[int, Answer]) -> float:
    if panel["type"] == "row":
        return _ROW
    answer = shown[panel["id"]]
    if not answer.series:
        return _NOTHING
    if panel["type"] == "table":
        return cards.table_height(answer) + _GAP
    return float(panel["gridPos"]["h"] * _UNIT)


def _draw(scene: Scene, box: Axes, answer: Answer) -> None:
    box.spines[:].set(visible=True, color="#D4D4D4", lw=0.8)
    box.text(0.14, 0.16, answer.panel["title"], va="center", weight="bold")
    kind = answer.panel["type"]
    if kind in _CARDS and (answer.series or kind == "stat"):
        _CARDS[kind](box, answer)
    elif answer.series:
        _GRAPHS[kind](scene, box, answer)
    else:
        cards.nothing(box, answer)


def _head(box: Axes, board: Mapping[str, Any], moments: Sequence[Moment], span: Span) -> None:
    begin = datetime.fromtimestamp(span.start_us // SECOND_US, UTC)
    box.text(0.08, 0.2, board["title"], va="center", size=13, weight="bold")
    when = f"minutes and seconds since {begin:%Y-%m-%d %H:%M:%S} UTC"
    box.text(_WIDTH - 0.1, 0.2, when, ha="right", va="center", color=GREY)
    left = 0.08
    for moment in moments:
        box.plot([left + 0.05] * 2, [0.4, 0.56], color=color(moment.color), lw=1.4, ls=(0, (3, 2)))
        box.text(left + 0.13, 0.48, moment.what, va="center")
        left += CHARACTER * len(moment.what) + 0.5
