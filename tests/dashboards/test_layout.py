"""Layout of the dashboards: ids, titles, grid positions, and the first screen of a laptop."""

import re
from typing import Any, Final

import pytest

import generate
from dashboard import FLEET, HEALTHY, HOLDS, RUNBOOK, THROTTLED
from support.boards import BOARDS, FOLDER, panels
from support.tool import ROOT

SCREEN_PX: Final = 900
"""Height of a laptop's screen."""
CHROME_PX: Final = 300
"""Height of the browser's bars and of Grafana's header with two lines of variables."""
UNIT_PX: Final = 38
"""Height of a unit of Grafana's grid, with its margin."""

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def test_boards_have_known_uids() -> None:
    """There are four dashboards, with the uids that links use."""
    assert set(BOARDS) == {HOLDS, THROTTLED, HEALTHY, FLEET}


@pytest.mark.parametrize("uid", BOARDS)
def test_uid_is_the_file_name(uid: str) -> None:
    """The uid is the file name, and within Grafana's limit of 40 characters."""
    assert BOARDS[uid]["uid"] == uid
    assert len(uid) <= 40


@each_board
def test_ids_and_titles_are_unique(board: Any) -> None:
    """No two panels or rows of a dashboard share an id, and no two panels a title."""
    rows = [each for each in board["panels"] if each["type"] == "row"]
    ids = [each["id"] for each in (*rows, *panels(board))]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)


@each_board
def test_panel_ids_follow_their_row(board: Any) -> None:
    """A new panel takes a free id of its row, so that no other id changes."""
    row = 0
    for each in board["panels"]:
        if each["type"] == "row":
            row = each["id"]
            assert row % 100 == 0
        for panel in each.get("panels", ()) if each["type"] == "row" else (each,):
            assert row < panel["id"] < row + 100, panel["title"]


@each_board
def test_panels_do_not_overlap(board: Any) -> None:
    """All panels are within the 24 columns, and each cell of the grid has at most one panel."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@each_board
def test_grid_has_no_holes(board: Any) -> None:
    """The panels fill the 24 columns from the top to the bottom."""
    positions = [panel["gridPos"] for panel in board["panels"]]
    bottom = max(at["y"] + at["h"] for at in positions)
    assert sum(at["w"] * at["h"] for at in positions) == 24 * bottom


@each_board
def test_first_screen_shows_a_graph(board: Any) -> None:
    """Below the stat panels, the first panel that a laptop's screen shows is a whole graph."""
    shown = [each for each in board["panels"] if each["type"] != "row"]
    stats = [each for each in shown if each["gridPos"]["y"] == 1]
    assert {each["type"] for each in stats} == {"stat"}
    first = shown[len(stats)]
    assert first["type"] == "timeseries"
    bottom = first["gridPos"]["y"] + first["gridPos"]["h"]
    assert bottom * UNIT_PX <= SCREEN_PX - CHROME_PX


@each_board
def test_advice_is_in_a_collapsed_row(board: Any) -> None:
    """The second row is closed, and contains the advice table with links into the runbook."""
    _, row, *_ = (each for each in board["panels"] if each["type"] == "row")
    assert row["collapsed"]
    (advice,) = row["panels"]
    assert "| Look at | Healthy | If not |" in advice["options"]["content"]
    assert "${runbook}" in advice["options"]["content"]


@each_board
def test_boards_link_to_each_other(board: Any) -> None:
    """Each dashboard links to all with its tag, and keeps variables and time range."""
    (link,) = board["links"]
    assert link["type"] == "dashboards"
    assert link["tags"] == board["tags"] == ["fleetlimit"]
    assert link["includeVars"]
    assert link["keepTime"]


@pytest.mark.parametrize("uid", BOARDS)
def test_runbook_address_is_one_variable(uid: str) -> None:
    """The address is in one variable only, so that the chart can replace it."""
    text = (FOLDER / f"{uid}.json").read_text(encoding="utf-8")
    assert text.count(f'"query": "{RUNBOOK}"') == 1
    assert text.count(RUNBOOK) == 3  # the default, and the current value with its text


def test_advice_links_to_existing_sections() -> None:
    """Every link into the runbook is the anchor of a heading."""
    runbook = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    sections = {head.lower() for head in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    linked = set(re.findall(r"\$\{runbook\}#([\w-]+)", str(BOARDS)))
    assert linked
    assert linked <= sections


def test_panel_ids_are_those_of_the_committed_boards() -> None:
    """The ids that alerts link to are the committed ones."""
    ids = {
        (uid, panel["title"]): panel["id"]
        for uid, board in BOARDS.items()
        for panel in panels(board)
        if panel["type"] != "text"
    }
    assert generate.panel_ids() == ids


def test_panels_without_values_give_a_reason() -> None:
    """The overshoot is "not audited" without an audit. "no data" means that no pod is scraped."""
    texts = {
        panel["title"]: panel["fieldConfig"]["defaults"]["noValue"]
        for panel in panels(BOARDS[HOLDS])
        if panel["type"] != "text"
    }
    assert texts["Overshoot"] == "not audited"
    assert texts["Replicas serving"] == "no data"


@each_board
def test_missing_values_are_not_green(board: Any) -> None:
    """A stat panel without a value shows a text in a colour that does not mean healthy."""
    for panel in panels(board):
        if panel["type"] == "stat":
            missing = panel["fieldConfig"]["defaults"]["mappings"][-1]["options"]
            assert missing["match"] == "null+nan"
            assert missing["result"]["color"] not in {"green", "blue"}
            assert missing["result"]["text"] == panel["fieldConfig"]["defaults"]["noValue"]
