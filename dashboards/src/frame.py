"""Puts a board together: its name, its variables, its marks, and its panels row by row."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import Dashboard as Builder
from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    GridPos,
    Panel,
    RowPanel,
)

from moments import moments
from variables import Variable

TAG = "fleetlimit"
_COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one head.

    Args:
        number: Fixed, like a panel's; its panels are numbered from it on.
        title: Head of the row.
        panels: Its panels, from left to right, and on below where there is no room.
    """

    number: int
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """A board.

    Args:
        uid: Name of its file, and how it is linked to.
        title: The question that it answers.
        about: What it is for, in a sentence.
        variables: What the reader chooses.
        rows: Its panels.
    """

    uid: str
    title: str
    about: str
    variables: Sequence[Variable]
    rows: Sequence[Row]

    def panels(self) -> Sequence[Panel]:
        """Return the panels of all rows."""
        return [panel for row in self.rows for panel in row.panels]

    def dashboard(self) -> Dashboard:
        """Return it as Grafana has it."""
        others = DashboardLink("Fleetlimit").type(DashboardLinkType.DASHBOARDS).tags([TAG])
        built = (
            Builder(f"Fleetlimit / {self.title}")
            .uid(self.uid)
            .description(self.about)
            .tags([TAG])
            .readonly()
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .time("now-1h", "now")
            .refresh("30s")
            .variables(list(self.variables))
            .annotations(list(moments()))
            .link(others.include_vars(include_vars=True).keep_time(keep_time=True))
            .build()
        )
        built.panels = list(_placed(self.rows))
        return built


def _placed(rows: Sequence[Row]) -> list[Panel | RowPanel]:
    """Give every panel its place: in lines from left to right, a line as high as its highest."""
    placed: list[Panel | RowPanel] = []
    y = 0
    for row in rows:
        place = GridPos(h=1, w=_COLUMNS, x=0, y=y)
        placed.append(RowPanel(title=row.title, id_val=row.number, grid_pos=place))
        x, y, next_y = 0, y + 1, y + 1
        for panel in row.panels:
            size = panel.grid_pos or GridPos()
            if x + size.w > _COLUMNS:
                x, y = 0, next_y
            panel.grid_pos = GridPos(h=size.h, w=size.w, x=x, y=y)
            x, next_y = x + size.w, max(next_y, y + size.h)
            placed.append(panel)
        y = next_y
    return placed
