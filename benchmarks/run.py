"""Cost of Fleetlimit compared with no limiter, with one store round trip and with other limiters.

`python benchmarks/run.py` measures every scene; `--short` is a smoke test. It needs
`pip install '.[demo,otel]'`, and creates the environments of the peers and of the compiled wheel.
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
from harness.scenes import SCENES, Measure
from harness.store import Store


def main(
    scenes: Annotated[
        list[str] | None,
        typer.Argument(help=f"Scenes to measure, of {', '.join(SCENES)}; all by default."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds, each with one turn of every contender.")
    ] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of a turn.")] = 4.0,
    peers: Annotated[bool, typer.Option(help="Measure the peers too.")] = True,
    compiled: Annotated[
        bool, typer.Option(help="Measure the compiled wheel too. It needs a C compiler.")
    ] = True,
    short: Annotated[bool, typer.Option("--short", help="Smoke test.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="File for all results; scenes from an earlier run stay in it."),
    ] = None,
) -> None:
    """Measure scenes and print tables."""
    company = Company(PEERS if peers else (), compiled)
    for each in (*company.peers, *company.ours(CHECK)):
        python_of(each)

    def in_company(scene: Measure) -> Callable[[Store, Effort], Scene]:
        return lambda store, effort: scene(store, effort, company)

    bound = {name: in_company(scene) for name, scene in SCENES.items()}
    measure(bound, scenes, SHORT if short else Effort(rounds, seconds), json)


if __name__ == "__main__":
    typer.run(main)
