"""All boards: as files, and as the numbers of their panels for those who link to them."""

import json
from collections.abc import Mapping
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

import fleet
import healthy
import holds
import links
import throttled
from frame import Board
from meaning import NOT_SCRAPED
from panels import says_when_empty

BOARDS: Final[tuple[Board, ...]] = (
    holds.board(),
    throttled.board(),
    healthy.board(),
    fleet.board(),
)

PANELS: Final[Mapping[tuple[str, str], int]] = {
    (board.uid, panel.title or ""): panel.id_val or 0
    for board in BOARDS
    for panel in board.panels()
}
"""Number of each panel, by the uid of its board and its title."""

EXPECTED_EMPTY: Final[Mapping[tuple[str, str], str]] = {
    (board.uid, panel.title or ""): said
    for board in BOARDS
    for panel in board.panels()
    if (said := says_when_empty(panel)) not in {"", NOT_SCRAPED.text}
}
"""What a panel says that may be empty although pods are scraped, by board and title."""


def panel_path(uid: str, title: str) -> str:
    """Return the path of a panel, for the annotations of an alert.

    Args:
        uid: The board's uid, such as `links.HOLDS`.
        title: The panel's title.

    Raises:
        KeyError: There is no such panel.
    """
    return links.panel(uid, PANELS[uid, title])


def files() -> dict[str, str]:
    """Return the text of each file, by its name."""
    return {
        f"{board.uid}.json": json.dumps(
            board.dashboard(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n"
        for board in BOARDS
    }
