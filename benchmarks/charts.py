"""Charts of the results: `python benchmarks/charts.py RESULTS SCALING FOLDER`.

It needs matplotlib from the extra `e2e`.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import matplotlib as mpl
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.results import OF_BARE

_OURS: Final = "#1b6ca8"
_OTHERS: Final = "#b8bcc2"
_BARE: Final = "bare"


def main(
    results: Annotated[Path, typer.Argument(help="JSON file of run.py.")],
    scaling: Annotated[Path, typer.Argument(help="JSON file of scaling.py.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the charts.")],
) -> None:
    """Draw `benchmark.svg` and `capacity.svg`."""
    # A fixed salt keeps the files identical for identical results; "none" keeps text as text.
    mpl.rcParams.update({"svg.hashsalt": "fleetlimit", "svg.fonttype": "none", "font.size": 9})
    _save(_comparison(_scenes(results)), folder / "benchmark.svg")
    _save(_store_cpu(_scenes(scaling)), folder / "capacity.svg")


def _scenes(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))["scenes"]
    return found


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")


def _comparison(scenes: dict[str, Any]) -> Figure:
    """Draw the throughput relative to the app without a limiter, with its range."""
    figure = Figure(figsize=(8, 4.2))
    for position, (scene, title) in enumerate(
        (("allow", "requests within the limit"), ("deny", "requests over the limit")), start=1
    ):
        axes = figure.add_subplot(1, 2, position)
        found = scenes[scene]["contenders"]
        names = [name for name in reversed(found) if name != _BARE]
        _bars(axes, names, [found[name][OF_BARE] for name in names])
        axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.set_xlabel("requests/s relative to no limiter")
    figure.tight_layout()
    return figure


def _bars(axes: Axes, names: list[str], values: list[dict[str, Any]]) -> None:
    middle = [each["median"] for each in values]
    spread = [
        [each["median"] - each["least"] for each in values],
        [each["most"] - each["median"] for each in values],
    ]
    colors = [_OURS if name.startswith("fleetlimit") else _OTHERS for name in names]
    axes.barh(names, middle, xerr=spread, color=colors, ecolor="#555555", capsize=2)
    axes.spines[["top", "right"]].set_visible(False)


def _store_cpu(scenes: dict[str, Any]) -> Figure:
    """Draw the store's CPU for a check, by the number of checks in one script call."""
    figure = Figure(figsize=(5, 3))
    axes = figure.add_subplot()
    found = scenes["store"]["contenders"]
    names = list(reversed(found))
    _bars(axes, names, [found[name]["store us/check"] for name in names])
    axes.set_xlabel("store CPU for each check, microseconds")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    typer.run(main)
