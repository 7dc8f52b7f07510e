"""Instructions of one check that is alone: `python benchmarks/instructions.py`, with valgrind.

A count of instructions is the same on a busy machine, where times differ by more than the parts of
a check take. It is no time: it has neither the kernel's work nor that of waiting for memory. The
difference between two runs, one with more checks than the other, leaves out the start.
"""

import os
import re
import shutil
import subprocess
from typing import Annotated, Final

import typer

from fleetlimit.stores.embedded import EmbeddedValkey
from harness.environments import python_of
from harness.lineup import CHECK, FLOOR, PEERS, RAW, Contender, compiled
from harness.server import BENCHMARKS

_COLLECTED: Final = re.compile(r"Collected : (\d+)")


def main(
    checks: Annotated[int, typer.Option(min=1, help="Checks that are counted.")] = 3_000,
    peers: Annotated[bool, typer.Option(help="Count the peers' checks too.")] = True,
) -> None:
    """Print the instructions of a check, and those above the raw connection's."""
    if shutil.which("valgrind") is None:
        raise typer.BadParameter("there is no valgrind: install the package of that name")
    contenders = (RAW, FLOOR, CHECK, compiled(CHECK), *(PEERS if peers else ()))
    raw = 0
    with EmbeddedValkey() as server:
        for each in contenders:
            # At the same time: the runs take twenty seconds.
            few, many = [_start(each, server.url, number) for number in (0, checks)]
            count = round((_instructions(many) - _instructions(few)) / checks)
            raw = raw or count
            typer.echo(f"{each.name:24}{count:>10,}{count - raw:>10,}")


def _start(contender: Contender, store: str, checks: int) -> subprocess.Popen[str]:
    """Start a process that makes checks, and counts its instructions."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    module = f"contenders.{contender.module}"
    command += [python_of(contender), "-m", "harness.counted_checks", module, str(checks)]
    # Everything takes fifty times as long, and timeouts must not end it.
    variables = {"BENCH_STORE": store, "PYTHONPATH": str(BENCHMARKS), "PYTHONHASHSEED": "0"}
    variables |= {"BENCH_LIMIT": "10000000", "FLEETLIMIT_STORE_TIMEOUT": "60"}
    return subprocess.Popen(  # noqa: S603 - our own command
        command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
    )


def _instructions(process: subprocess.Popen[str]) -> int:
    """Return the instructions of a process that makes checks.

    Raises:
        RuntimeError: The process failed.
    """
    _, errors = process.communicate()
    collected = _COLLECTED.search(errors)
    if process.returncode or collected is None:
        raise RuntimeError(f"a process failed: {errors[-2_000:]}")
    return int(collected[1])


if __name__ == "__main__":
    typer.run(main)
