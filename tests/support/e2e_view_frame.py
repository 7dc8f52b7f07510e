"""What the panels of a board share: boxes measured in inches, time, marks, colours and legends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from support.e2e_figure import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from support.e2e_view_data import Span
from support.e2e_view_moments import Moment
from support.e2e_view_words import color

CHARACTER, TOP = 0.068, 0.32
"""Of a character the width, of a panel's title the height."""
_LEFT, _RIGHT, _AXIS, _LINE, _SMALL = 0.62, 0.15, 0.22, 0.145, 0.061
"""What is beside a plot, below it for its axis and each line of its legend; a small character."""
_HANDLE = 6
"""Of a legend's sign and the space around it, in characters."""
_LONGEST, _MOST_LINES = 32, 4
"""Of a name in a legend the characters, of a legend the lines."""
_PALETTE: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, BLACK, YELLOW)
_TICKS: Final = (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_MOST_TICKS = 7
_ABOVE = 3
"""In front of all that is drawn."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the graphs of one board share.

    Args:
        span: The time that is shown.
        moments: What is marked.
        colors: Of each name that was drawn, so that it has the same one in all graphs.
    """

    span: Span
    moments: Sequence[Moment]
    colors: dict[str, str] = field(default_factory=dict)

    def plot(self, box: Axes, names: Sequence[str]) -> Axes:
        """Return a plot over time with its marks, and with room for a legend of these names."""
        width, height = inches(box)
        bottom = _AXIS + _LINE * min(_MOST_LINES, math.ceil(len(names) / _columns(width, names)))
        across, up = 1 - (_LEFT + _RIGHT) / width, 1 - (TOP + bottom) / height
        plot = box.inset_axes((_LEFT / width, bottom / height, across, up))
        plot.set_xlim(0, self.span.at[-1])
        few = (each for each in _TICKS if self.span.seconds <= _MOST_TICKS * each)
        plot.xaxis.set_major_locator(MultipleLocator(next(few, _TICKS[-1])))
        plot.xaxis.set_major_formatter(lambda at, _: f"{at // 60:.0f}:{at % 60:02.0f}")
        plot.tick_params(labelsize=7.5, left=False, bottom=False, pad=3)
        for moment in self.moments:
            for start, end in moment.times:
                plot.axvspan(start, end, color=color(moment.color), alpha=0.1, lw=0)
                plot.axvline(
                    start, zorder=_ABOVE, color=color(moment.color), lw=0.9, ls=(0, (3, 2))
                )
        return plot

    def tones(self, names: Sequence[str], fixed: Mapping[str, str]) -> Mapping[str, str]:
        """Return a colour for each name: the one it had before, if no other has it here.

        What is permitted has the colour of what it is permitted to.

        Args:
            names: What is drawn in one graph.
            fixed: The colours that some of them have anyway.
        """
        found = dict(fixed)
        for name in names:
            whose = next((each for each in names if name.startswith(f"{each} ")), name)
            if whose not in found:
                free = [each for each in _PALETTE if each not in found.values()]
                usual = self.colors.get(whose)
                next_one = free[0] if free else _PALETTE[len(found) % len(_PALETTE)]
                found[whose] = usual if usual in free else next_one
                self.colors.setdefault(whose, found[whose])
            found.setdefault(name, found[whose])
        return found


def box_of(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return a part of a figure that is measured in inches from its upper left corner."""
    wide, high = figure.get_size_inches()
    room = (left / wide, 1 - (top + height) / high, width / wide, height / high)
    box = figure.add_axes(room, xlim=(0, width), ylim=(height, 0), xticks=(), yticks=())
    box.spines[:].set_visible(False)
    box.patch.set_visible(False)
    return box


def inches(box: Axes) -> tuple[float, float]:
    """Return the width and the height of a box."""
    return box.get_xlim()[1], box.get_ylim()[0]


def legend(box: Axes, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Say at the bottom of a box what is drawn how, as far as there is room."""
    width, height = inches(box)
    columns = _columns(width, names)
    room = columns * _MOST_LINES
    told = [short(name) for name in names[:room]]
    if len(names) > room:
        told[-1] = f"and {len(names) - room + 1} more"
    box.legend(
        handles[:room],
        told,
        loc="lower left",
        bbox_to_anchor=(_LEFT, height),
        bbox_transform=box.transData,
        ncols=columns,
        borderaxespad=0.2,
        borderpad=0,
        columnspacing=1.2,
        fontsize=7.5,
        handlelength=1.4,
        handletextpad=0.4,
        labelspacing=0.2,
    )


def short(name: str) -> str:
    """Return a name that is not too long for a legend."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _columns(width: float, names: Sequence[str]) -> int:
    longest = max((len(short(name)) for name in names), default=0) + _HANDLE
    return max(1, int((width - _LEFT) / (longest * _SMALL)))
