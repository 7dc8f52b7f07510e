"""Draws the graphs of a board over time: lines, heatmaps and states."""

import math
from itertools import groupby, pairwise
from typing import Final

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from support.e2e_view_data import Answer
from support.e2e_view_frame import Scene, inches, legend, short
from support.e2e_view_words import GREY, color, number, rate, scale, settings, shown

_LABELS = 7
"""At most this many on the axis of a heatmap."""
_ROWS, _ROW_SIZE, _NAME_SIZE = 20, 90, 7.5
"""At most this many states, as Grafana shows at once; points of all their names; of one at most."""
_EXPONENT = 0.5
"""Of a heatmap's colours, as on the boards, so that what is rare is seen."""
_NOTHING: Final = 1e-9


def lines(scene: Scene, box: Axes, answer: Answer) -> None:
    """Draw a line for each series, on the ones before where the panel stacks."""
    names = [each.name for each in answer.series]
    told_of = {name: settings(answer.panel, name) for name in names}
    fixed = {name: told["color"].get("fixedColor") for name, told in told_of.items()}
    tones = scene.tones(names, {name: color(tone) for name, tone in fixed.items() if tone})
    plot = scene.plot(box, names)
    low, highest = [0.0] * len(scene.span.at), 0.0
    for series in answer.series:
        told, tone, values = told_of[series.name], tones[series.name], series.values
        if told.get("custom.stacking", {}).get("mode") == "normal":
            values = [
                base + (0 if math.isnan(value) else value)
                for base, value in zip(low, values, strict=True)
            ]
            filled = {"color": tone, "alpha": told["custom.fillOpacity"] / 100, "lw": 0}
            plot.fill_between(scene.span.at, low, values, **filled)
            low = values
        style = "--" if told.get("custom.lineStyle", {}).get("fill") == "dash" else "-"
        plot.plot(scene.span.at, values, style, color=tone, label=series.name, lw=1.3)
        highest = max(highest, *(value for value in values if not math.isnan(value)), 0)
    unit = answer.panel["fieldConfig"]["defaults"]["unit"]
    top = 1.1 * highest or 1
    size, _ = scale(top, unit)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, top / size)
    at = [each * size for each in ticks if each * size <= top]
    plot.set_ylim(-0.03 * top, top)
    plot.set_yticks(at, [number(each, unit) for each in at])
    box.text(inches(box)[0] - 0.15, 0.16, rate(unit), color=GREY, ha="right", va="center")
    legend(box, *plot.get_legend_handles_labels())


def heatmap(scene: Scene, box: Axes, answer: Answer) -> None:
    """Draw how many were in each bucket, from the lowest to the highest one that was used."""
    buckets = sorted(answer.series, key=lambda each: float(each.labels["le"]))
    counts = [[0.0] * len(scene.span.at), *(each.values for each in buckets)]
    cells = [[high - low for low, high in zip(*pair, strict=True)] for pair in pairwise(counts)]
    used = [at for at, row in enumerate(cells) if any(value > _NOTHING for value in row)]
    first, end = min(used, default=0), max(used, default=0) + 1
    plot = scene.plot(box, [])
    plot.imshow(
        [
            [value**_EXPONENT if value > _NOTHING else math.nan for value in row]
            for row in cells[first:end]
        ],
        aspect="auto",
        cmap="Oranges",
        extent=(0, scene.span.at[-1], first, end),
        interpolation="nearest",
        origin="lower",
        vmin=0,
    )
    unit = answer.panel["fieldConfig"]["defaults"]["unit"]
    at = range(first + 1, end + 1, math.ceil((end - first) / _LABELS))
    plot.set_yticks(at, [number(float(buckets[each - 1].labels["le"]), unit) for each in at])
    plot.grid(visible=False)


def states(scene: Scene, box: Axes, answer: Answer) -> None:
    """Draw the words in place of each series' values, in a row of their own."""
    told = settings(answer.panel, "")
    rows = answer.series[:_ROWS]
    words = dict(shown(value, told) for each in rows for value in each.values)
    size = min(_NAME_SIZE, _ROW_SIZE / len(rows))
    plot = scene.plot(box, list(words))
    for row, series in enumerate(rows):
        points = zip(scene.span.at, series.values, strict=True)
        for (_, tone), group in groupby(points, lambda each: shown(each[1], told)):
            at = [each[0] for each in group]
            length = at[-1] - at[0] + scene.span.step
            plot.broken_barh([(at[0], length)], (row - 0.4, 0.8), color=tone, lw=0, alpha=0.6)
        plot.text(scene.span.step, row, short(series.name), va="center", size=size)
    plot.set_ylim(len(rows) - 0.4, -0.6)
    plot.set_yticks(())
    plot.grid(visible=False)
    legend(box, [Patch(color=tone, alpha=0.6) for tone in words.values()], list(words))
