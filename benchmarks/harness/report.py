"""Shows results as tables, and keeps them as JSON."""

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from harness.cores import OTHERS, SERVER, pin
from harness.effort import Effort
from harness.results import Scene
from harness.store import Store, running
from harness.targets import TARGETS

_WIDTH = 190
_PACKAGES = ("fleetlimit", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "redis")


def measure(
    scenes: Mapping[str, Callable[[Store, Effort], Scene]],
    chosen: list[str] | None,
    effort: Effort,
    path: Path | None,
) -> None:
    """Measure scenes, print tables and targets, and keep the results.

    Args:
        scenes: All that there are.
        chosen: Which of them; all when left out.
        effort: How much is done.
        path: Where the results are kept; None for nowhere.
    """
    unknown = set(chosen or ()) - set(scenes)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: write {', '.join(scenes)}")
    console = Console()
    # Narrow terminals and files get whole tables all the same.
    console.width = max(console.width, _WIDTH)
    pin(0, OTHERS)
    found: dict[str, Scene] = {}
    with running() as store:
        for name in chosen or scenes:
            found[name] = scenes[name](store, effort)
            show(found[name], console)
            if path is not None:
                write(found, path)
    show_targets(found, console)


def show(scene: Scene, console: Console) -> None:
    """Print one scene: medians, with least and most where they differ."""
    table = Table(title=scene.title, title_justify="left")
    table.add_column("contender")
    summary = scene.summary()
    for figure in scene.figures():
        table.add_column(figure, justify="right")
    for contender, figures in summary.items():
        cells = [_cell(figures.get(figure)) for figure in scene.figures()]
        table.add_row(contender, *cells)
    console.print(table)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    middle = _number(found["median"])
    if found["least"] == found["most"]:
        return middle
    return f"{middle} ({_number(found['least'])}-{_number(found['most'])})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - readable


def show_targets(scenes: Mapping[str, Scene], console: Console) -> None:
    """Print what was reached of what was to be reached."""
    table = Table(title="Targets", title_justify="left")
    for column in ("what", "measured", "bound", ""):
        table.add_column(column, justify="left" if column in {"what", ""} else "right")
    for target in TARGETS:
        found = target.found(scenes)
        if found is not None:
            bound = f"{'at most' if target.most else 'at least'} {target.bound:g}"
            table.add_row(
                target.what, f"{found:.3g}", bound, "met" if target.met(found) else "missed"
            )
    if table.row_count:
        console.print(table)


def write(scenes: Mapping[str, Scene], path: Path) -> None:
    """Keep everything in a file; scenes that are there from another run stay."""
    kept = json.loads(path.read_text("utf-8"))["scenes"] if path.exists() else {}
    found = {
        "machine": {
            "cores": len(SERVER | OTHERS),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in _PACKAGES},
        },
        "scenes": {
            **kept,
            **{
                name: {"title": scene.title, "contenders": scene.summary()}
                for name, scene in scenes.items()
            },
        },
    }
    path.write_text(json.dumps(found, indent=1), "utf-8")
