"""Shows what the boards would have shown of a time, for those who have no Grafana."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from support.boards import BOARDS, panels
from support.e2e_figure import svg
from support.e2e_view_board import figure
from support.e2e_view_data import Ask, Span, answer
from support.e2e_view_moments import moments
from support.e2e_view_text import rendered


@dataclass(frozen=True, slots=True)
class View:
    """What a board shows.

    Args:
        uid: Of the board.
        title: Of the board.
        picture: Its panels as SVG.
        text: What it says about them, as HTML.
    """

    uid: str
    title: str
    picture: str
    text: Markup


def draw(ask: Ask, start_us: int, end_us: int) -> list[View]:
    """Return what each board shows; where a query fails, its panel says so.

    Args:
        ask: Asks a Prometheus that has scraped the pods.
        start_us: From when on, in microseconds since the epoch.
        end_us: Until when, the same.
    """
    span = Span(start_us, end_us)
    return [_view(ask, board, span) for _, board in sorted(BOARDS.items())]


def _view(ask: Ask, board: dict[str, Any], span: Span) -> View:
    texts: Sequence[dict[str, Any]] = [each for each in panels(board) if each["type"] == "text"]
    answers = [answer(ask, each, span) for each in panels(board) if each["type"] != "text"]
    drawn = figure(board, answers, moments(ask, board, span), span)
    text = Markup("\n").join(rendered(board, each) for each in texts)
    return View(board["uid"], board["title"], svg(drawn), text)
