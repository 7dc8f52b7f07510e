"""Summary of the results: `python benchmarks/summary.py RESULTS SCALING FILE`.

The repository keeps this summary instead of the JSON files, which have thousands of lines.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from harness.report import cell

_LEFT_OUT: Final = frozenset({"denied", "script us/request", "load busy"})
"""Figures that no page of the documentation uses."""


def main(
    results: Annotated[Path, typer.Argument(help="JSON file of run.py.")],
    scaling: Annotated[Path, typer.Argument(help="JSON file of scaling.py.")],
    file: Annotated[Path, typer.Argument(help="Markdown file to write.")],
) -> None:
    """Write the medians of both files as Markdown tables."""
    runs = [json.loads(path.read_text("utf-8")) for path in (results, scaling)]
    file.write_text("\n".join(summarize(runs)) + "\n", "utf-8")


def summarize(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the summary.

    Args:
        runs: Contents of the JSON files.
    """
    machine = runs[0]["machine"]
    scenes = {name: scene for run in runs for name, scene in run["scenes"].items()}
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield "# Results"
    yield ""
    yield "Medians of the rounds, with the lowest and the highest round in parentheses."
    yield "[The benchmarks' page](../README.md) describes scenes and figures."
    yield ""
    yield f"- CPU: {machine['cpu']}, {machine['cores']} cores"
    yield f"- Python {machine['python']}; {packages}"
    for command in dict.fromkeys(scene["command"] for scene in scenes.values()):
        chosen = [name for name, scene in scenes.items() if scene["command"] == command]
        dates = ", ".join(dict.fromkeys(scenes[name]["date"] for name in chosen))
        yield f"- {dates}, `{command}`: {', '.join(chosen)}"
    for name, scene in scenes.items():
        yield ""
        yield f"## {name}: {scene['title']}"
        yield ""
        yield from _table(scene["contenders"])


def _table(contenders: dict[str, Any]) -> Iterator[str]:
    every = dict.fromkeys(figure for figures in contenders.values() for figure in figures)
    shown = [figure for figure in every if figure not in _LEFT_OUT]
    yield f"| | rounds | {' | '.join(shown)} |"
    yield f"|---|---|{'---|' * len(shown)}"
    for name, figures in contenders.items():
        rounds = max(len(figure["rounds"]) for figure in figures.values())
        cells = " | ".join(cell(figures.get(figure)) for figure in shown)
        yield f"| {name} | {rounds} | {cells} |"


if __name__ == "__main__":
    typer.run(main)
