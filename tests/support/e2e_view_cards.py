"""Draws what a board says at one time: single figures, tables, and why there is nothing to draw."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from support.e2e_view_data import Answer
from support.e2e_view_frame import CHARACTER, TOP, inches
from support.e2e_view_words import GREY, settings, shown

_MIDDLE: Final[Mapping[str, Any]] = {"ha": "center", "va": "center"}
_LINES = 3
"""At most this many where there is nothing to draw."""
_TINT = 0.18
_LARGE, _LARGE_CHARACTER = 17, 0.16
_ROW, _MARGIN, _GAP = 0.22, 0.1, 3
"""The height of a table's row, what is beside it, and characters between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        name: Its head.
        cells: Text and colour of each, without a colour where it is empty.
    """

    name: str
    cells: Sequence[tuple[str, str]]

    @property
    def width(self) -> int:
        """In characters, with the space before the next."""
        return max(len(text) for text in (self.name, *(text for text, _ in self.cells))) + _GAP


def figure(box: Axes, answer: Answer) -> None:
    """Draw one figure on its colour, or what is said in its place."""
    value = answer.series[0].last if answer.series else math.nan
    text, tone = shown(value, settings(answer.panel, ""))
    text = answer.instead or text
    width, height = inches(box)
    box.patch.set(visible=True, facecolor=[1 - _TINT * (1 - each) for each in to_rgb(tone)])
    box.add_patch(Rectangle((0, 0), 0.06, height, color=tone, lw=0))
    large = len(text) * _LARGE_CHARACTER < width
    size = _LARGE if large else None
    box.text(
        width / 2, 0.64 * height, text if large else _wrapped(text, width), size=size, **_MIDDLE
    )


def nothing(box: Axes, answer: Answer) -> None:
    """Say why there is nothing to draw."""
    width, height = inches(box)
    box.text(width / 2, 0.64 * height, _wrapped(answer.instead, width), color=GREY, **_MIDDLE)


def table(box: Axes, answer: Answer) -> None:
    """Draw a table as far as its columns go."""
    found = columns(answer)
    scale = (inches(box)[0] - 2 * _MARGIN) / sum(each.width for each in found)
    left = _MARGIN
    for column in found:
        width = column.width * scale
        for row, (text, tone) in enumerate([(column.name, ""), *column.cells]):
            y = TOP + _ROW * (row + 0.5)
            if tone:
                room = (left, y - _ROW / 2), width - 0.04, _ROW - 0.03
                box.add_patch(Rectangle(*room, color=tone, alpha=0.3, lw=0))
            weight = "normal" if row else "bold"
            box.text(left + 0.05, y, text, va="center", weight=weight)
        left += width


def table_height(answer: Answer) -> float:
    """Return the inches that a table needs."""
    rows = {tuple(sorted(each.labels.items())) for each in answer.series}
    return TOP + _ROW * (len(rows) + 1) + _MARGIN


def columns(answer: Answer) -> list[Column]:
    """Return what a table shows, merged and named as the panel says.

    A row is what all queries returned for the same labels.
    """
    [organized] = [
        each["options"] for each in answer.panel["transformations"] if each["id"] == "organize"
    ]
    single = len(answer.panel["targets"]) == 1
    rows: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for each in answer.series:
        key = "Value" if single else f"Value #{each.query}"
        rows.setdefault(tuple(sorted(each.labels.items())), {})[key] = each.last
    keys = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    found = []
    for key in keys:
        name = organized["renameByName"].get(key, key)
        told = settings(answer.panel, name)
        cells = [_cell(key, dict(labels), values, told) for labels, values in rows.items()]
        found.append(Column(name, cells))
    return found


def _cell(
    key: str, labels: Mapping[str, str], values: Mapping[str, float], told: Mapping[str, Any]
) -> tuple[str, str]:
    if key not in values:
        return labels.get(key, ""), ""
    text, tone = shown(values[key], told)
    return text, tone if "custom.cellOptions" in told else ""


def _wrapped(text: str, width: float) -> str:
    return "\n".join(
        textwrap.wrap(text, int(width / CHARACTER) - 2, max_lines=_LINES, placeholder=" …")
    )
