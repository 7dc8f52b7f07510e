"""Boards are found by their names, panels by their numbers, and nothing lies on anything else."""

import re
from typing import Any

import pytest

import boards
import links
from support.boards import BOARDS, FOLDER, panels
from variables import RUNBOOK

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def test_there_are_four_boards() -> None:
    """The boards are those that others link to."""
    assert set(BOARDS) == {links.HOLDS, links.THROTTLED, links.HEALTHY, links.FLEET}


@pytest.mark.parametrize("uid", BOARDS)
def test_a_board_is_called_as_its_file(uid: str) -> None:
    """The uid is the name of the file, and short enough for Grafana."""
    assert BOARDS[uid]["uid"] == uid
    assert len(uid) <= 40


@each_board
def test_a_number_stands_for_one_panel(board: Any) -> None:
    """No two panels of a board have one number, rows included, nor one title."""
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 0
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)


@each_board
def test_a_panel_is_numbered_from_its_row(board: Any) -> None:
    """A new panel takes a free number of its row, so that no other's changes."""
    row = 0
    for panel in board["panels"]:
        if panel["type"] == "row":
            row = panel["id"]
            assert row % 100 == 0
        else:
            assert row < panel["id"] < row + 100, panel["title"]


@each_board
def test_no_panel_lies_on_another(board: Any) -> None:
    """All panels are within the 24 columns, and each cell of the grid holds at most one."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@each_board
def test_no_line_of_panels_has_a_gap(board: Any) -> None:
    """Every line of panels fills the width."""
    lines: dict[int, int] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        lines[place["y"]] = lines.get(place["y"], 0) + place["w"]
    assert set(lines.values()) == {24}


@each_board
def test_figures_come_first_and_then_advice(board: Any) -> None:
    """A board begins with a line of figures, and then says what is healthy and what to do."""
    figures = [panel for panel in panels(board) if panel["gridPos"]["y"] == 1]
    assert {panel["type"] for panel in figures} == {"stat"}
    text = panels(board)[len(figures)]["options"]["content"]
    assert "| Look at | Healthy | If not |" in text
    assert "${runbook}" in text


@each_board
def test_boards_lead_to_each_other(board: Any) -> None:
    """Each board links to all that share its tag, with the reader's choice and time."""
    (link,) = board["links"]
    assert link["type"] == "dashboards"
    assert link["tags"] == board["tags"] == ["fleetlimit"]
    assert link["includeVars"]
    assert link["keepTime"]


@pytest.mark.parametrize("uid", BOARDS)
def test_the_runbook_has_one_address(uid: str) -> None:
    """The runbook's address stands once, as a variable, so that a chart can replace it."""
    text = (FOLDER / f"{uid}.json").read_text(encoding="utf-8")
    assert text.count(f'"query": "{RUNBOOK}"') == 1
    assert text.count(RUNBOOK) == 3  # the default, and the current value with its text


def test_the_advice_leads_to_sections_that_there_are() -> None:
    """Every link into the runbook names a heading of it."""
    runbook = (FOLDER.parent / RUNBOOK).read_text(encoding="utf-8")
    sections = {head.lower() for head in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    linked = set(re.findall(r"\$\{runbook\}#([\w-]+)", str(BOARDS)))
    assert linked
    assert linked <= sections


def test_panels_are_found_by_board_and_title() -> None:
    """The table of numbers is that of the committed boards."""
    assert dict(boards.PANELS) == {
        (uid, panel["title"]): panel["id"]
        for uid, board in BOARDS.items()
        for panel in panels(board)
    }


def test_the_path_of_a_panel() -> None:
    """A panel's path names its board and its number; a title that there is not is an error."""
    assert boards.panel_path(links.HOLDS, "Overshoot") == "/d/fleetlimit-holds?viewPanel=101"
    with pytest.raises(KeyError):
        boards.panel_path(links.HOLDS, "Undershoot")


def test_a_panel_that_may_be_empty_says_why() -> None:
    """What may be empty with pods scraped has its reason, and the headline is never silently so."""
    empty = boards.EXPECTED_EMPTY
    assert set(empty) <= set(boards.PANELS)
    assert empty[links.HOLDS, "Overshoot"] == "not audited"
    assert (links.HOLDS, "Replicas serving") not in empty


@each_board
def test_a_gap_never_has_the_colour_of_good(board: Any) -> None:
    """A figure without a value says so, in a colour that is not green."""
    for panel in panels(board):
        if panel["type"] == "stat":
            gap = panel["fieldConfig"]["defaults"]["mappings"][-1]["options"]
            assert gap["match"] == "null+nan"
            assert gap["result"]["color"] not in {"green", "blue"}
            assert gap["result"]["text"] == panel["fieldConfig"]["defaults"]["noValue"]
