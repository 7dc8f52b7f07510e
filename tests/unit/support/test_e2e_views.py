"""The views show what the boards would, and say what they cannot show."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest

for extra in ("kr8s", "jinja2", "matplotlib"):
    pytest.importorskip(extra, reason="the kind suite needs the extra e2e")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from support.boards import BOARDS, panels
from support.e2e_figure import svg
from support.e2e_page import Page
from support.e2e_report import Report
from support.e2e_view_board import figure
from support.e2e_view_cards import columns
from support.e2e_view_data import Answer, Series, Span, answer
from support.e2e_view_frame import Scene
from support.e2e_view_moments import Moment, moments
from support.e2e_views import View, draw

START: Final = 1_800_000_000
SPAN: Final = Span(START * 1_000_000, (START + 90) * 1_000_000)
OUTAGE: Final = Moment("The store was not asked", "red", [(30, 40)])


def ask(path: str, parameters: Mapping[str, str]) -> Any:
    """Answer as a Prometheus would that has seen three pods, whatever is asked."""
    found = [
        {"pod": f"fleetlimit-{number}", "le": str(10.0 ** (number - 4)), "policy": "bucket"}
        for number in range(3)
    ]
    if path == "query":
        return {"result": [{"metric": each, "value": [START, "1"]} for each in found[:1]]}
    at = range(0, 91, int(parameters["step"]))
    return {
        "result": [
            {"metric": each, "values": [[START + second, str(second % 7 + 1)] for second in at]}
            for each in found
        ]
    }


def away(path: str, _: Mapping[str, str]) -> Any:
    """Fail as a Prometheus that has gone."""
    raise ConnectionRefusedError(f"nobody answers {path}")


def drawn(uid: str, asked: Any = ask) -> Figure:
    board = BOARDS[uid]
    answers = [answer(asked, each, SPAN) for each in panels(board) if each["type"] != "text"]
    return figure(board, answers, [OUTAGE], SPAN)


def told(shown: Figure) -> str:
    """Return all that can be read, in one line."""
    texts = (text.get_text() for box in shown.axes for text in box.texts)
    return " ".join(" ".join(texts).split())


def graph(found: list[Series], **custom: object) -> tuple[Axes, Axes]:
    """Return a box and the plot in it of a graph of these series."""
    defaults = {"unit": "s", "color": {"mode": "palette-classic-by-name"}, "custom": custom}
    panel = {
        "id": 1,
        "type": "timeseries",
        "title": "A graph",
        "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8},
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }
    board = {"title": "A board", "panels": [panel]}
    _, box = figure(board, [Answer(panel, found)], [OUTAGE], SPAN).axes
    [plot] = box.child_axes
    assert isinstance(plot, Axes)
    return box, plot


def series(name: str, *values: float) -> Series:
    missing = [math.nan] * (len(SPAN.at) - len(values))
    return Series("A", name, {"pod": name}, [*values, *missing])


@pytest.fixture(scope="module")
def views() -> list[View]:
    return draw(ask, SPAN.start_us, SPAN.end_us)


def test_every_board_is_shown(views: list[View]) -> None:
    """Each has a picture that is well-formed and small, and its text."""
    assert [each.uid for each in views] == sorted(BOARDS)
    for view in views:
        assert ET.fromstring(view.picture).tag.endswith("svg")  # noqa: S314 - our own
        assert len(view.picture) < 20_000 * len(BOARDS[view.uid]["panels"])
        assert "<table>" in view.text


@pytest.mark.parametrize("uid", BOARDS)
def test_every_panel_is_there(uid: str) -> None:
    """Titles of panels and rows, and of the board; texts are not in the picture."""
    text = told(drawn(uid))
    titles = (each["title"] for each in BOARDS[uid]["panels"] if each["type"] != "text")
    assert [title for title in (BOARDS[uid]["title"], *titles) if title not in text] == []


@pytest.mark.parametrize("uid", BOARDS)
def test_nothing_is_outside_of_its_panel(uid: str) -> None:
    """No plot reaches into a title or over the edge of its box, and none is without height."""
    for box in drawn(uid).axes:
        for plot in box.child_axes:
            inner, outer = plot.get_window_extent(), box.get_window_extent()
            assert outer.x0 < inner.x0 < inner.x1 < outer.x1
            assert outer.y0 < inner.y0 < inner.y1 < outer.y1
            assert inner.height > 0.4 * outer.height


def test_panels_without_an_answer_say_why() -> None:
    """Every panel that asks Prometheus tells of the failure, and the one of the logs of Loki."""
    text = told(drawn("fleetlimit-throttled", away))
    asks = [each for each in panels(BOARDS["fleetlimit-throttled"]) if "datasource" in each]
    assert text.count("The query failed: nobody") + text.count("needs Loki") == len(asks)
    assert text.count("needs Loki") == 2


def test_what_happened_is_marked_and_named() -> None:
    """It is in every graph from when it began, and once at the top."""
    shown = drawn("fleetlimit-holds")
    graphs = [plot for box in shown.axes for plot in box.child_axes]
    assert len(graphs) == 7
    for plot in graphs:
        assert [30, 30] in [list(line.get_xdata()) for line in plot.lines]  # type: ignore[arg-type]
    assert told(shown).count(OUTAGE.what) == 1


def test_what_stacks_is_drawn_on_what_was_before() -> None:
    """A gap adds nothing; what does not stack is drawn from the ground."""
    found = [series("a", 1, 2), series("b", 3, math.nan)]
    _, plot = graph(found, fillOpacity=40, stacking={"mode": "normal"})
    assert [list(line.get_ydata())[:2] for line in plot.lines[1:]] == [[1, 2], [4, 2]]  # type: ignore[arg-type]
    _, plot = graph([series("a", 1, 2), series("b", 3, 4)])
    assert [list(line.get_ydata())[:2] for line in plot.lines[1:]] == [[1, 2], [3, 4]]  # type: ignore[arg-type]


def test_ticks_are_round_in_their_unit() -> None:
    """Thirty milliseconds are not told as a part of a second."""
    _, plot = graph([series("a", 0.03)])
    assert [each.get_text() for each in plot.get_yticklabels()] == [
        *("0 s", "10 ms", "20 ms", "30 ms"),
    ]


@pytest.mark.parametrize("count", [1, 4, 12, 80])
def test_a_legend_fits(count: int) -> None:
    """It stays within its panel and below the plot; how many are not named is told."""
    box, plot = graph([series(f"fleetlimit-6c9d5f7b8-{number:05}", 1) for number in range(count)])
    legend = box.get_legend()
    assert legend is not None
    inner, outer = legend.get_window_extent(), box.get_window_extent()
    assert outer.x0 <= inner.x0 < inner.x1 <= outer.x1
    assert outer.y0 <= inner.y0 < inner.y1 < plot.get_window_extent().y0
    *named, last = [each.get_text() for each in legend.get_texts()]
    more = f"and {count - len(named)} more"
    assert last == (f"fleetlimit-6c9d5f7b8-{count - 1:05}" if len(named) == count - 1 else more)


def test_a_name_keeps_its_colour() -> None:
    """It has the same one in all graphs, unless another has it there; so has what it may do."""
    scene = Scene(SPAN, [])
    first = scene.tones(["a", "b", "b permitted"], {})
    assert first["a"] != first["b"] == first["b permitted"]
    assert scene.tones(["c", "b"], {})["b"] == first["b"]
    assert scene.tones(["a", "c"], {"c": first["a"]})["a"] != first["a"]
    many = [str(number) for number in range(20)]
    assert scene.tones(many, {}).keys() == set(many)


def test_a_table_is_merged_ordered_and_named() -> None:
    """What two queries say of the same labels is one row; what has no value is empty."""
    panel = next(each for each in panels(BOARDS["fleetlimit-holds"]) if each["type"] == "table")
    bucket, fixed = {"policy": "bucket", "limit": "tb60"}, {"policy": "fixed", "limit": "fw10"}
    found = [
        Series("A", "", bucket, [120]),
        Series("A", "", fixed, [20]),
        Series("B", "", bucket, [60]),
    ]
    shown = {each.name: [text for text, _ in each.cells] for each in columns(Answer(panel, found))}
    assert list(shown.items()) == [
        ("Policy", ["bucket", "fixed"]),
        ("Limit", ["tb60", "fw10"]),
        ("Units", ["120", "20"]),
        ("Window", ["1 min", ""]),
    ]


def test_the_same_answers_give_the_same_pictures(views: list[View]) -> None:
    """A committed picture changes only where what it shows has changed."""
    [fleet] = [each for each in views if each.uid == "fleetlimit-fleet"]
    board = BOARDS[fleet.uid]
    answers = [answer(ask, each, SPAN) for each in panels(board) if each["type"] != "text"]
    assert svg(figure(board, answers, moments(ask, board, SPAN), SPAN)) == fleet.picture


def test_the_page_shows_the_views(views: list[View], tmp_path: Path) -> None:
    """Each is on the page and in a file of its own; ids of the pictures are apart."""
    page = Page(Report(tmp_path))
    page.views = views
    page.write()
    html = (tmp_path / "index.html").read_text()
    assert "What the dashboards show" in html
    for view in views:
        assert f"<summary>{view.title}</summary>" in html
        assert (tmp_path / f"{view.uid}.svg").read_text() == view.picture
    ids = Counter(re.findall(r'\bid="([^"]*)"', html))
    assert [name for name, count in ids.items() if count > 1] == []
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', html)) <= ids.keys()


def test_a_page_without_views_does_not_speak_of_them(tmp_path: Path) -> None:
    """Where there was no Prometheus there is no such section."""
    page = Page(Report(tmp_path))
    page.write()
    assert "dashboards" not in (tmp_path / "index.html").read_text()
