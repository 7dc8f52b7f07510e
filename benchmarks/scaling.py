"""Growth of cost with processes, principals, limits and load, to size pods and stores.

`python benchmarks/scaling.py` measures every scene; `--short` is a smoke test.
"""

from pathlib import Path
from typing import Annotated

import typer

from harness.effort import SHORT, Effort
from harness.growth import GROWTH
from harness.report import measure


def main(
    scenes: Annotated[
        list[str] | None,
        typer.Argument(help=f"Scenes to measure, of {', '.join(GROWTH)}; all by default."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each scene.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of a turn.")] = 3.0,
    short: Annotated[bool, typer.Option("--short", help="Smoke test.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="File for all results; scenes from an earlier run stay in it."),
    ] = None,
) -> None:
    """Measure scenes and print tables."""
    measure(GROWTH, scenes, SHORT if short else Effort(rounds, seconds), json)


if __name__ == "__main__":
    typer.run(main)
