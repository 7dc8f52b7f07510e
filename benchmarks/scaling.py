"""Measures how cost grows, for those who size pods and stores.

`python benchmarks/scaling.py --json FILE`; `--short` only tries whether it works.
"""

from pathlib import Path
from typing import Annotated

import typer

from harness.effort import SHORT, Effort
from harness.growth import GROWTH
from harness.report import measure


def main(
    scenes: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(GROWTH)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each scene.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each figure.")] = 3.0,
    short: Annotated[bool, typer.Option("--short", help="Try only whether it works.")] = False,
    json: Annotated[Path | None, typer.Option(help="Keep the results in this file.")] = None,
) -> None:
    """Measure scenes, print tables, and keep the results."""
    measure(GROWTH, scenes, SHORT if short else Effort(rounds, seconds), json)


if __name__ == "__main__":
    typer.run(main)
