"""Measures what Fleetlimit costs, beside no limiter, one bare round trip, and its peers.

`python benchmarks/run.py` measures everything, `--short` only tries whether it works. It needs
`pip install '.[demo]'`; the environments of the peers and of the
compiled wheel are made by itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from harness.effort import SHORT, Effort
from harness.environments import python_of
from harness.lineup import CHECK, PEERS, Company
from harness.report import measure
from harness.results import Scene
from harness.scenes import SCENES, Measured
from harness.store import Store


def main(
    scenes: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(SCENES)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each turn.")] = 4.0,
    peers: Annotated[bool, typer.Option(help="Measure the peers as well.")] = True,
    compiled: Annotated[
        bool, typer.Option(help="Measure the compiled wheel as well, which takes a C compiler.")
    ] = True,
    short: Annotated[bool, typer.Option("--short", help="Try only whether it works.")] = False,
    json: Annotated[Path | None, typer.Option(help="Keep the results in this file.")] = None,
) -> None:
    """Measure scenes, print tables, and keep the results."""
    company = Company(PEERS if peers else (), compiled)
    for each in (*company.peers, *company.ours(CHECK)):
        python_of(each)

    def in_company(scene: Measured) -> Callable[[Store, Effort], Scene]:
        return lambda store, effort: scene(store, effort, company)

    bound = {name: in_company(scene) for name, scene in SCENES.items()}
    measure(bound, scenes, SHORT if short else Effort(rounds, seconds), json)


if __name__ == "__main__":
    typer.run(main)
