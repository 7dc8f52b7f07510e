"""Frame of a plot (panels, marks, legend) and its reproducible SVG."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import StringIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fleetlimit.core.quota import SECOND_US
from support import e2e_series as series
from support.e2e_report import Run

# Palette of Okabe and Ito, safe for colour-blind readers.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # bundled with matplotlib, which measures with it
    "font.size": 8.5,
    "grid.alpha": 0.4,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fleetlimit",
    "text.parse_math": False,
}
_METADATA: Final = ("Creator", "Date", "Format", "Type")
"""Metadata that matplotlib writes by default; without it the same run gives the same bytes."""
_FONTS: Final = "DejaVu Sans, Verdana, sans-serif"
"""Fonts of nearly equal widths, in order of preference."""
_TAG, _DECIMALS = re.compile(r"<[^>]*>"), re.compile(r"-?\d+\.\d{2,}")
_DEFAULTS: Final = re.compile(
    r" font-family: [^;\"]*;?| text-anchor: start;?| transform=\"rotate\(-0 [^\"]*\""
)
"""Attributes of text that repeat a default or the font of the whole picture."""
_COLUMNS = 5
"""Labels in a row of the legend."""
# Inches.
_WIDTH, _MARGIN, _CHARACTER, _LINE, _REST = 9.5, 0.8, 0.075, 0.18, 1.2


def style() -> AbstractContextManager[None]:
    """Return the context with the style of all figures."""
    return mpl.rc_context(_STYLE)


def frame(run: Run, title: str, heights: Sequence[float]) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its panels, one below the other; the heights are in inches."""
    [length] = seconds(run, [run.answers.end_us])
    marks = sorted(run.watch.marks, key=lambda each: each.at_us)
    at = seconds(run, [each.at_us for each in marks])
    character = _CHARACTER * length / (_WIDTH - _MARGIN)
    rows = series.rows(at, [len(each.what) * character for each in marks])
    lines = max(rows, default=-1) + 1
    top = _LINE * lines + 0.01
    figure = Figure(figsize=(_WIDTH, sum(heights) + top + _REST), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    labels, *panels = figure.subplots(1 + len(heights), sharex=True, height_ratios=[top, *heights])
    labels.set_axis_off()
    labels.set(xlim=(min([0.0, *at]), max([length, *at])), ylim=(0, lines or 1))
    for mark, x, row in zip(marks, at, rows, strict=True):
        labels.text(x, row + 0.5, f" {mark.what}", va="center")
        labels.plot([x, x], [0, row + 0.9], color=BLACK, lw=0.9, clip_on=False)
        for panel in panels:
            panel.axvline(x, color=BLACK, lw=0.9, ls=(0, (4, 2)))
    panels[-1].set_xlabel("seconds since the first request")
    panels[-1].xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10]))
    return figure, panels


def legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Draw one legend for all panels below them."""
    found: dict[str, Artist] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(list(found.values()), list(found), loc="outside lower left", ncols=_COLUMNS)


def seconds(run: Run, at: Sequence[int]) -> list[float]:
    """Return times in seconds since the first request of a run."""
    return [(each - run.answers.start_us) / SECOND_US for each in at]


def svg(figure: Figure) -> str:
    """Return a figure as SVG with text as text, coordinates rounded to a tenth of a point."""
    text = StringIO()
    with style():
        figure.savefig(text, format="svg", metadata=dict.fromkeys(_METADATA))
    tags = _TAG.sub(lambda tag: _compact(tag[0]), re.sub(r">\s+<", "><", text.getvalue()))
    return tags.replace("<svg ", f'<svg font-family="{_FONTS}" ', 1)


def _compact(tag: str) -> str:
    tag = _DECIMALS.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), tag)
    return re.sub(r"\s+", " ", _DEFAULTS.sub("", tag))
